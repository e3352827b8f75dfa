"""Precision-recall curves: computed on the writer thread, in the form of TensorBoard's PR Curves tab."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sowlog._log.arrays import Array, check_array, held

MAX_THRESHOLDS = 1024
# As in `tensorboard.plugins.pr_curve.summary`: no example above a threshold is a precision of 0.
_LEAST_COUNT = 1e-7
_LARGEST = 1 << 32
_FORM = "log.pr_curve(step, 'eval/pr', labels, scores)"


class Curve(NamedTuple):
    """Labels and scores, which the device may still compute.

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
        """Wait for the device and return the curve by its tag, read-only float32 [6, thresholds].

        The rows are true positives, false positives, true negatives, false negatives, precision and recall,
        at thresholds from 0 to 1.
        """
        labels = np.asarray(self.labels).ravel() > 0
        scores = np.nan_to_num(np.asarray(self.scores).ravel().astype(np.float64), nan=0.0)
        weights = np.ones(len(labels)) if self.weights is None else _weights(np.asarray(self.weights))
        last = self.thresholds - 1
        # The highest threshold that a score reaches.
        reached = np.floor(np.clip(scores, 0, 1) * last).astype(np.int64)
        positives, negatives = (
            np.bincount(reached[chosen], weights[chosen], self.thresholds)[::-1].cumsum()[::-1]
            for chosen in (labels, ~labels)
        )
        precision = positives / np.maximum(_LEAST_COUNT, positives + negatives)
        recall = positives / np.maximum(_LEAST_COUNT, positives[0])
        curve = np.stack(
            [positives, negatives, negatives[0] - negatives, positives[0] - positives, precision, recall]
        ).astype(np.float32)
        curve.flags.writeable = False
        return {self.tag: curve}


def _weights(weights: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return weights, 0 where one is negative or not finite, whose largest is 1 to 2^32."""
    known = weights.ravel().astype(np.float64)
    known = np.where(np.isfinite(known), np.maximum(known, 0), 0)
    largest = known.max()
    # TensorBoard reads a count as int64, and ends a curve where that is 0.
    return known / largest * np.clip(largest, 1, _LARGEST) if largest else known


def check_curve(tag: object, labels: object, scores: object, weights: object, thresholds: object) -> Curve:
    """Return a valid curve; arrays on the host are copied, since the caller may write to them.

    Raises:
        TypeError: An argument is no array or has another dtype, or the thresholds are no integer.
        ValueError: The shapes differ, there are no examples, the thresholds are out of range, or there is no
            tag.
    """
    if not isinstance(tag, str) or not tag:
        raise ValueError(f"the PR curve has the tag {tag!r}: give it a name, {_FORM}.")
    truth = check_array(f"the array of labels of the PR curve {tag}", labels)
    if truth.dtype.kind not in "biu":
        raise TypeError(
            f"the labels of the PR curve {tag} have dtype {truth.dtype}: give bools or integers, as of "
            f"labels > 0.5."
        )
    found = check_array(f"the array of scores of the PR curve {tag}", scores)
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise TypeError(
            f"the scores of the PR curve {tag} have dtype {found.dtype}: give probabilities from 0 to 1, of "
            f"logits jax.nn.sigmoid(logits)."
        )
    weight = None if weights is None else check_array(f"the array of weights of the PR curve {tag}", weights)
    if weight is not None and not (weight.dtype.kind in "biu" or jnp.issubdtype(weight.dtype, jnp.floating)):
        raise TypeError(f"the weights of the PR curve {tag} have dtype {weight.dtype}: give real numbers.")
    for name, array in (("scores", found), ("weights", weight)):
        if array is not None and array.shape != truth.shape:
            raise ValueError(
                f"the {name} of the PR curve {tag} have shape {list(array.shape)}, and its labels "
                f"{list(truth.shape)}: give one for each label."
            )
    if not truth.size:
        raise ValueError(f"the PR curve {tag} has labels of shape {list(truth.shape)}, which are none.")
    return Curve(
        tag, held(truth), held(found), None if weight is None else held(weight), _thresholds(tag, thresholds)
    )


def _thresholds(tag: str, thresholds: object) -> int:
    if isinstance(thresholds, bool) or not isinstance(thresholds, int | np.integer):
        raise TypeError(
            f"the thresholds of the PR curve {tag} are {thresholds!r}, a {type(thresholds).__name__}: give "
            f"their number."
        )
    if not 2 <= thresholds <= MAX_THRESHOLDS:
        raise ValueError(
            f"the thresholds of the PR curve {tag} are {thresholds}: they must be 2 to {MAX_THRESHOLDS}."
        )
    return int(thresholds)
