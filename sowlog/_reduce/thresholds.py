"""Counts of examples by thresholds of their score, of which a precision-recall curve is made."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sowlog._reduce import ambient
from sowlog._reduce.bins import scatter, weighted_counts
from sowlog._reduce.values import Value, is_real, real_array

MAX_THRESHOLDS = 1024


def pr_counts(
    labels: Value, scores: Value, weights: Value | None = None, *, thresholds: int = 127
) -> jax.Array:
    """Count the examples of a batch by the highest threshold that their score reaches.

    The counts of several batches, microbatches or replicas add up, and `log.pr_counts` logs the curve of
    their sum. Merge them as states, `sowlog.sum(axis=()).of(counts)`, whose sum is exact.

    Args:
        labels: bools or integers of any shape; an example is positive if its label is above 0.
        scores: the probabilities of the positive class, floating-point numbers of the shape of the labels,
            which are compared as float32. They are clipped to 0 and 1, and NaN is 0.
        weights: real numbers of the same shape, such as a mask, by which examples are counted; by default
            each counts once. A weight that is negative or not finite is 0.
        thresholds: the number of thresholds, 2 to 1024, at equal distances from 0 to 1.

    Returns:
        float32 of shape [2, thresholds], the positive examples and the negative ones; within a batch exact
        to 2^24.

    Raises:
        TypeError: Labels, scores or weights have another dtype, or the thresholds are no integer.
        ValueError: The shapes differ, or the number of thresholds is out of range.

    Example:
        >>> import jax.numpy as jnp, sowlog
        >>> labels, scores = jnp.array([0, 0, 1, 1]), jnp.array([0.1, 0.6, 0.7, 1.0])
        >>> counts = sowlog.pr_counts(labels, scores, thresholds=3)
        >>> counts
        Array([[0., 1., 1.],
               [1., 1., 0.]], dtype=float32)
        >>> of_batch = sowlog.sum(axis=()).of(counts)
        >>> sowlog.merge(of_batch, of_batch).compute()
        Array([[0., 2., 2.],
               [2., 2., 0.]], dtype=float32)
    """
    number = check_thresholds("pr_counts", thresholds)
    truth, found = real_array(labels, "label"), real_array(scores, "score")
    weight = None if weights is None else real_array(weights, "weight")
    check_examples("pr_counts", truth, found, weight)
    return ambient.isolated(functools.partial(_count, thresholds=number), truth, found, weight)


def check_examples(name: str, labels: Any, scores: Any, weights: Any) -> None:
    """Raise if arrays are no labels, scores and weights of the same examples.

    Args:
        name: the curve in an error, as "the PR curve eval/pr".
        labels: an array.
        scores: an array.
        weights: an array, or None.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes differ.
    """
    if not is_real(labels.dtype) or jnp.issubdtype(labels.dtype, jnp.floating):
        raise TypeError(
            f"the labels of {name} have dtype {labels.dtype}: give bools or integers, as of labels > 0.5."
        )
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(
            f"the scores of {name} have dtype {scores.dtype}: give probabilities from 0 to 1, of logits "
            f"jax.nn.sigmoid(logits)."
        )
    if weights is not None and not is_real(weights.dtype):
        raise TypeError(f"the weights of {name} have dtype {weights.dtype}: give real numbers.")
    for kind, array in (("scores", scores), ("weights", weights)):
        if array is not None and array.shape != labels.shape:
            raise ValueError(
                f"the {kind} of {name} have shape {list(array.shape)}, and its labels {list(labels.shape)}: "
                f"give one for each label."
            )


def check_thresholds(name: str, thresholds: Any) -> int:
    """Return a number of thresholds.

    Args:
        name: the curve in an error.
        thresholds: the number.

    Raises:
        TypeError: It is no integer.
        ValueError: It is out of range.
    """
    if isinstance(thresholds, bool) or not isinstance(thresholds, int | np.integer):
        raise TypeError(
            f"the thresholds of {name} are {thresholds!r}, a {type(thresholds).__name__}: give their number."
        )
    if not 2 <= thresholds <= MAX_THRESHOLDS:
        raise ValueError(f"the thresholds of {name} are {thresholds}: they must be 2 to {MAX_THRESHOLDS}.")
    return int(thresholds)


@functools.partial(jax.jit, static_argnames="thresholds")
def _count(labels: jax.Array, scores: jax.Array, weights: jax.Array | None, *, thresholds: int) -> jax.Array:
    row = jnp.where(labels.ravel() > 0, 0, thresholds)
    index, size = row + _reached(scores.ravel(), thresholds), 2 * thresholds
    if weights is None:
        counts = scatter(index, jnp.ones(index.shape, jnp.int32), size).astype(jnp.float32)
    else:
        counts = weighted_counts(index, _counted(weights.ravel()), size).hi
    return counts.reshape(2, thresholds)


def _reached(scores: jax.Array, thresholds: int) -> jax.Array:
    """Return the highest threshold that each score reaches, int32.

    The product is rounded, so its floor is compared with the scores that reach a threshold.
    """
    last, edges = thresholds - 1, jnp.asarray(_edges(thresholds))
    scores = jnp.clip(jnp.nan_to_num(scores.astype(jnp.float32), nan=0.0), 0, 1)
    near = jnp.floor(scores * last).astype(jnp.int32)
    near = jnp.where(scores < edges[near], near - 1, near)
    above = jnp.minimum(near + 1, last)
    return jnp.where(scores >= edges[above], above, near)


def _edges(thresholds: int) -> NDArray[np.float32]:
    """Return the smallest float32 that reaches each threshold."""
    places = np.arange(thresholds)
    edges = (places / (thresholds - 1)).astype(np.float32)
    # This product is exact in float64.
    is_below = edges.astype(np.float64) * (thresholds - 1) < places
    return np.where(is_below, np.nextafter(edges, np.float32(2)), edges)


def _counted(weights: jax.Array) -> jax.Array:
    """Return weights, 0 where one is negative or not finite."""
    if weights.dtype == jnp.bool_:
        return weights.astype(jnp.int32)
    return jnp.where((weights > 0) & jnp.isfinite(weights), weights, jnp.zeros((), weights.dtype))
