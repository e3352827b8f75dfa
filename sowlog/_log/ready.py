"""Items whose values are ready together, and these values as one matrix."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby, islice, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sowlog._log.item import Item, on_host
from sowlog.writers._rows import ScalarRows

# So many words are about a megabyte of an event file: larger records gain nothing by a larger batch.
_BATCH_WORDS, _SMALLEST_BATCH = 1 << 15, 4


def wait_for_ready(items: deque[Item], pause: Callable[[], None]) -> list[Item]:
    """Wait for the first item; return it and those that are ready then.

    A wait for each step of a fast loop would wake the thread for each.
    """
    items[0].wait()
    if not items[-1].is_ready():
        pause()
    return [items[0], *takewhile(Item.is_ready, islice(items, 1, _batch_size(items[0])))]


def _batch_size(item: Item) -> int:
    """Return the number of items like this one that are written together."""
    words = len(item.scalars) + item.layout.words
    return max(_SMALLEST_BATCH, _BATCH_WORDS // max(1, words))


def read_rows(items: Sequence[Item]) -> ScalarRows | None:
    """Return the records of items of one layout, or None if each has to be read by itself.

    That is so if an item has more than scalars, if a value is absent, NaN or infinite, and if a read fails.

    Args:
        items: two or more, whose values are there.
    """
    tags = _shared_tags(items)
    if not tags:
        return None
    try:
        values = _matrix(items)
    except Exception:
        # Its own read raises the error again, and counts the loss.
        return None
    # An absent value is a NaN as well.
    if not np.isfinite(values).all():
        return None
    return ScalarRows([item.step for item in items], [item.wall_time for item in items], tags, values)


def _shared_tags(items: Sequence[Item]) -> tuple[str, ...] | None:
    """Return the tags of items that have the same scalars, in one order, and nothing else; else None."""
    layout, names, is_row = items[0].layout, tuple(items[0].scalars), items[0].row is not None
    if layout.histograms:
        return None
    for item in items:
        if item.layout is not layout or tuple(item.scalars) != names or not item.is_of_metrics:
            return None
        if (item.row is not None) != is_row:
            return None
    return layout.extended(layout.scalars, names) if names else layout.scalars


def _matrix(items: Sequence[Item]) -> NDArray[np.float32]:
    """Return the values of items of one layout, shape [items, tags]."""
    parts: list[NDArray[np.float32]] = []
    if items[0].packed is not None:
        words = _words_of(items) if items[0].row is None else _words_of_rows(items)
        parts.append(words.reshape(len(items), -1).view(np.float32))
    if items[0].scalars:
        numbers = [number for item in items for number in item.scalars.values()]
        parts.append(on_host(numbers).reshape(len(items), -1))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _words_of(items: Sequence[Item]) -> NDArray[np.uint32]:
    """Return the words of packed buffers, joined."""
    buffers = list(map(_buffer_of, items))
    try:
        # Without an array for each, which costs as much as the rest of the read.
        return np.frombuffer(b"".join(buffers), np.uint32)
    except TypeError:
        # Only an array on one CPU has its bytes at hand.
        return np.concatenate([np.asarray(buffer) for buffer in buffers])


def _words_of_rows(items: Sequence[Item]) -> NDArray[np.uint32]:
    """Return the words of rows of stacked buffers, joined; each stretch of one buffer is one copy."""
    parts: list[NDArray[np.uint32]] = []
    for _, stretch in groupby(items, key=lambda item: id(item.packed)):
        first, *others = stretch
        rows: Any = [first.row, *(item.row for item in others)]
        parts.append(np.asarray(_buffer_of(first))[rows])
    return np.concatenate(parts)


def _buffer_of(item: Item) -> Any:
    return item.packed and item.packed.buffer
