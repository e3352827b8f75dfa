"""Counts of examples by thresholds, against the definition in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import sowlog


def by_definition(labels, scores, thresholds, weights=None):
    """Return the counts by the highest threshold k / (thresholds - 1) that a score reaches, in float64."""
    weights = np.ones(labels.shape) if weights is None else weights
    counts = np.zeros((2, thresholds))
    # The product of a float32 and a number of thresholds is exact in float64.
    for label, score, weight in zip(labels, scores.astype(np.float64), weights, strict=True):
        counts[int(label <= 0), int(np.floor(score * (thresholds - 1)))] += weight
    return counts


@pytest.mark.parametrize("thresholds", [2, 11, 127, 1024])
def test_scores_next_to_a_threshold_reach_it_as_defined(thresholds):
    """A float32 product would round 0.7 * 10 up to the threshold that 0.69999999 does not reach."""
    near = (np.arange(thresholds) / (thresholds - 1)).astype(np.float32)
    scores = np.concatenate([near, np.nextafter(near, np.float32(-1)), np.nextafter(near, np.float32(2))])
    scores = np.clip(scores, 0, 1)
    labels = np.arange(scores.size) % 2
    counts = sowlog.pr_counts(labels, scores, thresholds=thresholds)
    assert (counts.dtype, counts.shape) == (jnp.float32, (2, thresholds))
    np.testing.assert_array_equal(counts, by_definition(labels, scores, thresholds))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_, jnp.bfloat16])
def test_examples_count_by_their_weights(dtype):
    """Of any shape and dtype, traced; one that is negative or not finite counts nothing."""
    random = np.random.default_rng(0)
    labels, scores = random.integers(-1, 2, (6, 50)), random.random((6, 50), np.float32)
    weights = (3 * random.random((6, 50))).astype(dtype)
    known = weights.astype(np.float64)
    if dtype not in (np.int32, np.bool_):
        weights[0, :4], known[0, :4] = (np.nan, np.inf, -np.inf, -2.0), 0
    counts = jax.jit(sowlog.pr_counts)(labels, scores, weights)
    expected = by_definition(labels.ravel(), scores.ravel(), 127, known.ravel())
    np.testing.assert_allclose(counts, expected, rtol=1e-6)


def test_weights_add_up_beyond_the_steps_of_float32():
    """A sum in float32 would stop at 2^24, where adding 1 changes nothing."""
    weights = np.ones(300, np.float32)
    weights[0] = 2**24
    counts = sowlog.pr_counts(np.ones(300, np.int32), np.zeros(300, np.float32), weights, thresholds=2)
    assert counts[0, 0] == np.float32(2**24 + 299)


def test_examples_on_a_mesh_are_counted_once():
    """With Auto and with Explicit axes, where JAX refuses a scatter of sharded indices."""
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 64), random.random(64, np.float32)
    expected = by_definition(labels, scores, 11)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,))
        sharded = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch"))) for x in (labels, scores)]
        for count in (sowlog.pr_counts, jax.jit(sowlog.pr_counts, static_argnames="thresholds")):
            np.testing.assert_array_equal(count(*sharded, thresholds=11), expected)


def test_batches_are_counted_under_vmap():
    """Each by itself."""
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, (3, 20)), random.random((3, 20), np.float32)
    counts = jax.vmap(partial(sowlog.pr_counts, thresholds=11))(labels, scores)
    for each in range(3):
        np.testing.assert_array_equal(counts[each], by_definition(labels[each], scores[each], 11))


def test_odd_scores_are_clipped():
    """And NaN is 0."""
    scores = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 2.0, -1.0])
    counts = sowlog.pr_counts(jnp.ones(5, bool), scores, thresholds=3)
    np.testing.assert_array_equal(counts, [[3, 0, 2], [0, 0, 0]])


@pytest.mark.parametrize(
    ("labels", "scores", "options", "error", "message"),
    [
        ([1], [0.5, 0.5], {}, ValueError, r"scores of pr_counts have shape \[2\], and its labels \[1\]"),
        ([1], [0.5], {"weights": [1.0, 2.0]}, ValueError, r"weights of pr_counts have shape \[2\]"),
        ([0.5], [0.5], {}, TypeError, "labels of pr_counts have dtype float32: give bools"),
        ([1], [1], {}, TypeError, "scores of pr_counts have dtype int32: .*jax.nn.sigmoid"),
        ([1], [0.5j], {}, TypeError, "a score must be real, got complex64"),
        (["yes"], [0.5], {}, TypeError, "a label must be a real number"),
        ([1], [0.5], {"thresholds": 1}, ValueError, "thresholds of pr_counts are 1: they must be 2 to 1024"),
        ([1], [0.5], {"thresholds": 2.0}, TypeError, "are 2.0, a float: give their number"),
    ],
)
def test_other_examples_are_refused(labels, scores, options, error, message):
    """Before they are counted."""
    with pytest.raises(error, match=message):
        sowlog.pr_counts(labels, scores, **options)
