"""The picture of a heat map: tiles in colours, with the numbers of rows and steps and a colour bar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sowlog._log.pictures.lettering import CHARACTER, write
from sowlog._log.pictures.viridis import colours

Pixels = NDArray[np.uint8]

NONFINITE = (230, 25, 25)
ABSENT = (225, 225, 225)
_BACKGROUND, _INK = 255, 60
# The range of the colours leaves out the smallest and the largest values, such as those of the first steps.
_RANGE = (0.02, 0.98)
# The size of the tiles together, and of one, in pixels.
_WIDTH, _HEIGHT = 512, 256
_NARROWEST, _LOWEST, _LARGEST = 2, 4, 16
_GAP = 6
_BAR = 12


def draw(
    means: NDArray[np.float64], is_absent: NDArray[np.bool_], indices: Sequence[int], steps: Sequence[int]
) -> Pixels:
    """Return the picture of a heat map, uint8 of shape [H, W, 3].

    Args:
        means: the values of the tiles, of shape [rows, columns].
        is_absent: of the same shape, whether a tile has no value.
        indices: the number of each row.
        steps: the first step and the last.
    """
    low, high = _range_of(means[np.isfinite(means) & ~is_absent])
    rows, columns = means.shape
    width = max(_NARROWEST, min(_LARGEST, _WIDTH // columns))
    height = max(_LOWEST, min(_LARGEST, _HEIGHT // rows))
    tiles = _paint(means, is_absent, low, high).repeat(height, axis=0).repeat(width, axis=1)
    return _frame(
        tiles,
        rows={height * row: str(indices[row]) for row in range(0, rows, _label_step(height))},
        steps=[str(step) for step in dict.fromkeys(steps)],
        ends=(f"{high:.3g}", f"{low:.3g}"),
    )


def _range_of(finite: NDArray[np.float64]) -> tuple[float, float]:
    """Return the values of the first and the last colour."""
    if not finite.size:
        return 0.0, 0.0
    low, high = np.quantile(finite, _RANGE, method="inverted_cdf")
    return float(low), float(high)


def _paint(values: NDArray[np.float64], is_absent: NDArray[np.bool_], low: float, high: float) -> Pixels:
    """Return the colours of values, of shape [..., 3]; the middle colour if all are equal."""
    is_finite = np.isfinite(values)
    above = np.where(is_finite, values, low) - low
    shares = np.clip(above / (high - low), 0, 1) if high > low else np.full_like(above, 0.5)
    picture = colours(shares)
    picture[~is_finite] = NONFINITE
    picture[is_absent] = ABSENT
    return picture


def _label_step(height: int) -> int:
    """Return the number of rows from one label to the next, so that they do not touch."""
    return next(step for step in (1, 2, 5) if step * height > CHARACTER[0])


def _frame(tiles: Pixels, *, rows: dict[int, str], steps: list[str], ends: tuple[str, str]) -> Pixels:
    """Return the tiles with the numbers of rows on the left, of steps below, and the bar on the right.

    Args:
        tiles: the tiles, of shape [H, W, 3].
        rows: the number of a row by its first pixel.
        steps: the first step and the last, or the only one.
        ends: the values of the highest and the lowest colour.
    """
    high, wide = CHARACTER
    left = 2 * _GAP + wide * max(map(len, rows.values()))
    # Both steps have room below a narrow map.
    right = left + max(tiles.shape[1], sum(wide * len(step) + _GAP for step in steps))
    bottom = _GAP + len(tiles)
    bar = right + 2 * _GAP
    after = bar + _BAR + _GAP
    size = bottom + 2 * _GAP + high, after + wide * max(map(len, ends)) + _GAP
    picture = np.full((*size, 3), _BACKGROUND, np.uint8)
    picture[_GAP:bottom, left : left + tiles.shape[1]] = tiles
    picture[_GAP:bottom, bar : bar + _BAR] = colours(np.linspace(1, 0, len(tiles)))[:, None]
    for place, text in rows.items():
        write(picture, text, top=_GAP + place, left=left - _GAP - wide * len(text), colour=_INK)
    write(picture, steps[0], top=bottom + _GAP, left=left, colour=_INK)
    if len(steps) > 1:
        end = max(left + tiles.shape[1], right) - wide * len(steps[1])
        write(picture, steps[1], top=bottom + _GAP, left=end, colour=_INK)
    write(picture, ends[0], top=_GAP, left=after, colour=_INK)
    write(picture, ends[1], top=bottom - high, left=after, colour=_INK)
    return picture
