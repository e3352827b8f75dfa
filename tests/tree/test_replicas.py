"""Merging over replicas."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from tests.support import modes
from tests.support.oracles import expected, public_reducers, scalar_reducers
from tests.support.ways.base import batch_mesh, shard_map_over

# All tests here compare replicas with the whole, or count collectives.
pytestmark = pytest.mark.usefixtures("light_compilation")

REDUCERS = public_reducers()
X = np.random.default_rng(0).normal(-50.0, 3.0, (4, 6)).astype(np.float32)


def _states(x, copies=1):
    return {f"{name}_{i}": reducer.of(x) for name, reducer in REDUCERS.items() for i in range(copies)}


def _reduced(function, values):
    """Return the result of the second replica."""
    mapped = jax.vmap(lambda x: sowlog.all_reduce(function(x), "batch"), axis_name="batch")
    return jax.tree.map(lambda leaf: leaf[1], jax.jit(mapped)(values))


def _collectives(text):
    return re.findall(r"(all-reduce|all-gather|all-to-all|collective-permute)(?:-start)?\(", text)


def _moved_bytes(text):
    shapes = re.findall(r"= f32\[(\d*)\][^=]* all-reduce(?:-start)?\(", text)
    return sum(4 * int(size or 1) for size in shapes)


@pytest.mark.parametrize("copies", [1, 3])
def test_any_number_of_metrics_takes_three_collectives(copies):
    """In the compiled program there are three all-reduces, whose bytes do not depend on the replicas."""
    moved = set()
    for devices in (2, 4):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("batch",))
        step = jax.jit(
            shard_map_over(lambda x: sowlog.all_reduce(_states(x, copies), "batch"), check=True, mesh=mesh)
        )
        text = step.lower(jnp.zeros((devices, 6))).compile().as_text()
        assert _collectives(text) == ["all-reduce"] * 3
        moved.add(_moved_bytes(text))
    assert len(moved) == 1
    assert moved.pop() > 4 * 1000 * copies


@pytest.mark.parametrize("name", sorted(scalar_reducers()))
def test_an_uneven_mask_over_replicas_counts_by_element(name):
    """Replicas count by their elements of non-zero weight: one, none, or all."""
    mask = np.zeros_like(X)
    mask[0, 0], mask[2] = 1, 1
    reducer = REDUCERS[name]
    values = (jnp.asarray(X), jnp.asarray(mask))
    state = _reduced(lambda xm: {"x": reducer.of(xm[0], weight=xm[1])}, values)["x"]
    assert float(state.compute()) == pytest.approx(expected(name, [X], [mask]), rel=1e-6)


@modes.infinite
@pytest.mark.parametrize("name", sorted(REDUCERS))
def test_nothing_sown_on_any_replica_is_absent(name):
    """Merged empties are empty."""
    state = _reduced(lambda x: {"x": REDUCERS[name].of(x, weight=0 * x)}, jnp.asarray(X))["x"]
    assert not state.seen


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_a_std_over_replicas_survives_a_distant_mean(offset):
    """The second moments are taken about the mean of all, so nothing cancels."""
    values = (np.float32(offset) + np.arange(8, dtype=np.float32)).reshape(4, 2)
    state = _reduced(lambda x: {"x": sowlog.std.of(x)}, jnp.asarray(values))["x"]
    assert float(state.compute()) == pytest.approx(np.std(values.astype(np.float64)), rel=1e-6)


def test_a_std_over_replicas_about_a_mean_that_float32_has_not():
    """The rounding of the mean does not count as spread, and is not lost for later merges."""
    values = np.float32(1e6) + np.float32([[0.0], [0.0625], [0.0625], [0.0625]])
    state = _reduced(lambda x: {"x": sowlog.std.of(x)}, jnp.asarray(values))["x"]
    assert float(state.compute()) == pytest.approx(np.std(values.astype(np.float64)), rel=1e-6)
    both = state.merge(sowlog.std.of(values[0]))
    wanted = np.std(np.append(values, values[0]).astype(np.float64))
    assert float(both.compute()) == pytest.approx(wanted, rel=1e-6)


def _pairs(numbers):
    hi = numbers.astype(np.float32)
    return hi, (numbers - hi.astype(np.int64)).astype(np.float32)


@pytest.mark.parametrize(("reducer", "shape"), [(sowlog.sum, (1, 200)), (sowlog.nonfinite, (4, 200))])
def test_integers_stay_exact_over_replicas(reducer, shape):
    """Totals of similar replicas, and counts of any, lose no unit up to 2^45."""
    numbers = np.int64(2) ** np.random.default_rng(0).integers(8, 44, shape) * np.ones((4, 1), np.int64)
    numbers = numbers + np.random.default_rng(1).integers(0, numbers)
    hi, lo = (jnp.asarray(part) for part in _pairs(numbers))
    start = jax.vmap(jax.vmap(reducer.of))(jnp.ones(numbers.shape))
    states = dataclasses.replace(start, parts=type(start.parts)(hi, lo))
    found = _reduced(lambda state: {"x": state}, states)["x"].parts
    assert (np.asarray(found.hi, np.int64) + np.asarray(found.lo, np.int64) == numbers.sum(0)).all()


def test_the_low_digits_of_many_counts_do_not_add_up_to_too_many():
    """Each replica's low digits fit float32; those of 128 together only if split."""
    numbers = np.array([2**46 + 2**22 - 1] * 3 + [2**16 - 1] * 124 + [2**16 - 2])
    hi, lo = (jnp.asarray(part) for part in _pairs(numbers))
    states = dataclasses.replace(
        jax.vmap(sowlog.nonfinite.of)(hi), parts=type(sowlog.nonfinite.of(1.0).parts)(hi, lo)
    )
    found = _reduced(lambda state: {"x": state}, states)["x"].parts
    assert int(found.hi) + int(found.lo) == numbers.sum()


def test_counts_stay_exact_over_replicas():
    """Counts beyond float32's 24 bits are summed without rounding."""
    one = sowlog.mean.of(jnp.ones(()))
    many = one
    for _ in range(26):
        many = many.merge(many)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), many, many.merge(one), one, one)
    weight = _reduced(lambda state: {"x": state}, states)["x"].parts["weight"]
    assert int(weight.hi) + int(weight.lo) == 2**27 + 3


@modes.infinite
def test_nan_and_infinities_pass_over_replicas():
    """A NaN on one replica is a NaN for all, an infinity an infinity."""
    values = jnp.array([[1.0], [jnp.inf], [2.0], [3.0]])
    state = _reduced(lambda x: {"sum": sowlog.sum.of(x), "max": sowlog.max.of(x)}, values)
    assert float(state["sum"].compute()) == np.inf
    assert float(state["max"].compute()) == np.inf
    nan = _reduced(lambda x: {"mean": sowlog.mean.of(x)}, values.at[0].set(jnp.nan))
    assert np.isnan(nan["mean"].compute())


@pytest.mark.parametrize("name", ["min", "max"])
@pytest.mark.parametrize("replica", range(4))
def test_a_nan_on_one_device_is_not_passed_over(name, replica):
    """The maximum that devices take of each other's numbers may ignore a NaN; ours must not."""
    values = jnp.arange(4.0).at[replica].set(jnp.nan)
    mapped = shard_map_over(lambda x: sowlog.all_reduce({"x": REDUCERS[name].of(x)}, "batch"), check=False)
    assert np.isnan(jax.jit(mapped)(values)["x"].compute())


def test_last_is_that_of_the_highest_replica_that_saw_one():
    """The order of replicas is the order of the axis."""
    values, seen = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1, 1, 1, 0])
    state = _reduced(lambda xm: {"x": sowlog.last.of(xm[0], weight=xm[1])}, (values, seen))["x"]
    assert float(state.compute()) == 3.0


class Product(sowlog.Reducer):
    """A user's own reducer, without a rule for replicas."""

    def empty(self):
        return jnp.ones(())

    def from_value(self, value, weight):
        return jnp.prod(value)

    def merge(self, a, b):
        return a * b

    def compute(self, parts):
        return parts


def test_a_users_reducer_is_gathered():
    """Without `exchange` the states are gathered and merged in the order of the axis."""
    values = jnp.array([[1.0], [2.0], [3.0], [4.0]])
    states = _reduced(lambda x: {"x": Product().of(x), "max": sowlog.max.of(x)}, values)
    assert float(states["x"].compute()) == 24.0
    assert float(states["max"].compute()) == 4.0


class Memory(sowlog.Reducer):
    """A reducer of a user's with parts of several dtypes: the first value, how many, and is any odd."""

    def empty(self):
        return {"first": jnp.zeros((), jnp.bfloat16), "count": jnp.int32(0), "odd": jnp.zeros((), jnp.bool_)}

    def from_value(self, value, weight):
        odd = jnp.any(value % 2 == 1)
        return {"first": value.ravel()[0].astype(jnp.bfloat16), "count": jnp.int32(value.size), "odd": odd}

    def merge(self, a, b):
        first = jnp.where(a["count"] > 0, a["first"], b["first"])
        return {"first": first, "count": a["count"] + b["count"], "odd": a["odd"] | b["odd"]}

    def compute(self, parts):
        return parts


@modes.infinite
@pytest.mark.parametrize("check", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("first", [-0.0, np.nan, np.inf, 3.0])
def test_users_reducers_leave_a_shard_map(check, first):
    """The states arrive bit for bit, in one collective, and are known to be equal on all replicas."""
    values = np.float32([[first], [2.0], [4.0], [6.0]])
    step = jax.jit(
        shard_map_over(
            lambda x: sowlog.all_reduce({"a": Memory().of(x), "b": Product().of(x)}, "batch"), check=check
        )
    )
    states = step(jnp.asarray(values))
    found = states["a"].parts
    np.testing.assert_array_equal(
        np.asarray(found["first"]).view(np.uint16), np.asarray(jnp.bfloat16(first)).view(np.uint16)
    )
    assert (int(found["count"]), bool(found["odd"])) == (4, first == 3.0)
    np.testing.assert_array_equal(states["b"].compute(), np.float32(first) * 48)
    assert _collectives(step.lower(values).compile().as_text()) == ["all-reduce"]


def test_stacked_states_are_reduced_layer_by_layer():
    """Leading axes stay: each layer is merged with its own."""
    mapped = shard_map_over(
        lambda x: sowlog.all_reduce({"x": jax.vmap(sowlog.std.of)(x.reshape(2, 3))}, "batch"),
        check=True,
        mesh=batch_mesh(),
    )
    state = jax.jit(mapped)(jnp.asarray(X))["x"]
    layers = X.reshape(4, 2, 3).swapaxes(0, 1).reshape(2, -1)
    np.testing.assert_allclose(state.compute(), layers.std(axis=1, dtype=np.float64), rtol=1e-6)


def test_a_bare_number_is_refused():
    """How a number merges over replicas is unknown: it is named, with the line to write."""
    with pytest.raises(TypeError, match=r"loss is .*, not a state.*write sowlog.mean.of\(value\)"):
        _reduced(lambda x: {"loss": jnp.mean(x)}, jnp.asarray(X))
