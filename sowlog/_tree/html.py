"""Packed results, and those of a tree of states, as a table of a notebook."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sowlog import _html
from sowlog._reduce.distributions import HistogramValue
from sowlog._reduce.html import histogram_html


def packed_html(layout: Any, buffer: Any) -> str:
    """Return the results that are present, by tag.

    Args:
        layout: the layout of the buffer.
        buffer: uint32, shape [words], on the device or the host.
    """
    words = np.asarray(buffer)
    scalars = dict(zip(*layout.decode(words), strict=True))
    return results_table("Packed results", scalars, layout.decode_histograms(words))


def results_table(title: str, scalars: Mapping[str, Any], histograms: Mapping[str, HistogramValue]) -> str:
    """Return a table of results on the host by tag."""

    def rows() -> Iterator[tuple[object, ...]]:
        yield from ((tag, _html.number(scalars[tag]), "") for tag in _html.shallow_first(scalars))
        yield from ((tag, repr(each), histogram_html(each)) for tag, each in histograms.items())

    total = len(scalars) + len(histograms)
    title = f"{title}: {total} tag{'s' * (total != 1)}"
    return _html.table(title, ("tag", "value", ""), rows(), total=total)
