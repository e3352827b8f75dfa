"""Singles: events whose set of tags occurs once, as with absent values that change at every step.

A layout for each would cost more than its points. So a single is split into its values, whose bytes before
the last four are known from other events, and the values are joined by tag at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from sowlog._events.columns import Columns

# Keys of fields: wall_time (fixed64), step (varint) and summary (bytes) of an Event; value (bytes) of a
# Summary; tag (bytes) and simple_value (fixed32) of a value.
_TIME, _STEP, _SUMMARY = 0x09, 0x10, 0x2A
_VALUE, _TAG, _SIMPLE = 0x0A, 0x0A, 0x15
_VALUE_BYTES = np.arange(-4, 0)


class _Single(NamedTuple):
    position: int
    step: int
    wall_time: float
    values: NDArray[np.float32]


@final
class Singles:
    """Keeps the points of events with plain scalars only, one event for each set of tags."""

    def __init__(self) -> None:
        self._tags: list[str] = []
        self._numbers: dict[str, int] = {}
        # The number of a tag by the bytes of its value without the last four.
        self._known: dict[bytes, int] = {}
        # Keys are the numbers of the tags as int32 bytes.
        self._events: dict[bytes, _Single] = {}

    def keep(self, payload: bytes, position: int) -> bool:
        """Keep an event; return False if it has other values, or an event with its tags is kept already."""
        try:
            step, start = _head(payload)
            numbers, stops = self._walk(payload, start)
        except (IndexError, ValueError):
            return False
        key = np.array(numbers, np.int32).tobytes()
        if not numbers or key in self._events:
            return False
        data = np.frombuffer(payload, np.uint8)
        values = np.take(data, np.add.outer(np.array(stops), _VALUE_BYTES)).view("<f4")[:, 0]
        wall_time = float(data[1:9].view("<f8")[0]) if payload[0] == _TIME else 0.0
        self._events[key] = _Single(position, step, wall_time, values)
        return True

    def release(self, tags: tuple[str, ...]) -> list[Columns]:
        """Remove and return the kept event with these tags in this order, if there is one."""
        numbers = np.array([self._numbers.get(tag, -1) for tag in tags], np.int32)
        single = self._events.pop(numbers.tobytes(), None)
        return [] if single is None else [_rows([single], [1], single.values[None])]

    def columns(self) -> Iterator[tuple[str, Columns]]:
        """Yield each tag with its points."""
        if not self._events:
            return
        singles = list(self._events.values())
        numbers = np.concatenate([np.frombuffer(key, np.int32) for key in self._events])
        values = np.concatenate([single.values for single in singles])[:, None]
        columns = _rows(singles, [len(single.values) for single in singles], values)
        order = np.argsort(numbers, kind="stable")
        starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        for rows in np.split(order, starts[1:]):
            yield self._tags[numbers[rows[0]]], columns.take(rows)

    def _walk(self, payload: bytes, start: int) -> tuple[list[int], list[int]]:
        """Return the numbers of the tags of a summary's values, and the end of each value."""
        numbers: list[int] = []
        stops: list[int] = []
        known = self._known
        while start < len(payload):
            size, opening = payload[start + 1], 2
            if size > 0x7F:
                size, stop = _varint(payload, start + 1)
                opening = stop - start
            stop = start + opening + size
            number = known.get(payload[start : stop - 4])
            if number is None:
                number = self._learn(payload, start, start + opening, stop)
            numbers.append(number)
            stops.append(stop)
            start = stop
        if start != len(payload):
            raise ValueError("cut short")
        return numbers, stops

    def _learn(self, payload: bytes, start: int, body: int, stop: int) -> int:
        """Return the number of the tag of a plain scalar value.

        Raises:
            ValueError: The value is no plain scalar.
        """
        last = stop - 5
        if payload[start] != _VALUE or last < body or stop > len(payload) or payload[last] != _SIMPLE:
            raise ValueError("no plain scalar")
        tag = ""
        if last > body:
            size, text = _varint(payload, body + 1)
            if payload[body] != _TAG or text + size != last:
                raise ValueError("no plain scalar")
            tag = payload[text:last].decode()
        number = self._numbers.setdefault(tag, len(self._tags))
        if number == len(self._tags):
            self._tags.append(tag)
        self._known[payload[start : stop - 4]] = number
        return number


def _rows(singles: list[_Single], counts: list[int], values: NDArray[np.float32]) -> Columns:
    return Columns(
        np.repeat(np.array([single.position for single in singles], np.int64), counts),
        np.repeat(np.array([single.step for single in singles], np.int64), counts),
        np.repeat(np.array([single.wall_time for single in singles]), counts),
        values,
    )


def _head(payload: bytes) -> tuple[int, int]:
    """Return the step of an event, and the start of the first value of its summary.

    Raises:
        ValueError: The event has other fields than the events of our writer.
        IndexError: The event is too short.
    """
    start = 9 if payload[0] == _TIME else 0
    step = 0
    if payload[start] == _STEP:
        step, start = _varint(payload, start + 1)
    if payload[start] != _SUMMARY:
        raise ValueError("no summary")
    size, start = _varint(payload, start + 1)
    if start + size != len(payload):
        raise ValueError("more than a summary")
    return step - (step >> 63 << 64), start


def _varint(payload: bytes, start: int) -> tuple[int, int]:
    """Return the number of 64 bits that a varint encodes, and its end."""
    number = 0
    for index in range(10):
        byte = payload[start + index]
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            break
    else:
        raise ValueError("no varint")
    if number >> 64:
        raise ValueError("no varint of 64 bits")
    return number, start + index + 1
