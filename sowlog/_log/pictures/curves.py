"""Precision-recall curves: computed on the writer thread, in the form of TensorBoard's PR Curves tab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sowlog._log.arrays import Array, check_array, held
from sowlog._log.texts import check_tag
from sowlog._reduce.thresholds import MAX_THRESHOLDS, check_examples, check_thresholds
from sowlog._reduce.values import is_real

# As in `tensorboard.plugins.pr_curve.summary`: no example above a threshold is a precision of 0.
_LEAST_COUNT = 1e-7
_LARGEST = 1 << 32


class Curve(Protocol):
    """A curve that the writer thread computes of arrays, which the device may still compute."""

    @property
    def arrays(self) -> Sequence[Array]:
        """The arrays that the curve is computed of."""
        ...

    def compute(self) -> dict[str, NDArray[np.float32]]:
        """Wait for the device and return the curve by its tag, read-only float32 [6, thresholds].

        The rows are true positives, false positives, true negatives, false negatives, precision and recall,
        at thresholds from 0 to 1.
        """
        ...


class ScoredCurve(NamedTuple):
    """The curve of labels and scores.

    Attributes:
        tag: the tag.
        labels: bools or integers, positive where they are above 0.
        scores: floating-point numbers of the same shape.
        weights: real numbers of the same shape, or None for 1.
        thresholds: the number of thresholds.
    """

    tag: str
    labels: Array
    scores: Array
    weights: Array | None
    thresholds: int

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Labels, scores and the weights if there are any."""
        weights = () if self.weights is None else (self.weights,)
        return (self.labels, self.scores, *weights)

    def compute(self) -> dict[str, NDArray[np.float32]]:
        """Wait for the device and return the curve by its tag."""
        labels = np.asarray(self.labels).ravel() > 0
        scores = np.nan_to_num(np.asarray(self.scores).ravel().astype(np.float64), nan=0.0)
        weights = np.ones(len(labels)) if self.weights is None else _weights(np.asarray(self.weights)).ravel()
        last = self.thresholds - 1
        # The highest threshold that a score reaches.
        reached = np.floor(np.clip(scores, 0, 1) * last).astype(np.int64)
        counts = [
            np.bincount(reached[chosen], weights[chosen], self.thresholds) for chosen in (labels, ~labels)
        ]
        return {self.tag: _curve_of(np.stack(counts).astype(np.float64))}


class CountedCurve(NamedTuple):
    """The curve of counts by threshold.

    Attributes:
        tag: the tag.
        counts: real numbers of shape [2, thresholds], as of `pr_counts`.
    """

    tag: str
    counts: Array

    @property
    def arrays(self) -> tuple[Array]:
        """The counts."""
        return (self.counts,)

    def compute(self) -> dict[str, NDArray[np.float32]]:
        """Wait for the device and return the curve by its tag."""
        return {self.tag: _curve_of(_weights(np.asarray(self.counts)))}


def _curve_of(counts: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the curve of examples by the highest threshold that they reach, positive and negative ones."""
    positives, negatives = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    precision = positives / np.maximum(_LEAST_COUNT, positives + negatives)
    recall = positives / np.maximum(_LEAST_COUNT, positives[0])
    curve = np.stack(
        [positives, negatives, negatives[0] - negatives, positives[0] - positives, precision, recall]
    ).astype(np.float32)
    curve.flags.writeable = False
    return curve


def _weights(weights: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return weights, 0 where one is negative or not finite, whose largest is 1 to 2^32."""
    known = weights.astype(np.float64)
    known = np.where(np.isfinite(known), np.maximum(known, 0), 0)
    largest = known.max()
    # TensorBoard reads a count as int64, and ends a curve where that is 0.
    return known / largest * np.clip(largest, 1, _LARGEST) if largest else known


def check_curve(
    tag: object, labels: object, scores: object, weights: object, thresholds: object
) -> ScoredCurve:
    """Return a valid curve; arrays on the host are copied, since the caller may write to them.

    Raises:
        TypeError: An argument is no array or has another dtype, or the thresholds are no integer.
        ValueError: The shapes differ, there are no examples, the thresholds are out of range, or there is no
            tag.
    """
    tag = check_tag("PR curve", tag, "log.pr_curve(step, 'eval/pr', labels, scores)")
    name = f"the PR curve {tag}"
    truth = check_array(f"the array of labels of {name}", labels)
    found = check_array(f"the array of scores of {name}", scores)
    weight = None if weights is None else check_array(f"the array of weights of {name}", weights)
    check_examples(name, truth, found, weight)
    if not truth.size:
        raise ValueError(f"{name} has labels of shape {list(truth.shape)}, which are none.")
    number = check_thresholds(name, thresholds)
    return ScoredCurve(tag, held(truth), held(found), None if weight is None else held(weight), number)


def check_counts(tag: object, counts: object) -> CountedCurve:
    """Return a valid curve of counts; those on the host are copied, since the caller may write to them.

    Raises:
        TypeError: The counts are no array, or of another dtype.
        ValueError: The counts have another shape, or there is no tag.
    """
    tag = check_tag("PR curve", tag, "log.pr_counts(step, 'eval/pr', counts)")
    array = check_array(f"the array of counts of the PR curve {tag}", counts)
    if not is_real(array.dtype):
        raise TypeError(f"the counts of the PR curve {tag} have dtype {array.dtype}: give real numbers.")
    shape = array.shape
    if len(shape) != 2 or shape[0] != 2 or not 2 <= shape[1] <= MAX_THRESHOLDS:
        raise ValueError(
            f"the counts of the PR curve {tag} have shape {list(shape)}: they must be [2, thresholds], the "
            f"sum of sowlog.pr_counts(labels, scores) over batches, of 2 to {MAX_THRESHOLDS} thresholds."
        )
    return CountedCurve(tag, held(array))
