"""Series of a tag: their statistics, health, and curves in one line of text."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sowlog._cli.report import counted

_UNICODE = "▁▂▃▄▅▆▇█"
_ASCII = "_.-~=+*#"
# A step further from the one before than so many usual distances is a gap.
_GAP = 1.5


class Statistics(NamedTuple):
    """The statistics and the health of the points of a tag.

    Attributes:
        points: the number of points.
        first_step: the lowest step; None without points.
        last_step: the step of the last point.
        last: the last value.
        min: the smallest finite value; None if there is none.
        max: the largest finite value.
        mean: the mean of the finite values.
        nonfinite: the number of values that are NaN or infinite.
        first_nonfinite: the step of the first of these.
        gaps: the number of places at which steps are missing, by the usual distance of two steps.
        doubled: the number of points whose step has another point.
        back: the number of points whose step is below that of the point before.
    """

    points: int
    first_step: int | None
    last_step: int | None
    last: float | None
    min: float | None
    max: float | None
    mean: float | None
    nonfinite: int
    first_nonfinite: int | None
    gaps: int
    doubled: int
    back: int

    def health(self) -> str:
        """Return the faults as text; empty if there are none."""
        faults = [
            f"{self.nonfinite} not finite from step {self.first_nonfinite}" if self.nonfinite else "",
            counted(self.gaps, "gap") if self.gaps else "",
            counted(self.doubled, "doubled step") if self.doubled else "",
            f"steps go back {counted(self.back, 'time')}" if self.back else "",
        ]
        return ", ".join(filter(None, faults))


def statistics_of(steps: NDArray[np.int64], values: NDArray[np.float32]) -> Statistics:
    """Return the statistics of the points of a tag."""
    if not len(steps):
        return Statistics(0, None, None, None, None, None, None, 0, None, 0, 0, 0)
    is_finite = np.isfinite(values)
    all_finite = bool(is_finite.all())
    finite = values if all_finite else values[is_finite]
    is_rising = bool((steps[1:] > steps[:-1]).all())
    ordered = steps if is_rising else np.unique(steps)
    # Distances of steps at both ends of int64 do not fit it.
    distances = np.diff(ordered.astype(np.float64))
    return Statistics(
        points=len(steps),
        first_step=int(ordered[0]),
        last_step=int(steps[-1]),
        last=float(values[-1]),
        min=float(finite.min()) if len(finite) else None,
        max=float(finite.max()) if len(finite) else None,
        mean=float(finite.mean(dtype=np.float64)) if len(finite) else None,
        nonfinite=len(values) - len(finite),
        first_nonfinite=None if all_finite else int(steps[~is_finite].min()),
        gaps=_gaps(distances),
        doubled=len(steps) - len(ordered),
        back=0 if is_rising else int((steps[1:] < steps[:-1]).sum()),
    )


def _gaps(distances: NDArray[np.float64]) -> int:
    """Return the number of distances of steps that are beyond the usual one, their median."""
    if not len(distances) or distances.min() == distances.max():
        return 0
    # np.median imports masked arrays.
    middle = (len(distances) - 1) // 2
    return int((distances > _GAP * np.partition(distances, middle)[middle]).sum())


def sparkline(values: NDArray[np.float32], width: int, encoding: str | None) -> str:
    """Return a curve of means of consecutive values; an exclamation mark is a value that is not finite."""
    levels = levels_for(encoding)
    count = min(width, len(values))
    if not count:
        return ""
    edges = np.linspace(0, len(values), count, endpoint=False).astype(np.intp)
    with np.errstate(invalid="ignore"):  # of inf - inf
        sums = np.add.reduceat(values.astype(np.float64), edges)
    means = sums / np.diff(np.append(edges, len(values)))
    is_finite = np.isfinite(means)
    finite = means[is_finite]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    if high > low:
        # Halves, as the distance of the largest float64 values is beyond float64.
        share = (means / 2 - low / 2) / (high / 2 - low / 2)
    else:
        share = np.full(count, (len(levels) // 2 - 1) / (len(levels) - 1))
    heights = np.rint(np.where(is_finite, share, 0.0) * (len(levels) - 1)).astype(int)
    return "".join(levels[height] if ok else "!" for height, ok in zip(heights, is_finite, strict=True))


def levels_for(encoding: str | None) -> str:
    """Return the characters of the heights of a curve that a stream of this encoding can hold."""
    try:
        _UNICODE.encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return _ASCII
    return _UNICODE
