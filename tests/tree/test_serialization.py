"""States and packed buffers outlive their process: msgpack and exported programs."""

import flax.serialization
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog._tree.losses import LOSS
from sowlog._tree.serialization import _reducer_of_json, _reducer_to_json
from tests.support import modes
from tests.support.oracles import public_reducers

pytestmark = pytest.mark.usefixtures("light_compilation")

REDUCERS = public_reducers()
X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def _window(x):
    states = {name: reducer.of(x) for name, reducer in REDUCERS.items()}
    states["kept"] = sowlog.mean(axis=0).of(x)
    states["masked"] = sowlog.max.of(x, weight=0 * x)
    return {
        "metrics": states,
        "losses": {"penalty": sowlog.State(LOSS.from_value(x[0, 0], x[0, 1]), x[0, 0] < 9, LOSS)},
    }


def _assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (ours.dtype, ours.weak_type) == (theirs.dtype, theirs.weak_type)
        np.testing.assert_array_equal(ours, theirs)


@modes.infinite
def test_a_window_of_steps_goes_on_after_msgpack():
    """A state written within a window is restored into a new program's empty window, bit for bit."""
    step = jax.jit(lambda window, x: sowlog.merge(window, _window(x)))
    half = step(sowlog.empty_like(_window(X)), X)
    target = sowlog.empty_like(jax.eval_shape(_window, X))
    restored = flax.serialization.from_bytes(target, flax.serialization.to_bytes(half))
    _assert_same(restored, half)
    _assert_same(step(restored, 2 * X), step(half, 2 * X))
    assert step._cache_size() == 1


def test_an_empty_window_is_empty_after_msgpack():
    """A state that has seen nothing stays one, with the shapes of its kept axes."""
    empty = sowlog.empty_like(_window(X))
    _assert_same(flax.serialization.from_bytes(empty, flax.serialization.to_bytes(empty)), empty)


def test_a_state_is_not_restored_into_another_reducers():
    """A max that comes back as a min would be a wrong number without a word."""
    written = flax.serialization.to_bytes({"x": sowlog.max.of(1.0)})
    with pytest.raises(
        ValueError, match=r"cannot restore a state of min from parts of max, seen: .*Restore into"
    ):
        flax.serialization.from_bytes({"x": sowlog.min.of(1.0)}, written)


def test_a_packed_buffer_keeps_its_tags_in_msgpack():
    """The tags are written with the words: the target may be any packed buffer."""
    packed = jax.jit(lambda: sowlog.pack(_window(X)))()
    restored = flax.serialization.from_bytes(sowlog.pack({}), flax.serialization.to_bytes(packed))
    assert restored.layout is packed.layout
    np.testing.assert_array_equal(restored.buffer, packed.buffer)


def _exported(function, *args):
    pytest.importorskip("flatbuffers", reason="jax.export needs it to serialize")
    exported = jax.export.export(jax.jit(function))(*args)
    return jax.export.deserialize(exported.serialize()).call(*args)


@modes.infinite
def test_an_exported_step_returns_what_can_be_logged(tmp_path):
    """States go in and come out of a program that was serialized, and so does a packed buffer."""

    def step(window, x):
        window = sowlog.merge(window, _window(x))
        return window, sowlog.pack(window), window["metrics"]["histogram"].compute()

    window = sowlog.empty_like(_window(X))
    found = _exported(step, window, X)
    _assert_same(found, jax.jit(step)(window, X))
    with sowlog.Logger(tmp_path) as log:
        log(0, found[1])
    assert sowlog.read(tmp_path).scalars["metrics/mean"].values.tolist() == [
        pytest.approx(X.mean(), rel=1e-6)
    ]


def test_an_exported_step_sows():
    """Its states and its tags lose the notes of their sows, which are about the source of the program."""

    def model(x):
        sowlog.sow("rms", x, sowlog.rms, doc="Size.")
        return x

    def step(x):
        metrics = sowlog.collect(model)(x)[1]["metrics"]
        return metrics, sowlog.pack(metrics)

    found = _exported(step, X)
    _assert_same(found, jax.jit(step)(X))
    assert [sowlog.describe(tree)["rms"] for tree in found] == [sowlog.Description()] * 2


class Peak(sowlog.Reducer):
    def empty(self):
        return jnp.zeros(())

    def from_value(self, value, weight):
        return jnp.max(value)

    def merge(self, a, b):
        return jnp.maximum(a, b)

    def compute(self, parts):
        return parts


@pytest.mark.parametrize(
    "reducer",
    [*REDUCERS.values(), sowlog.quantiles(percents=(50, 99.9), axis=(0, -1)), Peak(), Peak(axis=0), LOSS],
    ids=str,
)
def test_a_reducer_is_written_down_and_read(reducer):
    """jax.export writes a state's structure as text, and restores the reducer from it."""
    assert _reducer_of_json(_reducer_to_json(reducer)) == reducer


def test_a_reducer_of_functions_is_refused_by_jax_export():
    """A lambda has no name that another process could import: the error names the remedy."""
    built = sowlog.Reducer.build(
        init=lambda: 0.0, add=lambda n, x: n, merge=lambda a, b: a, compute=lambda n: n, name="mine"
    )
    with pytest.raises(ValueError, match=r"a state of mine cannot be exported.*return sowlog\.pack\(tree\)"):
        _reducer_to_json(built)
