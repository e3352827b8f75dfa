"""Event layouts: serialized events that differ only in time, step and values, decoded as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from sowlog._events.plain import NUMBER_BYTES, TIME, TIME_SIZE, PlainEvent


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
    # Most parts follow each other, and then their rows need not be sorted.
    parts = sorted(parts, key=lambda part: part.positions[:1].tolist())
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
        payload: one serialized event with this layout.
        event: the same event, split.

    Attributes:
        size: the size of the serialized event.
        template: uint8 of shape [size], the bits that do not vary, and 0.
        fixed: uint8 of shape [size], a mask of the bits that do not vary.
        probe: the bytes between the head and the number of the first value, as a pair of places.
    """

    def __init__(self, tags: tuple[str, ...], payload: bytes, event: PlainEvent) -> None:
        self.tags = tags
        self.size = len(payload)
        self._has_time = payload[0] == TIME
        # Both slices are empty in an event without a time or a step.
        time = slice(1, TIME_SIZE * self._has_time)
        self._step = slice(TIME_SIZE * self._has_time + 1, event.head)
        self._columns = np.add.outer(event.ends, NUMBER_BYTES).ravel()
        self.fixed = np.full(self.size, 0xFF, np.uint8)
        self.fixed[time] = 0
        # The highest bit of a byte of the step says whether another one follows.
        self.fixed[self._step] = 0x80
        self.fixed[self._columns] = 0
        self.template = np.frombuffer(payload, np.uint8) & self.fixed
        self.probe = (event.head, int(self._columns[0]))
        self.held: list[bytes] = []
        self.positions: list[int] = []

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
        wall_times = np.zeros(len(rows))
        if self._has_time:
            # A view, of a single row for example, would keep all bytes that were read with it.
            wall_times = rows[:, 1:TIME_SIZE].copy().view("<f8")[:, 0]
        steps = _varints(rows[:, self._step])
        values = np.take(rows, self._columns, axis=1).view("<f4")
        return Columns(positions, steps, wall_times, values)


def _varints(rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the int64 that each row encodes as a varint; 0 for a row without bytes."""
    numbers = np.zeros(len(rows), np.uint64)
    for index in range(rows.shape[1]):
        numbers |= (rows[:, index] & 0x7F).astype(np.uint64) << np.uint64(7 * index)
    return numbers.view(np.int64)
