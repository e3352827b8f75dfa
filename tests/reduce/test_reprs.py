"""Reprs of states, histograms and packed trees: results where they are concrete, else place and shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
import sowlog.testing
from tests.support import modes

MEDIAN = sowlog.quantiles(percents=(50,))
SPIKE = "HistogramValue(2 elements, 1 nonfinite, min=1.0, max=1.0)"


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (sowlog.mean.of([3.0, 4.0]), "State(mean, 3.5)"),
        (jax.device_get(sowlog.max.of(0.1)), "State(max, 0.1)"),
        (sowlog.sum.of(float("nan")), "State(sum, nan)"),
        (sowlog.mean.init_fn(), "State(mean, nothing sown)"),
        (sowlog.mean.of(1.0, weight=0), "State(mean, nothing sown)"),
        (sowlog.mean(axis=0).of(np.ones((2, 3))), "State(mean(axis=0), shape=(3,))"),
        (
            sowlog.quantiles(percents=(0, 100)).of([1.0, 4.0]),
            "State(quantiles(percents=(0, 100)), p0=1.0, p100=4.0)",
        ),
        (
            sowlog.histogram.of([1.0, np.inf]),
            "State(histogram, HistogramValue(2 elements, 1 nonfinite, min=1.0, max=1.0))",
        ),
        (jax.eval_shape(sowlog.mean.of, 1.0), "State(mean, abstract)"),
    ],
)
def test_a_state_shows_its_result_or_its_shape(state, text):
    """Never the words of its arrays."""
    assert repr(state) == text


def test_a_traced_state_shows_its_shape():
    """A tracer has no value; a concrete state in a traced function has."""
    concrete, shown = sowlog.mean.of(2.0), []

    def step(x):
        states = sowlog.mean.of(x), sowlog.rms(axis=0).of(jnp.stack([x, x])[None]), concrete
        shown.extend(map(repr, (*states, sowlog.histogram.of(x).compute())))
        return x

    jax.jit(step)(1.0)
    assert shown == [
        "State(mean, traced)",
        "State(rms(axis=0), traced, shape=(2,))",
        "State(mean, 2.0)",
        "HistogramValue(traced)",
    ]


@modes.promoting
def test_the_repr_of_a_state_raises_nothing():
    """Of a deleted state, an averaged one, one of strings, and one that a guard forbids to read."""
    deleted = sowlog.mean.of(1.0)
    for leaf in jax.tree.leaves(deleted):
        leaf.delete()
    averaged = jax.tree.map(lambda x: x / 2, sowlog.mean.of(1.0))
    odd = jax.tree.map(lambda _: "replicated", sowlog.mean.of(1.0))
    with sowlog.testing.forbid_host_sync():
        guarded = repr(sowlog.mean.of(1.0))
    assert repr(deleted) == "State(mean, deleted)"
    assert repr(averaged) == guarded == "State(mean, unreadable)"
    assert repr(odd).startswith("State(mean, replicated")


def test_a_histogram_shows_its_extremes_or_its_shape():
    """Counts of elements, not bins."""
    stacked = sowlog.histogram(axis=0).of(np.ones((2, 3))).compute()
    assert repr(stacked) == "HistogramValue(shape=(3,))"
    assert repr(sowlog.histogram.of(1.0).compute()) == "HistogramValue(1 element, min=1.0, max=1.0)"
    on_host = sowlog.compute({"x": sowlog.histogram.of([0.25, 0.5])})["x"]
    assert repr(on_host) == "HistogramValue(2 elements, min=0.25, max=0.5)"


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({}, "Packed(0 metrics)"),
        ({"loss": 1.0}, "Packed(1 metric: loss)"),
        ({"x": sowlog.histogram.of(1.0)}, "Packed(2 metrics: x/nonfinite, x)"),
        (
            {"load": sowlog.mean(axis=()).of(np.ones(9))},
            f"Packed(9 metrics: {', '.join(f'load/{i:02}' for i in range(8))}, ...)",
        ),
    ],
)
def test_a_packed_tree_shows_its_tags(tree, text):
    """The number of metrics and their tags, traced or not."""
    assert repr(sowlog.pack(tree)) == text
    assert repr(jax.eval_shape(sowlog.pack, tree)) == text
