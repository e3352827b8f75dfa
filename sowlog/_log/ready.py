"""Items whose values are ready together, and these values as one matrix."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, islice, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sowlog._log.item import Item, on_host
from sowlog._tree.layout import Packed
from sowlog.writers._rows import ScalarRows

_Packed = tuple[Packed | None, ...]
_Scalars = tuple[Mapping[str, float], ...]
_Rows = tuple[int | None, ...]

# So many words are about a megabyte of an event file: larger records gain nothing by a larger batch.
_BATCH_WORDS, _SMALLEST_BATCH = 1 << 15, 4


def wait_for_ready(items: deque[Item], pause: Callable[[], None], *, one_by_one: bool = False) -> list[Item]:
    """Wait for the first item; return it and those that are ready then.

    A wait for each step of a fast loop would wake the thread for each.

    Args:
        items: the items, one or more.
        pause: waits a moment, in which the device may finish more steps.
        one_by_one: whether to ask each item, as programs of several devices do not end in their order.
    """
    items[0].wait()
    if not items[-1].is_ready():
        pause()
    batch = list(islice(items, _batch_size(items[0])))
    if _ends_ready(batch) and not one_by_one:
        return batch
    return [batch[0], *takewhile(Item.is_ready, batch[1:])]


def _ends_ready(batch: Sequence[Item]) -> bool:
    """Return whether the last item that the device computes is ready.

    Steps end in their order, so those before it are ready too; of another, the read waits. A number on the
    host is always ready, also behind a step that the device still computes.
    """
    computed = next(filter(Item.is_computed, reversed(batch)), batch[-1])
    return computed.is_ready()


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
    # Columns, since a look at each item in turn costs as much as the rest of the read.
    steps, wall_times, packed, scalars, rows, *others = zip(*items, strict=True)
    if not (_are_alike(packed, scalars, rows) and _are_absent(others)):
        return None
    layout, names = items[0].layout, tuple(scalars[0])
    tags = layout.extended(layout.scalars, names) if names else layout.scalars
    if layout.histograms or not tags:
        return None
    try:
        values = _matrix(packed, scalars, rows)
    except Exception:
        # Its own read raises the error again, and counts the loss.
        return None
    # An absent value is a NaN as well.
    if not np.isfinite(values).all():
        return None
    return ScalarRows(steps, wall_times, tags, values)


def _are_alike(packed: _Packed, scalars: _Scalars, rows: _Rows) -> bool:
    """Return whether items have the same scalars in one order, and rows of stacks or none."""
    layouts = {None if each is None else id(each.layout) for each in packed}
    names = tuple(scalars[0])
    in_one_order = not any(scalars) or all(tuple(each) == names for each in scalars)
    return len(layouts) == 1 and in_one_order and rows.count(None) in (0, len(rows))


def _are_absent(columns: Sequence[tuple[object, ...]]) -> bool:
    """Return whether no item has a value beside its metrics."""
    return all(column.count(None) == len(column) for column in columns)


def _matrix(packed: _Packed, scalars: _Scalars, rows: _Rows) -> NDArray[np.float32]:
    """Return the values of items of one layout, shape [items, tags]."""
    parts: list[NDArray[np.float32]] = []
    if packed[0] is not None:
        buffers = [each and each.buffer for each in packed]
        words = _words_of(buffers) if rows[0] is None else _words_of_rows(buffers, rows)
        parts.append(words.reshape(len(buffers), -1).view(np.float32))
    if scalars[0]:
        numbers = [number for each in scalars for number in each.values()]
        parts.append(on_host(numbers).reshape(len(scalars), -1))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _words_of(buffers: Sequence[Any]) -> NDArray[np.uint32]:
    """Return the words of packed buffers, joined."""
    try:
        # Without an array for each, which costs as much as the rest of the read.
        return np.frombuffer(b"".join(buffers), np.uint32)
    except TypeError:
        # Only an array on one CPU has its bytes at hand.
        return np.concatenate([np.asarray(buffer) for buffer in buffers])


def _words_of_rows(buffers: Sequence[Any], rows: _Rows) -> NDArray[np.uint32]:
    """Return the words of rows of stacked buffers, joined; each stretch of one buffer is one copy."""
    parts: list[NDArray[np.uint32]] = []
    for _, stretch in groupby(zip(buffers, rows, strict=True), key=lambda pair: id(pair[0])):
        (buffer, first), *others = stretch
        places: Any = [first, *(row for _, row in others)]
        parts.append(np.asarray(buffer)[places])
    return np.concatenate(parts)
