"""The picture of a heat map: tiles in colours, with the numbers of rows and steps and a colour bar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

# Every 17th colour of viridis, which is perceptually uniform, also for most of the color-blind: by Nathaniel
# Smith and Stefan van der Walt, as in Matplotlib (CC0).
_VIRIDIS = (
    (68, 1, 84), (72, 26, 108), (71, 47, 125), (65, 68, 135), (57, 86, 140), (49, 104, 142), (42, 120, 142),
    (35, 136, 142), (31, 152, 139), (34, 168, 132), (53, 183, 121), (84, 197, 104), (122, 209, 81),
    (165, 219, 54), (210, 226, 27), (253, 231, 37),
)  # fmt: skip
_TABLE = np.stack(
    [np.rint(np.interp(range(256), range(0, 256, 17), channel)) for channel in zip(*_VIRIDIS, strict=True)],
    axis=-1,
).astype(np.uint8)
NONFINITE = (230, 25, 25)
ABSENT = (225, 225, 225)
_BACKGROUND, _INK = 255, 60
# The range of the colours leaves out the smallest and the largest values, such as those of the first steps.
_RANGE = (0.02, 0.98)
# The size of the tiles together, and of one, in pixels.
_WIDTH, _HEIGHT = 512, 256
_NARROWEST, _LOWEST, _LARGEST = 2, 4, 16
# The characters of numbers, each of 5 rows of 3 pixels: the bits of an octal digit are a row.
_GLYPHS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757",
    "7": "71111", "8": "75757", "9": "75717", ".": "00002", "-": "00700", "+": "02720", "e": "74647",
}  # fmt: skip
_SCALE = 2
_GLYPH_HEIGHT = 5 * _SCALE
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
    colours = _TABLE[np.rint(255 * shares).astype(np.intp)]
    colours[~is_finite] = NONFINITE
    colours[is_absent] = ABSENT
    return colours


def _label_step(height: int) -> int:
    """Return the number of rows from one label to the next, so that they do not touch."""
    return next(step for step in (1, 2, 5) if step * height >= _GLYPH_HEIGHT + _SCALE)


def _frame(tiles: Pixels, *, rows: dict[int, str], steps: list[str], ends: tuple[str, str]) -> Pixels:
    """Return the tiles with the numbers of rows on the left, of steps below, and the bar on the right.

    Args:
        tiles: the tiles, of shape [H, W, 3].
        rows: the number of a row by its first pixel.
        steps: the first step and the last, or the only one.
        ends: the values of the highest and the lowest colour.
    """
    texts = {place: _letters(text) for place, text in rows.items()}
    below, beside = [_letters(step) for step in steps], [_letters(end) for end in ends]
    left = 2 * _GAP + max(text.shape[1] for text in texts.values())
    # Both steps have room below a narrow map.
    right = left + max(tiles.shape[1], sum(text.shape[1] + _GAP for text in below))
    bottom = _GAP + len(tiles)
    bar = right + 2 * _GAP
    after = bar + _BAR + _GAP
    size = bottom + 2 * _GAP + _GLYPH_HEIGHT, after + max(text.shape[1] for text in beside) + _GAP
    picture = np.full((*size, 3), _BACKGROUND, np.uint8)
    picture[_GAP:bottom, left : left + tiles.shape[1]] = tiles
    shades = np.linspace(255, 0, len(tiles)).astype(np.intp)
    picture[_GAP:bottom, bar : bar + _BAR] = _TABLE[shades][:, None]
    for place, text in texts.items():
        _write(picture, text, _GAP + place + _SCALE, left - _GAP - text.shape[1])
    _write(picture, below[0], bottom + _GAP, left)
    if len(below) > 1:
        _write(picture, below[1], bottom + _GAP, max(left + tiles.shape[1], right) - below[1].shape[1])
    _write(picture, beside[0], _GAP, after)
    _write(picture, beside[1], bottom - _GLYPH_HEIGHT, after)
    return picture


def _letters(text: str) -> NDArray[np.bool_]:
    """Return a number as ink, of shape [H, W]."""
    glyphs = np.array([[int(row) for row in _GLYPHS[letter]] for letter in text])
    # One column of space follows each letter.
    bits = (glyphs[..., None] >> np.array([2, 1, 0])) & 1
    spaced = np.pad(bits, ((0, 0), (0, 0), (0, 1)))
    ink = spaced.transpose(1, 0, 2).reshape(5, -1)[:, :-1]
    return ink.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1).astype(np.bool_)


def _write(picture: Pixels, ink: NDArray[np.bool_], top: int, left: int) -> None:
    height, width = ink.shape
    picture[top : top + height, left : left + width][ink] = _INK
