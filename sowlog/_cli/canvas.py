"""Curves and heat maps of characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray

from sowlog._cli.curves import levels_for
from sowlog._cli.report import number

_HEIGHT = 12
_MARGIN = 11
# Letters of curves that end in one row; more have no room.
_LETTERS = 6
# The bits of the dots of a braille character, by row and column.
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_BRAILLE = 0x2800
_SHADES = "·░▒▓█", ".:-+#"
# Rows of a heat map; a larger family has several members in a row.
_ROWS = 24


def draw_curves(
    curves: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]], width: int, encoding: str | None
) -> list[str]:
    """Return curves over one another as lines of text, with the range of values and steps.

    Of several curves each has a letter, at the right of the row of its last value: `marked` labels.

    Args:
        curves: steps, rising, and values.
        width: the columns of the terminal.
        encoding: the encoding of the stream, which decides whether a character has eight dots or one.
    """
    is_unicode = not levels_for(encoding).isascii()
    dots = (4, 2) if is_unicode else (1, 1)
    room = width - _MARGIN - (min(len(curves), _LETTERS) + 1 if len(curves) > 1 else 0)
    height, columns = _HEIGHT * dots[0], max(room, 8) * dots[1]
    finite = [(s[np.isfinite(v)].astype(np.float64), v[np.isfinite(v)]) for s, v in curves]
    filled = [(steps, values) for steps, values in finite if len(steps)]
    if not filled:
        return ["(no finite values)"]
    first, last = min(s[0] for s, _ in filled), max(s[-1] for s, _ in filled)
    low, high = min(v.min() for _, v in filled), max(v.max() for _, v in filled)
    canvas = np.zeros((height, columns), np.bool_)
    marks = [""] * _HEIGHT
    for mark, (steps, values) in zip(_marks(len(finite)), finite, strict=True):
        if len(steps):
            up = _scaled(values, low, high)
            _draw(canvas, _scaled(steps, first, last), up)
            marks[round((1 - up[-1]) * (_HEIGHT - 1))] += mark
    rows = _braille(canvas) if is_unicode else ["".join("*" if dot else " " for dot in row) for row in canvas]
    labels = [number(high), *[""] * (_HEIGHT - 2), number(low)]
    lines = [
        f"{label:>{_MARGIN - 2}} {row} {mark[:_LETTERS]}".rstrip()
        for label, row, mark in zip(labels, rows, marks, strict=True)
    ]
    return [*lines, _axis(int(first), int(last), max(room, 8) + _MARGIN)]


def marked(labels: Sequence[str]) -> list[str]:
    """Return the labels of curves with their letters, as `draw_curves` draws them."""
    return [f"{mark} {label}".lstrip() for mark, label in zip(_marks(len(labels)), labels, strict=True)]


def _marks(count: int) -> Iterator[str]:
    """Yield the letter of each curve; none for one curve, and for those beyond the alphabet."""
    letters = ascii_lowercase if count > 1 else ""
    yield from (letters[index : index + 1] for index in range(count))


def draw_heat_maps(
    maps: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]], width: int, encoding: str | None
) -> list[list[str]]:
    """Return heat maps as lines of text: a darker character is a higher mean of the values of its part.

    Args:
        maps: steps, and values of shape [members, steps]; one scale is that of all.
        width: the columns of the terminal.
        encoding: the encoding of the stream, which decides whether a character is a shade or a letter.
    """
    shades = _SHADES[levels_for(encoding).isascii()]
    folded = [_folded(rows, width - _MARGIN) for _, rows in maps]
    means = np.concatenate([each.ravel() for each in folded])
    finite = means[np.isfinite(means)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    scale = f"{'':{_MARGIN - 1}}{shades[0]} {number(low)} to {shades[-1]} {number(high)}"
    drawn: list[list[str]] = []
    for (steps, rows), each in zip(maps, folded, strict=True):
        if not np.isfinite(each).any():
            drawn.append(["(no finite values)"])
            continue
        heights = np.rint(_scaled(np.nan_to_num(each, nan=low), low, high) * (len(shades) - 1)).astype(int)
        members = _parts(len(rows), _ROWS)
        lines = [
            f"{part[0]:>{_MARGIN - 2}} "
            + "".join(shades[h] if ok else " " for h, ok in zip(row, np.isfinite(mean), strict=True))
            for part, row, mean in zip(members, heights, each, strict=True)
        ]
        drawn.append([*lines, _axis(int(steps[0]), int(steps[-1]), each.shape[1] + _MARGIN), scale])
    return drawn


def _folded(rows: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the mean of the values of each part of a heat map, of so many columns at most."""
    columns = _parts(rows.shape[1], max(width, 8))
    members = _parts(len(rows), _ROWS)
    return np.array([[_mean(rows[np.ix_(part, column)]) for column in columns] for part in members])


def _parts(count: int, most: int) -> list[NDArray[np.intp]]:
    return np.array_split(np.arange(count), min(count, most))


def _draw(canvas: NDArray[np.bool_], across: NDArray[np.float64], up: NDArray[np.float64]) -> None:
    """Set the dots of a curve, of positions from 0 to 1: in each column a line to the next one."""
    height, width = canvas.shape
    grid = np.linspace(0, 1, width)
    inside = (grid >= across[0]) & (grid <= across[-1])
    places = np.unique(np.concatenate((np.flatnonzero(inside), [round(across[0] * (width - 1))])))
    rows = np.rint((1 - np.interp(grid[places], across, up)) * (height - 1)).astype(int)
    for place, row, after in zip(places, rows, np.append(rows[1:], rows[-1]), strict=True):
        canvas[min(row, after) : max(row, after) + 1, place] = True


def _scaled(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    # Halves, as the distance of the largest float64 values is beyond float64.
    span = high / 2 - low / 2
    return (values / 2 - low / 2) / span if span > 0 else np.full(values.shape, 0.5)


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _braille(canvas: NDArray[np.bool_]) -> list[str]:
    height, width = canvas.shape
    blocks = canvas.reshape(height // 4, 4, width // 2, 2)
    codes = _BRAILLE + np.einsum("rick,ik->rc", blocks, _DOTS)
    return ["".join(" " if code == _BRAILLE else chr(code) for code in row) for row in codes.tolist()]


def _axis(first: int, last: int, width: int) -> str:
    room = max(width - _MARGIN - len(str(first)), len(str(last)) + 1)
    return f"{'':{_MARGIN - 1}}{first}{last:>{room}}"
