"""Values that have more digits than float32: integers, 64-bit types, numbers of the host."""

import decimal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from tests.support import modes
from tests.support.oracles import public_reducers


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
@pytest.mark.parametrize("largest", [4095, 2**31 - 1])
def test_large_arrays_of_integers_are_summed_exactly(dtype, largest):
    """However many there are and wherever 32 bits overflow: not one unit is lost below 2^48."""
    lowest = -largest if dtype is np.int32 else 0
    values = np.random.default_rng(0).integers(lowest, largest, 100_003, endpoint=True).astype(dtype)
    for array in (values, np.full(70_001, largest, dtype)):
        parts = jax.jit(sowlog.sum.of)(array).parts
        assert int(parts.hi) + int(parts.lo) == int(array.sum(dtype=np.int64))


def test_the_std_of_integers_has_the_digits_that_cancel():
    """Around 2^30 float32 distinguishes only every 64th integer; their deviations are small numbers."""
    values = np.array([2**30 - 1, 2**30 + 1, 2**30 + 3], np.int32)
    assert float(sowlog.std.of(values).compute()) == pytest.approx(np.std(values), rel=1e-6)


HUGE = [2**33, np.int64(2**33), np.uint64(2**33), np.array([2**33 - 1, 1])]
HUGE_SEQUENCES = [[2**33 - 2, 2], (1, np.int64(2**33)), [[2**33], [jnp.ones((), jnp.int32)]]]


@modes.wide
@modes.promoting
@pytest.mark.parametrize("large", HUGE_SEQUENCES)
def test_integers_in_sequences_are_not_wrapped(large):
    """The elements of a list have their own dtypes."""
    assert float(sowlog.sum.of(large).compute()) == 2.0**33


@pytest.mark.parametrize("large", HUGE)
def test_integers_of_the_host_that_jax_has_no_room_for_are_not_wrapped(large):
    """Without 64-bit types JAX would keep the lower 32 bits of a NumPy int64, and so make 2^33 a 0."""
    assert float(sowlog.sum.of(large).compute()) == 2.0**33
    assert max(sowlog.compute({"tokens": large}).values()) == 2.0**33


@pytest.mark.parametrize("large", [2**70, [2**70, -1], np.uint64(2**64 - 1)])
def test_integers_beyond_64_bits_are_sown(large):
    """In float32, as any number that large."""
    assert float(sowlog.max.of(large).compute()) == np.float32(np.max(np.asarray(large, np.float64)))


NO_VALUES = {
    "a string": ("high", TypeError, "a value must be a real number or an array of them, got str 'high'"),
    "an integer of 1329 bits": (10**400, TypeError, r"got int 1000000000.* \.\.\.\."),
    "a list with a None": ([1.0, None], TypeError, r"got list \[1.0, None\]"),
    "a Decimal": (decimal.Decimal(2), TypeError, r"got Decimal Decimal\('2'\)\. Write float\(...\) of it"),
    "a set": ({1}, TypeError, r"got set \{1\}"),
    "a key": (jax.random.key(0), TypeError, "the value has dtype key<fry>: a value must be a real number"),
    "a complex number": (1j, TypeError, r"a value must be real, got complex\d+: sow jnp.abs\(x\)"),
    "objects": (
        np.array([1, None]),
        TypeError,
        r"a value must be a real number.*got ndarray array",
    ),
    "a masked array": (np.ma.array([1.0], mask=[1]), TypeError, r"the value is a masked array.*getmaskarray"),
    "a list of masked arrays": ([np.ma.array([1.0], mask=[1])] * 2, TypeError, "the value is a masked array"),
    "a duration": (np.timedelta64(5, "s"), TypeError, r"got timedelta64"),
    "a state of another reducer": (
        sowlog.sum.of(1.0),
        TypeError,
        r"^a (state of sum was passed as a value of mean|weight must be a real number.*got State)",
    ),
}


@pytest.mark.parametrize("case", NO_VALUES)
def test_what_cannot_be_sown_is_named(case):
    """The error has the type, the value and a remedy; from reduce_fn, in a weight and in a module, too."""
    value, error, message = NO_VALUES[case]

    class Sower(nn.Module):
        def __call__(self):
            sowlog.sow(self, "x", value)

    with pytest.raises(error, match=message):
        sowlog.mean.of(value)
    with pytest.raises(error, match=message):
        sowlog.mean.reduce_fn(sowlog.mean.init_fn(), value)
    with pytest.raises(error, match=message.replace("value", "weight")):
        sowlog.mean.of(1.0, weight=value)
    with pytest.raises(error, match=message) as raised:
        sowlog.collect(Sower().apply)({})
    assert "while sowing x (in Sower)" in raised.value.__notes__


def test_a_deleted_value_is_named():
    """The error for a donated array names the donation."""
    value = jnp.ones(3)
    value.delete()
    with pytest.raises(RuntimeError, match=r"the value is an array that was deleted.*donate_argnums"):
        sowlog.mean.of(value)


@modes.infinite
def test_states_are_float32_where_jax_has_64_bits():
    """With 64-bit types a float64 value or weight leaves the structure as it is, and infinities infinite."""
    with jax.enable_x64(True):
        values, weights = jnp.array([1.0, np.inf, 2.0]), jnp.array([0.5, 0.0, 2.0])
        for name, reducer in public_reducers().items():
            state = reducer.of(values, weights)
            dtypes = [leaf.dtype for leaf in jax.tree.leaves(state)]
            assert dtypes == [leaf.dtype for leaf in jax.tree.leaves(reducer.init_fn())], name
        assert float(sowlog.sum.of(values).compute()) == np.inf
        parts = sowlog.sum.of(jnp.array([2**40 + 1, 5])).parts
        assert int(parts.hi) + int(parts.lo) == 2**40 + 6


def test_a_mask_of_bools_is_counted_exactly():
    """A mask of more than 2^24 elements has its exact weight, which a sum of float32 ones would round."""
    mask = jnp.ones(2**24 + 3, jnp.bool_)
    weight = jax.jit(lambda mask: sowlog.mean.of(mask, weight=mask))(mask).parts["weight"]
    assert int(weight.hi) + int(weight.lo) == 2**24 + 3


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.int8, jnp.uint8])
@pytest.mark.parametrize("weight_dtype", [None, jnp.bool_, jnp.int8])
def test_flags_and_small_integers_are_summed_exactly(dtype, weight_dtype):
    """2^24 + 5 ones in one array sum to 2^24 + 5, weighted or not, and their mean is 1."""
    count = 2**24 + 5
    ones = jnp.ones(count, dtype)
    weights = () if weight_dtype is None else (jnp.ones(count, weight_dtype),)
    total, mean = jax.jit(lambda *operands: (sowlog.sum.of(*operands), sowlog.mean.of(*operands)))(
        ones, *weights
    )
    for pair in (total.parts, mean.parts["total"], mean.parts["weight"]):
        assert int(pair.hi) + int(pair.lo) == count
    assert float(mean.compute()) == 1.0


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.uint16])
def test_small_integers_do_not_wrap(dtype):
    """The extremes of a dtype sum to more than int32 holds, alone and under a weight."""
    for extreme in (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max):
        count = 2**31 // (abs(int(extreme)) or 2**16) + 7
        values = jnp.full(count, extreme, dtype)
        parts = sowlog.sum.of(values).parts
        assert int(parts.hi) + int(parts.lo) == count * int(extreme)
        parts = sowlog.sum.of(values[:9], weight=jnp.full(9, 100, jnp.int8)).parts
        assert int(parts.hi) + int(parts.lo) == 900 * int(extreme)


@modes.promoting
def test_a_reducer_of_a_user_gets_flags_and_small_integers_as_float32():
    """Arithmetic on int8 would wrap, and a bool has none."""
    dtypes = []

    def add(total, value):
        dtypes.append(value.dtype)
        return total + jnp.sum(value)

    reducer = sowlog.Reducer.build(
        init=lambda: jnp.zeros(()), add=add, merge=jnp.add, compute=lambda total: total
    )
    for dtype in (jnp.bool_, jnp.int8, jnp.uint16, jnp.int32):
        assert float(reducer.of(jnp.ones(200, dtype)).compute()) == 200.0
    assert dtypes == [jnp.float32, jnp.float32, jnp.float32, jnp.int32]


@pytest.mark.parametrize("percents", [(50, 50.0), (99, 99.9999999, 99.99999999)])
def test_two_quantiles_of_one_name_are_refused(percents):
    """One would stand in the other's place."""
    with pytest.raises(ValueError, match=r"two results named p(50|100): leave one of them out"):
        sowlog.quantiles(percents=percents)


@modes.infinite
def test_a_large_float64_is_finite():
    """With 64-bit types on, a number beyond float32's range is not infinite."""
    with jax.enable_x64(True):
        count = sowlog.nonfinite.of(jnp.array([1e300, np.inf, np.nan]))
    assert float(count.compute()) == 2.0
