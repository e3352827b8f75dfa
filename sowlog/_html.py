"""HTML of notebooks: bounded tables of escaped text, with small charts as inline SVG."""

import html
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROWS = 50
"""The rows that a table shows at most."""
COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa7733", "#5599cc", "#aa3377", "#777777", "#999900")

_TEXT = 120
_POINTS = 100
_WIDTH, _HEIGHT = 140, 28


class Markup(NamedTuple):
    """HTML of our own, in a cell that is not escaped."""

    html: str


def escaped(text: object) -> str:
    """Return a text as HTML, cut in its middle if it is long."""
    plain = str(text)
    if len(plain) > _TEXT:
        plain = f"{plain[: _TEXT // 2]}…{plain[-_TEXT // 2 :]}"
    return html.escape(plain)


def code(text: str) -> str:
    """Return a repr as HTML."""
    return f"<code>{escaped(text)}</code>"


def number(value: Any) -> str:
    """Return a number with the digits that a person compares."""
    return f"{float(value):.5g}"


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]], *, total: int) -> str:
    """Return a table of the first rows, and how many more there are.

    Args:
        title: the text above the table.
        heads: the heads of the columns.
        rows: the cells of each row: `Markup`, or values shown by their `str`. Only `ROWS` are taken.
        total: the number of all rows.
    """
    body: list[str] = []
    for row in rows:
        if len(body) == ROWS:
            break
        body.append(f"<tr>{''.join(map(_cell, row))}</tr>")
    more = f"<div>and {total - len(body)} more</div>" if total > len(body) else ""
    head = "".join(f'<th style="text-align:left">{escaped(each)}</th>' for each in heads)
    return (
        f"<div><div><b>{escaped(title)}</b></div><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>{more}</div>"
    )


def shallow_first(tags: Iterable[str]) -> list[str]:
    """Return tags in order; of more than a table shows, those of the fewest parts first.

    A table of layers then begins with the losses, which have no layer.
    """
    names = list(tags)
    return names if len(names) <= ROWS else sorted(names, key=lambda tag: tag.count("/"))


def curves(lines: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> Markup:
    """Return a chart of curves in one pair of axes, each in its colour; NaN and infinities are left out.

    Args:
        lines: steps and values of each curve, of one length.
    """
    finite = [(steps[np.isfinite(values)], values[np.isfinite(values)]) for steps, values in lines]
    filled = [each for each in finite if len(each[0])]
    if not filled:
        return Markup("")
    left, right = _range([steps for steps, _ in filled])
    low, high = _range([values for _, values in filled])
    drawn = [
        _line(_scaled(steps, left, right, _WIDTH), _HEIGHT - _scaled(values, low, high, _HEIGHT), colour)
        for (steps, values), colour in zip(finite, _cycle(len(finite)), strict=True)
        if len(steps)
    ]
    return Markup(_svg(drawn))


def bars(heights: NDArray[Any]) -> Markup:
    """Return a chart of bars, one for each height of 0 or more, as of a histogram."""
    count = len(heights)
    scaled = np.asarray(heights, np.float64) / (np.max(heights, initial=0) or 1) * _HEIGHT
    width = _WIDTH / max(count, 1)
    return Markup(
        _svg(
            f'<rect x="{index * width:.1f}" y="{_HEIGHT - height:.1f}" width="{max(width - 0.5, 0.5):.1f}" '
            f'height="{height:.1f}" fill="{COLOURS[0]}"/>'
            for index, height in enumerate(scaled.tolist())
            if height > 0
        )
    )


def swatch(index: int) -> Markup:
    """Return a mark in the colour of a curve."""
    return Markup(f'<span style="color:{COLOURS[index % len(COLOURS)]}">&#9632;</span>')


def _cell(value: object) -> str:
    return f'<td style="text-align:left">{value.html if isinstance(value, Markup) else escaped(value)}</td>'


def _cycle(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _range(columns: Sequence[NDArray[Any]]) -> tuple[float, float]:
    return min(float(each.min()) for each in columns), max(float(each.max()) for each in columns)


def _scaled(values: NDArray[Any], low: float, high: float, length: int) -> NDArray[np.float64]:
    wide = np.asarray(values, np.float64)
    return (wide - low) / (high - low) * (length - 4) + 2 if high > low else np.full(len(wide), length / 2)


def _line(xs: NDArray[np.float64], ys: NDArray[np.float64], colour: str) -> str:
    if len(xs) == 1:
        return f'<circle cx="{xs[0]:.1f}" cy="{ys[0]:.1f}" r="2" fill="{colour}"/>'
    kept = np.unique(np.linspace(0, len(xs) - 1, min(len(xs), _POINTS)).round().astype(int))
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs[kept].tolist(), ys[kept].tolist(), strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _svg(shapes: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(shapes)}</svg>'
    )
