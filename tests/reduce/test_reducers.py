"""The laws of reducers, for every public one, against float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import sowlog
from tests.support import modes
from tests.support.oracles import (
    DISTRIBUTIONS,
    ORACLES,
    expected,
    public_reducers,
    scalar_reducers,
    tolerance,
)

REDUCERS = scalar_reducers()
each_reducer = pytest.mark.parametrize("name", sorted(REDUCERS))

# Few shapes: each costs a compilation.
_shapes = st.sampled_from([(), (1,), (7,), (3, 2)])
_numbers = st.floats(-1e4, 1e4, width=16).map(lambda x: x + 0.0)
_arrays = _shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=_numbers))


@functools.cache
def _jitted(reducer):
    return jax.jit(reducer.reduce_fn)


def _accumulate(reducer, values, weights=None):
    state = reducer.init_fn()
    for index, value in enumerate(values):
        sown = value if weights is None else sowlog.weighted(value, weights[index])
        state = _jitted(reducer)(state, sown)
    return state


def test_every_public_reducer_has_an_oracle():
    """A new public reducer cannot slip past the laws: it needs an oracle here."""
    assert set(public_reducers()) == set(ORACLES) | DISTRIBUTIONS


@each_reducer
@given(values=st.lists(_arrays, min_size=1, max_size=4))
def test_values_in_several_calls_give_the_oracles_number(name, values):
    """Several calls accumulate NumPy's float64 result over all values."""
    result = float(_accumulate(REDUCERS[name], values).compute())
    assert result == pytest.approx(expected(name, values), rel=1e-6, abs=tolerance(name, values) or 1e-12)


@modes.infinite
@each_reducer
@given(data=st.data())
def test_weights_count_by_element(name, data):
    """A weight per element weighs that element, and an element of weight 0 does not count at all."""
    values = data.draw(st.lists(_arrays, min_size=1, max_size=3))
    weights = [
        data.draw(hnp.arrays(np.float32, value.shape, elements=st.sampled_from([0.0, 1.0, 0.5, 2.0])))
        for value in values
    ]
    state = _accumulate(REDUCERS[name], values, weights)
    assert bool(state.seen) == any(np.any(weight) for weight in weights)
    if state.seen:
        wanted = expected(name, values, weights)
        assert float(state.compute()) == pytest.approx(wanted, rel=1e-6, abs=tolerance(name, values) or 1e-12)


@each_reducer
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int8", "int32", "uint32", "bool"])
def test_every_real_dtype_accumulates_in_float32_or_wider(name, dtype):
    """In every dtype 600 ones are 600 ones: a sum in bfloat16 would stop at 256."""
    reducer = REDUCERS[name]
    ones = jnp.ones(600, dtype)
    state, _ = jax.lax.scan(lambda s, x: (reducer.reduce_fn(s, x), None), reducer.init_fn(), ones)
    assert float(state.compute()) == expected(name, [np.ones(600)])
    assert all(leaf.dtype.itemsize >= 4 for leaf in jax.tree.leaves(state.parts))


@each_reducer
def test_ten_million_bfloat16_values_err_by_less_than_a_millionth(name):
    """After 10^7 accumulations of bfloat16 values with mean -50 the relative error is at most 1e-6."""
    reducer = REDUCERS[name]
    block = np.random.default_rng(0).normal(-50.0, 3.0, 10_000)
    values = jnp.asarray(block, jnp.bfloat16)

    @jax.jit
    def accumulate(values):
        def one(index, state):
            return reducer.reduce_fn(state, values[index % values.size])

        return jax.lax.fori_loop(0, 10_000_000, one, reducer.init_fn())

    exact = np.asarray(values.astype(jnp.float32), np.float64)
    wanted = expected(name, [np.tile(exact, 1000)])
    assert float(accumulate(values).compute()) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", ["mean", "nonfinite"])
def test_counts_are_exact_beyond_float32(name):
    """Counts of 2^40 and more are exact: 2^40 + 3 elements differ from 2^40."""
    reducer = REDUCERS[name]
    state = reducer.of(np.nan)
    start = state
    for _ in range(40):
        state = state.merge(state)
    for _ in range(3):
        state = state.merge(start)
    pair = state.parts["weight"] if name == "mean" else state.parts
    assert int(pair.hi) + int(pair.lo) == 2**40 + 3


def test_integers_are_summed_exactly():
    """A sum of 32-bit integers keeps the digits that float32 has no room for."""
    state = sowlog.sum.of(jnp.array([2**24 + 1, 2**30 + 1, -(2**24)], jnp.int32))
    assert int(state.parts.hi) + int(state.parts.lo) == 2**30 + 2


@pytest.mark.parametrize("magnitude", [1e-30, 1e-19, 1e19, 1e30])
@pytest.mark.parametrize("name", ["rms", "std"])
def test_squares_neither_overflow_nor_vanish(name, magnitude):
    """Values whose squares float32 cannot hold have their rms and std all the same."""
    values = [np.array([1.0, -2.0, 4.0], np.float32) * np.float32(magnitude), np.float32(magnitude) * 3]
    assert float(_accumulate(REDUCERS[name], values).compute()) == pytest.approx(
        expected(name, values), rel=1e-6
    )


@pytest.mark.parametrize("offset", [1e4, 1e5, 1e7])
def test_a_distant_mean_costs_the_std_no_digits(offset):
    """The std of values around 10^4 and more is accurate, where E[x^2] - E[x]^2 is 0."""
    values = [np.float32(offset) + np.array([-1.0, 1.0, 1.0, -1.0], np.float32) for _ in range(5)]
    assert float(_accumulate(sowlog.std, values).compute()) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((10**6, 8), 0), ((8, 10**6), 1), ((10**7,), None), ((100, 1000, 30), (0, 2)), ((16, 50, 300), None)],
)
def test_a_large_value_is_summed_within_a_millionth(shape, axis):
    """One sown array is summed by XLA's tree: good to 1e-6 whichever axes are reduced."""
    values = np.full(shape, 0.1, np.float32)
    state = jax.jit(sowlog.sum(axis=axis).of)(values)
    np.testing.assert_allclose(state.compute(), np.sum(values, axis, dtype=np.float64), rtol=1e-6)


@each_reducer
def test_absent_is_not_nan(name):
    """An empty state differs from the state of a NaN."""
    reducer = REDUCERS[name]
    assert not reducer.init_fn().seen
    assert np.isnan(reducer.init_fn().compute())
    assert not reducer.of(jnp.ones(3), weight=0.0).seen
    assert not reducer.of(jnp.ones((0,))).seen
    sown = reducer.of(jnp.nan)
    assert sown.seen
    assert float(sown.compute()) == 1.0 if name == "nonfinite" else np.isnan(sown.compute())


@modes.infinite
@each_reducer
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_are_shown_as_numpy_would(name, bad):
    """NaN and Inf reach the result as in NumPy; they do not become another number."""
    values = [np.float32(1.0), np.float32(bad), np.float32(2.0)]
    with np.errstate(invalid="ignore"):
        wanted = expected(name, values)
    np.testing.assert_equal(float(_accumulate(REDUCERS[name], values).compute()), wanted)


@each_reducer
def test_masked_elements_do_not_count_even_if_nan(name):
    """Padding that holds NaN and has weight 0 leaves no trace."""
    value = np.array([1.0, np.nan, 3.0], np.float32)
    mask = np.array([True, False, True])
    wanted = expected(name, [np.array([1.0, 3.0])])
    assert float(REDUCERS[name].of(value, weight=mask).compute()) == pytest.approx(wanted)


def test_masked_integers_are_summed_exactly():
    """A mask of any integer dtype costs the sum of integers none of its digits."""
    value = jnp.array([2**24 + 1, 2**30 + 1, 5], jnp.int32)
    for dtype in (jnp.bool_, jnp.int32, jnp.uint32):
        state = sowlog.sum.of(value, weight=jnp.array([1, 1, 0], dtype))
        assert int(state.parts.hi) + int(state.parts.lo) == 2**30 + 2**24 + 2


@functools.cache
def _mapped(reducer):
    def replica(value, weight):
        halves = [reducer.of(value[part], weight[part]) for part in (slice(3), slice(3, None))]
        return sowlog.all_reduce({"x": halves[0].merge(halves[1])}, "replica")["x"].compute()

    return jax.jit(jax.vmap(replica, axis_name="replica"))


@pytest.mark.parametrize("name", ["sum", "mean", "std", "rms"])
@pytest.mark.parametrize("scale", [1e-25, 0.1, 1e25])
def test_weights_of_any_magnitude_are_all_reduced(name, scale):
    """Replicas with small, fractional or huge weights give the number of the whole."""
    generator = np.random.default_rng(0)
    value = generator.normal(1.0, 0.1, (4, 7)).astype(np.float32)
    weight = (generator.random((4, 7)) * scale).astype(np.float32)

    result = _mapped(REDUCERS[name])(value, weight)[0]
    assert float(result) == pytest.approx(expected(name, [value], [weight]), rel=1e-6)


def test_two_weights_are_refused():
    """A weight in `weighted` and one beside it: neither is dropped in silence."""
    with pytest.raises(ValueError, match=r"two weights.*write weight=w \* v"):
        sowlog.mean.of(sowlog.weighted([1.0, 3.0], [1, 1]), weight=[1, 0])


_STATES = {"x": sowlog.max.of([1.0, 2.0])}, {"x": sowlog.max.of([3.0, 10.0])}
ARITHMETIC = {
    "average": lambda a, b: jax.tree.map(lambda x, y: (x + y) / 2, a, b),
    "moving average": lambda a, b: optax.incremental_update(a, b, 0.1),
    "mean of stacked": lambda a, b: jax.tree.map(lambda *x: jnp.stack(x).mean(0), a, b),
    "sum of stacked": lambda a, b: jax.tree.map(lambda *x: jnp.stack(x).sum(0), a, b),
    "pmean": lambda a, b: _over_replicas(jax.lax.pmean, a, b),
    "psum": lambda a, b: _over_replicas(jax.lax.psum, a, b),
    "scaled": lambda a, b: jax.tree.map(lambda x: x * 0.5, a),
    "float16": lambda a, b: jax.tree.map(
        lambda x: x.astype(jnp.float16) if jnp.issubdtype(x.dtype, jnp.floating) else x, a
    ),
}


def _over_replicas(collective, a, b):
    stacked = jax.tree.map(lambda *x: jnp.stack(x), a, b)
    reduced = jax.vmap(lambda state: collective(state, "replica"), axis_name="replica")(stacked)
    return jax.tree.map(lambda leaf: leaf[0], reduced)


@modes.promoting
@pytest.mark.parametrize("way", ARITHMETIC)
@pytest.mark.parametrize(
    "use",
    [
        sowlog.compute,
        sowlog.pack,
        jax.jit(sowlog.pack),
        lambda tree: sowlog.merge(tree, _STATES[0]),
        lambda tree: sowlog.merge(_STATES[0], tree),
        lambda tree: jax.vmap(lambda _: sowlog.all_reduce(tree, "r"), axis_name="r")(jnp.ones(2)),
    ],
    ids=["compute", "pack", "jitted pack", "merge left", "merge right", "all_reduce"],
)
def test_arithmetic_on_states_is_an_error(way, use):
    """An average of two maxima is no maximum: all functions of the state name it and the line to write."""
    with pytest.raises(
        TypeError, match=r"x: a state of max has been through arithmetic.*sowlog\.merge\(a, b\)"
    ):
        use(ARITHMETIC[way](*_STATES))


def test_a_users_merge_has_arrays_of_jax():
    """A fetched state has NumPy's arrays, which have no `.at`."""
    first = sowlog.Reducer.build(
        init=lambda: jnp.zeros(2),
        add=lambda total, x: total.at[0].add(jnp.sum(x)),
        merge=lambda a, b: a.at[0].add(b[0]),
        compute=lambda total: total[0],
    )
    state = jax.device_get(first.of([1.0, 2.0]))
    assert float(state.merge(state).compute()) == 6.0


@each_reducer
def test_kept_axes_are_independent_states(name):
    """`axis=` reduces the named axes only; each kept element is the result of its own values."""
    value = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    weight = np.random.default_rng(1).integers(1, 3, size=(4, 3, 2)).astype(np.float32)
    reducer = REDUCERS[name](axis=(0, -1))

    @jax.jit
    def accumulate(value, weight):
        return reducer.reduce_fn(reducer.reduce_fn(reducer.init_fn(), value), sowlog.weighted(value, weight))

    state = accumulate(value, weight)
    assert state.seen.shape == (3,)
    results = state.compute()
    both = [np.ones_like(weight), weight]
    for kept in range(3):
        wanted = expected(name, [value[:, kept]] * 2, [w[:, kept] for w in both])
        assert float(results[kept]) == pytest.approx(wanted, rel=1e-6)


@each_reducer
def test_gradients_pass_through_a_state(name):
    """In plain Flax a sown value may be trained on: no gradient is lost, and none is NaN."""

    def through_state(x):
        return REDUCERS[name].of(x).merge(REDUCERS[name].of(2 * x)).compute()

    gradient = jax.jit(jax.grad(through_state))(jnp.array([[1.0], [-2.0], [4.0]])).ravel()
    assert np.all(np.isfinite(gradient))
    if name in ("sum", "mean"):
        np.testing.assert_allclose(gradient, 3.0 if name == "sum" else 0.5, rtol=1e-6)


def test_a_mean_is_weighted_by_elements():
    """The mean over a call with three elements and one with one is over four elements."""
    state = sowlog.mean.of([1.0, 2.0, 3.0]).merge(sowlog.mean.of(10.0))
    assert float(state.compute()) == 4.0


def test_last_is_ordered():
    """`last` says that its order counts, and keeps the later value."""
    assert sowlog.last.ordered
    assert [name for name, reducer in REDUCERS.items() if reducer.ordered] == ["last"]
    assert float(sowlog.last.of(1.0).merge(sowlog.last.of(2.0)).compute()) == 2.0


def test_a_weight_is_never_matched_to_an_axis_by_chance():
    """A mask of fewer axes is an error even where NumPy would find an axis of its size."""
    with pytest.raises(
        ValueError,
        match=r"weight of shape \(4,\) does not fit a value of shape \(4, 4\).*weight\[..., None\]",
    ):
        sowlog.mean.of(jnp.ones((4, 4)), weight=jnp.ones(4))


def test_a_broadcast_mask_counts_what_it_covers():
    """A mask of size 1 along an axis counts once for each element that it covers."""
    value, mask = jnp.array([[1.0, 3.0], [5.0, 7.0]]), jnp.array([[1], [0]])
    assert float(sowlog.mean.of(value, weight=mask).compute()) == 2.0


def test_complex_values_are_refused():
    """A complex value names its dtype and the real numbers to sow."""
    with pytest.raises(TypeError, match=r"must be real, got complex64: sow jnp.abs"):
        sowlog.mean.of(jnp.ones(2, jnp.complex64))


def test_what_is_no_number_is_refused():
    """A string names its type."""
    with pytest.raises(TypeError, match="a value must be a real number or an array of them, got str"):
        sowlog.mean.of("high")
    with pytest.raises(TypeError, match="a value must be a real number or an array of them, got NoneType"):
        sowlog.mean.of(None)


def test_an_axis_outside_the_value_is_refused():
    """An axis that the value does not have names the reducer, the axis and the number of axes."""
    with pytest.raises(ValueError, match=r"mean\(axis=2\) cannot reduce axis 2 of a value with 1 axes"):
        sowlog.mean(axis=2).of(jnp.ones(3))


@pytest.mark.parametrize("axis", [np.int64(0), [0], (np.int32(0),)])
def test_settings_may_be_lists_and_numpy_numbers(axis):
    """A setting is part of a tree's structure, which must be hashable: a jitted step takes the state."""
    state = sowlog.mean(axis=axis).of(jnp.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(jax.jit(sowlog.State.compute)(state), [1.5, 2.5, 3.5])


def test_an_unknown_setting_is_refused():
    """A setting that does not exist lists those that do; a value is no setting."""
    with pytest.raises(TypeError, match=r"mean takes settings.*write `.of\(value\)`"):
        sowlog.mean(3.0)
    with pytest.raises(TypeError, match="mean has no setting axes; it has: axis"):
        sowlog.mean(axes=0)


def test_states_of_two_reducers_do_not_merge():
    """Merging a mean with a max names both reducers and the cause."""
    with pytest.raises(TypeError, match="a state of mean with one of max: two reducers share one name"):
        sowlog.mean.of(1.0).merge(sowlog.max.of(1.0))
    with pytest.raises(TypeError, match="mean was given the accumulated value of max"):
        sowlog.mean.reduce_fn(sowlog.max.init_fn(), 1.0)


def test_a_number_is_not_merged_as_a_state():
    """Merging with a bare number shows how to make it a state."""
    with pytest.raises(TypeError, match=r"with float: make it a state first, `sowlog.mean.of\(value\)`"):
        sowlog.mean.of(1.0).merge(1.0)


def test_values_of_changing_shape_are_refused():
    """With kept axes a value must keep its shape; the error shows both."""
    vector = sowlog.mean(axis=())
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\)"):
        vector.of(jnp.ones(3)).merge(vector.of(jnp.ones(2)))


@pytest.mark.parametrize("weight", [None, [1.0, 1.0, 3.0, 3.0]])
def test_a_std_about_a_mean_that_float32_has_not(weight):
    """The mean of neighbouring floats lies between them: its rounding does not count as spread."""
    values = np.float32(1e6) + np.float32([0.0, 0.0625, 0.0, 0.0625])
    exact = values.astype(np.float64)
    wanted = np.sqrt(np.average((exact - np.average(exact, weights=weight)) ** 2, weights=weight))
    assert float(sowlog.std.of(values, weight=weight).compute()) == pytest.approx(wanted, rel=1e-6)


def test_a_scalar_does_not_spread_over_a_vector():
    """A number and a vector under one name are two things, though the start of both has no axes yet."""
    vector = sowlog.mean(axis=())
    with pytest.raises(ValueError, match=r"shapes \(\) and \(3,\): a value sown under one name must keep"):
        vector.of(1.0).merge(vector.of(jnp.ones(3)))
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(\)"):
        jax.jit(lambda x: vector.reduce_fn(vector.reduce_fn(vector.init_fn(), x), 1.0))(jnp.ones(3))


def test_reducers_are_static_and_compared_by_value():
    """Two equal configurations are one structure for JAX, so that equal steps share one trace."""
    assert sowlog.mean(axis=0) == sowlog.mean(axis=0) != sowlog.mean
    assert hash(sowlog.mean(axis=0)) == hash(sowlog.mean(axis=0))
    assert jax.tree.structure(sowlog.mean.of(1.0)) == jax.tree.structure(sowlog.mean.init_fn())
    assert repr(sowlog.mean(axis=0)) == "mean(axis=0)"
