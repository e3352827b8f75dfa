"""Rows of records: the framed Events of several steps under one set of tags, filled at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from sowlog._events.framing import FOOTER_SIZE, HEADER_SIZE, masked_crc32c

_TIME = HEADER_SIZE + 1
_STEP = _TIME + 8 + 1
_VALUE_SIZE = 4
# Bytes at scattered places take NumPy 1 ns each, and a call 1 us: so much as the values of some tags.
_TAGS_OF_A_CALL = 16


@final
class RecordRows:
    """Framed Events of one size, one behind the other, whose wall times, steps and values can be set.

    Args:
        record: one of them, which all are but for time, step and values.
        sizes: for each tag the size of its part of the record; it ends with the value, and the parts are the
            end of the record.
        step_size: the size of the step, in bytes.
        count: the largest number of Events.
    """

    def __init__(self, record: bytes, sizes: NDArray[np.intp], *, step_size: int, count: int) -> None:
        self.step_size, self.count = step_size, count
        self._size = len(record)
        storage = bytearray(record * count)
        self._bytes = memoryview(storage)
        self._rows = np.frombuffer(storage, np.uint8).reshape(count, self._size)
        starts = range(HEADER_SIZE, len(storage), self._size)
        event_size = self._size - HEADER_SIZE - FOOTER_SIZE
        self._events = [self._bytes[start : start + event_size] for start in starts]
        self._times = self._column(_TIME, "<f8")
        self._checksums = self._column(self._size - FOOTER_SIZE, "<u4")
        self._steps = self._rows[:, _STEP : _STEP + step_size]
        self._shifts = np.arange(0, 7 * step_size, 7)
        # The highest bit is set in all bytes of a varint but the last.
        self._more = np.array([0x80] * (step_size - 1) + [0])
        places = self._size - FOOTER_SIZE - int(sizes.sum()) + np.cumsum(sizes) - _VALUE_SIZE
        self._value_bytes = np.add.outer(places, np.arange(_VALUE_SIZE)).ravel()
        self._runs = self._equal_distances(places.tolist(), sizes.tolist())

    def _column(self, place: int, dtype: str) -> NDArray[Any]:
        """Return the numbers at one place of each record, which can be set."""
        return np.ndarray(self.count, dtype, self._bytes, place, self._size)

    def _equal_distances(
        self, places: Sequence[int], sizes: Sequence[int]
    ) -> list[tuple[slice, NDArray[np.float32]]]:
        """Return the values of tags of one size in a row, as of layers; none if most sizes differ."""
        starts = [index for index, size in enumerate(sizes) if index == 0 or size != sizes[index - 1]]
        if (len(starts) - 1) * _TAGS_OF_A_CALL > len(sizes):
            return []
        runs: list[tuple[slice, NDArray[np.float32]]] = []
        for start, stop in zip(starts, [*starts[1:], len(sizes)], strict=True):
            shape, strides = (self.count, stop - start), (self._size, sizes[start])
            runs.append((slice(start, stop), np.ndarray(shape, "<f4", self._bytes, places[start], strides)))
        return runs

    def fill(
        self, steps: Sequence[int], wall_times: Sequence[float], values: NDArray[np.float32]
    ) -> memoryview:
        """Set steps, times and values, and return as many records, valid until the next call.

        Args:
            steps: above 0, each of `step_size` bytes.
            wall_times: seconds since the epoch, none of which is 0.
            values: float32, shape [steps, tags].
        """
        count = len(steps)
        self._times[:count] = wall_times
        self._steps[:count] = np.array(steps)[:, None] >> self._shifts & 0x7F | self._more
        self._set_values(values)
        self._checksums[:count] = list(map(masked_crc32c, self._events[:count]))
        return self._bytes[: count * self._size]

    def _set_values(self, values: NDArray[np.float32]) -> None:
        count = len(values)
        for tags, places in self._runs:
            places[:count] = values[:, tags]
        if not self._runs:
            self._rows[:count, self._value_bytes] = np.ascontiguousarray(values, "<f4").view(np.uint8)
