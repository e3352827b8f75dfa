"""Records of one layout that follow each other, such as those of a run with one tag, checked together.

A CRC is linear: that of a payload is the CRC of its fixed bytes, and for each other byte a number of a table,
joined by exclusive or. So the checksums of a block are a few look-ups in NumPy, and no call for each record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from sowlog._events.columns import EventLayout
from sowlog._events.framing import FOOTER_SIZE, HEADER_SIZE, masked, open_regular, pack_header

Bytes = NDArray[np.uint8]

# Bytes that are read at once: at first, as records of another layout may follow soon, and at most.
_FIRST_BLOCK = 1 << 15
_BLOCK = 1 << 21
# With more bytes that vary, or longer records, the CRC in C of each payload is faster.
_MOST_VARYING = 64
_LONGEST = 1 << 12
_WORD = 8


def is_short(layout: EventLayout) -> bool:
    """Return whether a layout is short and few of its bytes vary, so that `equal_records` is faster."""
    return layout.size <= _LONGEST and len(_varying(layout)) <= _MOST_VARYING


def equal_records(path: Path, start: int, layout: EventLayout) -> Iterator[Bytes]:
    """Yield the payloads of the whole records from a position on, up to the first of another layout.

    Args:
        path: the event file.
        start: the byte at which a record begins.
        layout: the layout.

    Returns:
        uint8 of shape [n, layout.size] for each block, n > 0, with a valid checksum in each row.

    Raises:
        OSError: The file cannot be read.
    """
    stride = HEADER_SIZE + layout.size + FOOTER_SIZE
    has_layout = _Pattern(layout)
    checksums = _Checksums(layout)
    with open_regular(path) as file:
        file.seek(start)
        size = min(_FIRST_BLOCK, _BLOCK)
        while data := file.read(max(1, size // stride) * stride):
            size = min(2 * size, _BLOCK)
            records = np.frombuffer(data, np.uint8, len(data) // stride * stride).reshape(-1, stride)
            payloads = records[: _leading(has_layout(records)), HEADER_SIZE:-FOOTER_SIZE]
            footers = np.ascontiguousarray(records[: len(payloads), -FOOTER_SIZE:]).view("<u4")[:, 0]
            payloads = payloads[: _leading(checksums(payloads) == footers)]
            if len(payloads):
                yield payloads
            if len(payloads) * stride < len(data):
                return


def _leading(mask: NDArray[np.bool_]) -> int:
    """Return the number of true elements before the first false one."""
    return len(mask) if mask.all() else int(np.argmin(mask))


def _varying(layout: EventLayout) -> NDArray[np.intp]:
    return np.flatnonzero(layout.fixed != 0xFF)


@final
class _Pattern:
    """The bits of a record, but for its checksum, that do not vary, compared as words of eight bytes."""

    def __init__(self, layout: EventLayout) -> None:
        header = np.frombuffer(pack_header(layout.size), np.uint8)
        template = np.concatenate((header, layout.template))
        fixed = np.concatenate((np.full(HEADER_SIZE, 0xFF, np.uint8), layout.fixed))
        # The last word overlaps the one before it.
        last = len(template) - _WORD
        starts = [*range(0, last, _WORD), last]
        self._words = [
            (start, *(part[start : start + _WORD].copy().view("<u8")[0] for part in (template, fixed)))
            for start in starts
        ]

    def __call__(self, records: Bytes) -> NDArray[np.bool_]:
        """Return a mask of the rows that have these bits."""
        differing = np.zeros(len(records), np.uint64)
        for start, template, fixed in self._words:
            differing |= (records[:, start : start + _WORD].view("<u8")[:, 0] ^ template) & fixed
        return differing == 0


@final
class _Checksums:
    """The masked CRC32C of payloads of one layout."""

    def __init__(self, layout: EventLayout) -> None:
        self._varying = _varying(layout)
        base = layout.template.copy()
        base[self._varying] = 0
        self._base = crc32c(base.tobytes())
        self._tables = [self._table(base, int(index)) for index in self._varying]

    def _table(self, base: Bytes, index: int) -> NDArray[np.uint32]:
        """Return the change of the CRC by each value of a byte."""
        table = np.zeros(1, np.uint32)
        for bit in range(8):
            changed = base.copy()
            changed[index] = 1 << bit
            table = np.concatenate([table, table ^ np.uint32(crc32c(changed.tobytes()) ^ self._base)])
        return table

    def __call__(self, payloads: Bytes) -> NDArray[np.uint32]:
        """Return the masked CRC of each row."""
        crcs = np.full(len(payloads), self._base, np.uint32)
        for index, table in zip(self._varying, self._tables, strict=True):
            crcs ^= np.take(table, payloads[:, index])
        return masked(crcs.astype(np.uint64)).astype(np.uint32)
