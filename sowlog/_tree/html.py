"""Packed results as a table of a notebook."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from sowlog import _html
from sowlog._reduce.html import histogram_html


def packed_html(layout: Any, buffer: Any) -> str:
    """Return the results that are present, by tag.

    Args:
        layout: the layout of the buffer.
        buffer: uint32, shape [words], on the device or the host.
    """
    words = np.asarray(buffer)
    tags, values = layout.decode(words)
    histograms = layout.decode_histograms(words)

    def rows() -> Iterator[tuple[object, ...]]:
        value_of = dict(zip(tags, values, strict=True))
        yield from ((tag, _html.number(value_of[tag]), "") for tag in _html.shallow_first(tags))
        yield from ((tag, repr(each), histogram_html(each)) for tag, each in histograms.items())

    total = len(tags) + len(histograms)
    title = f"Packed results: {total} tag{'s' * (total != 1)}"
    return _html.table(title, ("tag", "value", ""), rows(), total=total)
