"""Event layouts: serialized events that differ only in time, step and values, decoded as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

# Protobuf serializes an Event as wall_time (tag and 8 bytes), step (tag and varint, left out if 0), the rest.
_TIME, _STEP = 0x09, 0x10
_TIME_SIZE = 9


@dataclass
class Columns:
    """Points of one set of tags, with a row for each event.

    Attributes:
        positions: int64, shape [n]: the position of each event among all events read.
        steps: int64, shape [n].
        wall_times: float64, shape [n], seconds since the epoch.
        values: float32, shape [n, number of tags].
    """

    positions: NDArray[np.int64]
    steps: NDArray[np.int64]
    wall_times: NDArray[np.float64]
    values: NDArray[np.float32]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Columns:
        """Return the chosen rows."""
        return Columns(self.positions[rows], self.steps[rows], self.wall_times[rows], self.values[rows])


def concatenate(parts: list[Columns]) -> Columns:
    """Return all rows in the order of their positions."""
    merged = Columns(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.wall_times for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
    if (np.diff(merged.positions) > 0).all():
        return merged
    return merged.take(np.argsort(merged.positions, kind="stable"))


@final
class EventLayout:
    """The layout of events of one size and one set of tags, and the events held for decoding.

    Args:
        tags: the tags of the event's scalars, in order.
        size: the size of the serialized event.
        low: the event without time and step, with 1 in each byte of its values.
        high: the event without time and step, with 2 in each byte of its values.

    Attributes:
        template: uint8 of shape [size], the bytes that do not vary, and 0.
        fixed: uint8 of shape [size], a mask of the bits that do not vary.
    """

    def __init__(self, tags: tuple[str, ...], size: int, low: bytes, high: bytes) -> None:
        self.tags = tags
        self.size = size
        self._head = size - len(low)
        body = np.frombuffer(low, np.uint8)
        varies = body != np.frombuffer(high, np.uint8)
        self.template = np.zeros(size, np.uint8)
        self.fixed = np.zeros(size, np.uint8)
        if self.regular:
            self._fix_head()
            self.template[self._head :] = body
            self.fixed[self._head :] = np.where(varies, 0, 0xFF)
        self._columns = self._head + np.flatnonzero(varies).astype(np.int32)
        self.probe = (self._head, int(self._columns[0]))
        self.held: list[bytes] = []
        self.positions: list[int] = []

    @property
    def regular(self) -> bool:
        """Whether the head has the size of a wall time, with or without a step."""
        return self._head == _TIME_SIZE or _TIME_SIZE + 2 <= self._head <= _TIME_SIZE + 11

    def _fix_head(self) -> None:
        self.template[0], self.fixed[0] = _TIME, 0xFF
        if self._head == _TIME_SIZE:
            return
        self.template[_TIME_SIZE], self.fixed[_TIME_SIZE] = _STEP, 0xFF
        # The highest bit is set in all bytes of a varint but the last.
        self.fixed[_TIME_SIZE + 1 : self._head] = 0x80
        self.template[_TIME_SIZE + 1 : self._head - 1] = 0x80

    def fits(self, rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return a mask of the rows of bytes, shape [n, size], that have this layout."""
        return np.logical_not(((rows ^ self.template) & self.fixed).any(axis=1))

    def holds(self, payload: bytes) -> bool:
        """Return whether one event of the right size has this layout."""
        return bool(self.fits(np.frombuffer(payload, np.uint8)[None])[0])

    def hold(self, payload: bytes, position: int) -> None:
        """Keep an event that probably has this layout until `decode`, which checks it."""
        self.held.append(payload)
        self.positions.append(position)

    def decode(self) -> tuple[Columns, list[tuple[bytes, int]]]:
        """Return the points of the held events, and the events that have another layout."""
        held, positions = self.held, np.array(self.positions, np.int64)
        self.held, self.positions = [], []
        rows = np.frombuffer(b"".join(held), np.uint8).reshape(len(held), self.size)
        fits = self.fits(rows)
        misfits = [(held[row], int(positions[row])) for row in np.flatnonzero(~fits)]
        if misfits:
            rows, positions = rows[fits], positions[fits]
        return self.decode_rows(rows, positions), misfits

    def decode_rows(self, rows: NDArray[np.uint8], positions: NDArray[np.int64]) -> Columns:
        """Return the points of serialized events that have this layout, uint8 of shape [n, size]."""
        wall_times = np.ascontiguousarray(rows[:, 1:_TIME_SIZE]).view("<f8")[:, 0]
        steps = _varints(rows[:, _TIME_SIZE + 1 : self._head])
        values = np.take(rows, self._columns, axis=1).view("<f4")
        return Columns(positions, steps, wall_times, values)


def _varints(rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the int64 that each row encodes as a varint; 0 for a row without bytes."""
    numbers = np.zeros(len(rows), np.uint64)
    for index in range(rows.shape[1]):
        numbers |= (rows[:, index] & 0x7F).astype(np.uint64) << np.uint64(7 * index)
    return numbers.view(np.int64)
