"""Detectors: the condition of a rule of an alert, on the values of one tag."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import NamedTuple, Protocol

from sowlog.alerts import Falling, Plateau, Range, Spike

# Estimates the standard deviation of normal noise from its median absolute deviation.
_MAD_SCALE = 1.4826
# Of the median: a constant series has a deviation of 0, and each rounding would be a spike.
_LEAST_DEVIATION = 0.01
_FEWEST = 5

TagRule = Range | Spike | Plateau | Falling


class Finding(NamedTuple):
    """The condition of a rule at one value.

    Attributes:
        value: the value that the condition is about.
        verb: the words between the tag and the value.
        reason: the words after the step.
    """

    value: float
    verb: str
    reason: str


class Detector(Protocol):
    """The condition of a rule on the values of one tag, in their order."""

    def find(self, value: float, *, is_on: bool) -> Finding | None:
        """Return the condition at the next value, or None if it does not hold.

        Args:
            value: the value, of float32.
            is_on: whether the condition held before, and so ends at another bound than it begins.
        """
        ...


def detector_of(rule: TagRule) -> Detector:
    """Return a new detector of a rule."""
    match rule:
        case Range():
            return _Range(rule)
        case Spike():
            return _Spike(rule)
        case Plateau():
            return _Plateau(rule)
        case Falling():
            return _Falling(rule)


class _Range:
    def __init__(self, rule: Range) -> None:
        self._rule = rule

    def find(self, value: float, *, is_on: bool) -> Finding | None:
        del is_on
        if self._rule.low <= value <= self._rule.high:
            return None
        if math.isnan(value):
            return Finding(value, "is", "")
        bound = f"above {self._rule.high:g}" if value > self._rule.high else f"below {self._rule.low:g}"
        return Finding(value, "is", bound)


class _Spike:
    def __init__(self, rule: Spike) -> None:
        self._rule = rule
        self._values: deque[float] = deque(maxlen=rule.window)
        self._fewest = max(_FEWEST, rule.window // 4)

    def find(self, value: float, *, is_on: bool) -> Finding | None:
        if not math.isfinite(value):
            return Finding(value, "is", "")
        found = None
        if len(self._values) >= self._fewest:
            found = self._compare(value, self._rule.threshold / 2 if is_on else self._rule.threshold)
        self._values.append(value)
        return found

    def _compare(self, value: float, threshold: float) -> Finding | None:
        median = statistics.median(self._values)
        distance = self._distance(value - median)
        # Most values end here, before the second median.
        if distance <= threshold * _LEAST_DEVIATION * abs(median):
            return None
        deviation = _MAD_SCALE * statistics.median(abs(each - median) for each in self._values)
        deviation = max(deviation, _LEAST_DEVIATION * abs(median))
        if distance <= threshold * deviation:
            return None
        around = f"far from its median of {median:.4g} (robust deviation {deviation:.2g})"
        return Finding(value, "is", around)

    def _distance(self, difference: float) -> float:
        match self._rule.side:
            case "above":
                return difference
            case "below":
                return -difference
            case "both":
                return abs(difference)


class _Plateau:
    def __init__(self, rule: Plateau) -> None:
        self._rule = rule
        self._values: list[float] = []
        self._best: float | None = None
        self._found: Finding | None = None

    def find(self, value: float, *, is_on: bool) -> Finding | None:
        del is_on
        # NaN would make the order of a sort, and so the median, undefined.
        self._values.append(self._worst if math.isnan(value) else value)
        if len(self._values) == self._rule.window:
            self._end_window(statistics.median(self._values))
            self._values.clear()
        return self._found

    @property
    def _worst(self) -> float:
        return math.inf if self._rule.better == "lower" else -math.inf

    def _end_window(self, median: float) -> None:
        best = self._best
        self._found = None
        if best is None or self._is_better(median, best):
            self._best = median
        else:
            reason = f"the median of {self._rule.window} values, and was {best:.4g} before"
            self._found = Finding(median, "has stopped improving and is", reason)

    def _is_better(self, median: float, best: float) -> bool:
        if not math.isfinite(best):
            return math.isfinite(median)
        gain = best - median if self._rule.better == "lower" else median - best
        return gain > self._rule.min_change * abs(best)


class _Falling:
    def __init__(self, rule: Falling) -> None:
        self._rule = rule
        self._values: deque[float] = deque(maxlen=rule.window)
        self._highest = -math.inf

    def find(self, value: float, *, is_on: bool) -> Finding | None:
        self._values.append(-math.inf if math.isnan(value) else value)
        if len(self._values) < self._rule.window:
            return None
        median = statistics.median(self._values)
        # Each rate has fallen from an infinite one, as of a step in no time.
        if math.isfinite(median):
            self._highest = max(self._highest, median)
        drop = self._rule.drop / 2 if is_on else self._rule.drop
        # No share of a negative rate is below it.
        if self._highest <= 0 or not median < (1 - drop) * self._highest:
            return None
        return Finding(median, "has fallen to", f"from {self._highest:.4g}")
