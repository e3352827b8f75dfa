"""Trees of states: merging, emptying, tags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from tests.support.oracles import expected, scalar_reducers

pytestmark = pytest.mark.usefixtures("light_compilation")

REDUCERS = scalar_reducers()


def _tree(*arrays, axis=None):
    return {"block": {name: reducer(axis=axis).of(np.stack(arrays)) for name, reducer in REDUCERS.items()}}


FIRST, SECOND = np.array([-1.0, -5.0, -3.0], np.float32), np.array([-2.0, -4.0, -0.5], np.float32)


def test_merging_trees_merges_each_state():
    """Two microbatches' trees become the tree of both, for every reducer."""
    merged = sowlog.merge(_tree(FIRST), _tree(SECOND))
    for name, state in merged["block"].items():
        assert float(state.compute()) == pytest.approx(expected(name, [FIRST, SECOND]), rel=1e-6)


def test_stacked_states_merge_element_by_element():
    """States with leading axes stay independent of each other."""
    merged = sowlog.merge(_tree(FIRST, SECOND, axis=0), _tree(SECOND, SECOND, axis=0))
    for name, state in merged["block"].items():
        for index in range(3):
            values = [FIRST[index], SECOND[index], SECOND[index], SECOND[index]]
            assert float(state.compute()[index]) == pytest.approx(expected(name, values), rel=1e-6)


@pytest.mark.parametrize("axis", [None, 0])
def test_empty_like_starts_a_scan_over_microbatches(axis):
    """A lax.scan from empty_like computes the number of one big batch: zeros would make the max 0."""
    batches = jnp.stack([FIRST, SECOND])

    def metrics(batch):
        return {name: reducer(axis=axis).of(batch[None]) for name, reducer in REDUCERS.items()}

    def body(carry, batch):
        return sowlog.merge(carry, metrics(batch)), None

    start = sowlog.empty_like(jax.eval_shape(metrics, batches[0]))
    scanned, _ = jax.jit(lambda batches: jax.lax.scan(body, start, batches))(batches)
    for name, state in scanned.items():
        wanted = (
            expected(name, [FIRST, SECOND])
            if axis is None
            else [expected(name, [a, b]) for a, b in zip(FIRST, SECOND, strict=True)]
        )
        np.testing.assert_allclose(state.compute(), wanted, rtol=1e-6, atol=1e-7)


def test_empty_like_has_seen_nothing_and_shares_no_buffer():
    """Each leaf is an array of its own, so that the tree can be donated."""
    empty = sowlog.empty_like(_tree(FIRST, SECOND, axis=0))
    leaves = jax.tree.leaves(empty)
    assert sowlog.compute(empty) == {}
    pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(set(pointers)) == len(pointers)


def test_trees_that_differ_are_refused_by_name():
    """A metric that only one step sowed is named."""
    a, b = {"x": sowlog.mean.of(1.0)}, {"x": sowlog.mean.of(1.0), "y": {"z": sowlog.max.of(1.0)}}
    with pytest.raises(ValueError, match=r"only the second has y/z.*sowlog.empty_like"):
        sowlog.merge(a, b)
    with pytest.raises(ValueError, match="only the first has y/z"):
        sowlog.merge(b, a)


def test_merge_names_the_metric_whose_reducer_changed():
    """The error of two reducers carries the tag."""
    with pytest.raises(TypeError, match="a state of mean with one of max") as raised:
        sowlog.merge({"a": {"x": sowlog.mean.of(1.0)}}, {"a": {"x": sowlog.max.of(1.0)}})
    assert "while merging a/x" in raised.value.__notes__


@pytest.mark.parametrize("function", [lambda tree: sowlog.merge(tree, tree), sowlog.empty_like])
def test_a_bare_number_has_no_rule_to_merge_by(function):
    """A leaf that is no state is named, with the line that makes it one."""
    with pytest.raises(TypeError, match=r"a/loss is float, not a state.*write sowlog.mean.of\(value\)"):
        function({"a": {"loss": 1.0}})


def test_states_pass_through_a_window_on_the_device():
    """Merging inside jit over steps keeps one structure and computes the oracle's number."""
    step = jax.jit(lambda window, x: sowlog.merge(window, {"rms": sowlog.rms.of(x)}))
    window = sowlog.empty_like({"rms": sowlog.rms.of(FIRST)})
    for value in (FIRST, SECOND, FIRST):
        window = step(window, value)
    assert float(window["rms"].compute()) == pytest.approx(expected("rms", [FIRST, SECOND, FIRST]), rel=1e-6)


@pytest.mark.parametrize("size", [3, 100, 101])
def test_indices_sort_as_numbers(size):
    """Indices are padded to one width, two digits at least, so that sorted tags are in layer order."""
    tags = sowlog.pack({"load": jnp.arange(float(size))}).layout.scalars
    assert list(tags) == sorted(tags)
    assert tags[0] == ("load/000" if size > 100 else "load/00")
