"""Plain events, of scalars without descriptions, which are split without protobuf.

In most runs nearly all events are plain, and importing protobuf takes as long as reading a million of them.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from sowlog._events.points import ParsedEvent
from sowlog._events.restarts import declares_restarts
from sowlog._events.wire import varint

# Keys of fields: wall_time (fixed64), step (varint), file_version, summary and session_log (bytes) of an
# Event; value (bytes) of a Summary; tag (bytes) and simple_value (fixed32) of a value.
TIME, _STEP, _VERSION, _SUMMARY, _SESSION = 0x09, 0x10, 0x1A, 0x2A, 0x3A
_VALUE, _TAG, _SIMPLE = 0x0A, 0x0A, 0x15
# A session_log with the status START.
_START = b"\x08\x01"
# The bytes of a time with its key, and the places of a value's number from the value's end.
TIME_SIZE = 9
NUMBER_BYTES = np.arange(-4, 0)
# Bytes of a size; protobuf reads no longer one.
_LONGEST_SIZE = 5


class _Head(NamedTuple):
    """Time and step of an event, and where its only other field, the last one, begins.

    Attributes:
        step: the step, or 0.
        wall_time: the time, or 0.0.
        key: the key of the last field.
        start: the place of that key.
        content: the place behind the size of the last field.
    """

    step: int
    wall_time: float
    key: int
    start: int
    content: int


class PlainEvent(NamedTuple):
    """An event of scalars without descriptions.

    Attributes:
        step: the step.
        wall_time: seconds since the epoch.
        numbers: the numbers of its tags, in order, as the bytes of int32.
        values: float32, shape [tags].
        head: the bytes before its summary.
        ends: the end of each value, in bytes from the beginning of the event.
    """

    step: int
    wall_time: float
    numbers: bytes
    values: NDArray[np.float32]
    head: int
    ends: NDArray[np.intp]


@final
class Splitter:
    """Splits plain events, and numbers their tags.

    Attributes:
        tags: the tags by number.
    """

    def __init__(self) -> None:
        self.tags: list[str] = []
        self._numbers: dict[str, int] = {}
        # The number of a tag by the bytes of its value without the last four.
        self._known: dict[bytes, int] = {}

    def split(self, payload: bytes) -> PlainEvent | None:
        """Split a serialized event, or return None if it is not plain."""
        try:
            head = _head(payload)
            if head.key != _SUMMARY:
                return None
            numbers, stops = self._walk(payload, head.content)
        except (IndexError, ValueError):
            return None
        if not numbers:
            return None
        ends = np.array(stops)
        places = np.add.outer(ends, NUMBER_BYTES)
        values = np.take(np.frombuffer(payload, np.uint8), places).view("<f4")[:, 0]
        key = np.array(numbers, np.int32).tobytes()
        return PlainEvent(head.step, head.wall_time, key, values, head.start, ends)

    def names(self, event: PlainEvent) -> tuple[str, ...]:
        """Return the tags of an event, in order."""
        return tuple(self.tags[number] for number in np.frombuffer(event.numbers, np.int32).tolist())

    def _walk(self, payload: bytes, start: int) -> tuple[list[int], list[int]]:
        """Return the numbers of the tags of a summary's values, and the end of each value."""
        numbers: list[int] = []
        stops: list[int] = []
        known = self._known
        while start < len(payload):
            size, opening = payload[start + 1], 2
            if size > 0x7F:
                size, stop = _size(payload, start + 1)
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
        if payload[start] != _VALUE or last < body or payload[last] != _SIMPLE:
            raise ValueError("no plain scalar")
        tag = ""
        if last > body:
            size, text = _size(payload, body + 1)
            if payload[body] != _TAG or text + size != last:
                raise ValueError("no plain scalar")
            tag = payload[text:last].decode()
        number = self._numbers.setdefault(tag, len(self.tags))
        if number == len(self.tags):
            self.tags.append(tag)
        self._known[payload[start : stop - 4]] = number
        return number


def bare_event(payload: bytes) -> ParsedEvent | None:
    """Parse an event that only has the version of its file or starts a session; return None for any other."""
    try:
        head = _head(payload)
        content = payload[head.content :]
        declared = declares_restarts(content.decode()) if head.key == _VERSION else None
    except (IndexError, ValueError):
        return None
    starts = head.key == _SESSION and content == _START
    if not starts and declared is None:
        return None
    restart = head.step if starts else None
    return ParsedEvent(head.step, head.wall_time, restart, declared, None, [], [], None, {})


def _head(payload: bytes) -> _Head:
    """Return the head of an event that has a time or none, a step or none, and one more field, in this order.

    Raises:
        ValueError: The event has other fields.
        IndexError: The event is too short.
    """
    start = TIME_SIZE if payload[0] == TIME else 0
    step = 0
    if payload[start] == _STEP:
        step, start = varint(payload, start + 1, len(payload))
    key = payload[start]
    size, content = _size(payload, start + 1)
    if step >> 64 or content + size != len(payload):
        raise ValueError("no plain event")
    (wall_time,) = struct.unpack_from("<d", payload, 1) if payload[0] == TIME else (0.0,)
    return _Head(step - (step >> 63 << 64), wall_time, key, start, content)


def _size(payload: bytes, start: int) -> tuple[int, int]:
    """Return the size that begins at a place, and its end.

    Raises:
        ValueError: It is cut short, or longer than protobuf reads.
    """
    return varint(payload, start, min(len(payload), start + _LONGEST_SIZE))
