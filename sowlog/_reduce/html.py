"""States as tables of a notebook, and histograms as bars."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from sowlog import _html

_BARS = 40


def results_html(title: str, results: dict[str, Any], seen: Any) -> str:
    """Return the results of a state: a row for each, by index if the state has axes.

    Args:
        title: the reducer's repr.
        results: arrays of shape [*batch], or histograms, by name; "" for the only one.
        seen: bool, shape [*batch].
    """
    present = np.asarray(seen)
    arrays = {name: np.asarray(each) for name, each in results.items()}

    def rows() -> Iterator[tuple[object, ...]]:
        for index in np.ndindex(present.shape):
            place = "/".join(map(str, index))
            shown = present[index]
            texts = [_html.number(each[index]) if shown else "nothing sown" for each in arrays.values()]
            yield (place, *texts)

    heads = ("index" if present.ndim else "", *(name or "result" for name in results))
    table = _html.table(title, heads, rows(), total=present.size)
    charts = [_chart(name, each, present) for name, each in arrays.items() if present.ndim]
    return table + "".join(charts)


def _chart(name: str, values: Any, present: Any) -> str:
    flat, steps = values[present], np.flatnonzero(present)
    return f"<div>{_html.escaped(name)} {_html.curves([(steps, flat)]).html}</div>" if len(flat) > 1 else ""


def histogram_html(value: Any) -> _html.Markup:
    """Return the bars of a histogram on the host, of equal width between its extremes.

    The elements of a bin, which is narrow near 0, are spread evenly over it.
    """
    counts = np.asarray(value.counts, np.float64) + np.asarray(value.residues, np.float64)
    low, high = float(value.min), float(value.max)
    if not counts.sum() > 0 or not low < high:
        return _html.Markup("")
    edges = np.clip(value.edges, low, high)
    grid = np.linspace(low, high, _BARS + 1)
    # Of the edges beyond an extreme, all of which are clipped to it, the last one has its count.
    places, last = np.unique(edges[::-1], return_index=True)
    below = np.concatenate([[0.0], np.cumsum(counts)])[::-1][last]
    return _html.bars(np.diff(np.interp(grid, places, below, left=0.0)))
