"""Heat maps of families over a run: a row for each layer, a column for each record or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sowlog._log.pictures.tiles import Pixels, draw
from sowlog.writers.record import Record

# Beyond this number of columns, each two are joined.
COLUMNS = 256
# Beyond this number of layers, a row of the picture is of several: 10 000 would be 40 000 pixels.
ROWS = 512


class HeatMaps:
    """The values of families over a run, in bounded memory.

    A column is the mean of equally many records of its family, in a row. When all columns of a map are
    filled, each two are joined, and a column is of twice as many records from there on. The maps lie side by
    side in one array, so that a record is added to all of them at once.

    Args:
        every: the number of records of a map from one picture to the next.
    """

    def __init__(self, every: int) -> None:
        # The numbers of records are int64.
        self._every = min(every, np.iinfo(np.int64).max)
        # By tag, the number of the map; and by map, the place of a row by index.
        self._maps: dict[str, int] = {}
        self._places: list[dict[int, int]] = []
        self._rows = 0
        self._sums = np.zeros((COLUMNS, 0))
        self._counts = np.zeros((COLUMNS, 0), np.int32)
        # By map: the records in it, in each of its columns, and in its last picture; its steps and its time.
        self._records, self._widths, self._drawn, self._first, self._last = np.zeros((5, 0), np.int64)
        self._times = np.zeros(0)

    def place(self, tag: str, indices: Sequence[int]) -> tuple[int, NDArray[np.intp]]:
        """Return the number of a map, and the places of its rows; both are made if they are new.

        Args:
            tag: the tag of the picture.
            indices: the numbers of rows, in whose order the picture has them.
        """
        if tag not in self._maps:
            self._maps[tag] = len(self._maps)
            self._places.append({})
            zeros = (self._records, self._drawn, self._first, self._last)
            self._records, self._drawn, self._first, self._last = (np.append(each, 0) for each in zeros)
            self._widths, self._times = np.append(self._widths, 1), np.append(self._times, 0.0)
        number = self._maps[tag]
        places = self._places[number]
        for index in indices:
            if index not in places:
                places[index] = self._rows
                self._rows += 1
        return number, np.array([places[index] for index in indices], np.intp)

    def add(
        self,
        record: Record,
        maps: NDArray[np.intp],
        rows: NDArray[np.intp],
        values: NDArray[np.float32],
        present: NDArray[np.bool_],
    ) -> Record | None:
        """Add the values of a record; return a record of the pictures that are due, if there are any.

        Args:
            record: the step and the time.
            maps: the numbers of the maps, of shape [maps].
            rows: the places of rows, of shape [maps, rows].
            values: the values, of the same shape.
            present: of the same shape, whether there is a value.
        """
        if more := self._rows - self._sums.shape[1]:
            self._sums, self._counts = (
                np.pad(array, ((0, 0), (0, more))) for array in (self._sums, self._counts)
            )
        has_values = maps[present.any(axis=1)]
        for number in has_values[self._records[has_values] == COLUMNS * self._widths[has_values]]:
            self._join_columns(number)
        columns = self._records[maps] // self._widths[maps]
        tiles = columns.repeat(present.sum(axis=1)), rows[present]
        # Infinities of both signs make a NaN, which has the same colour.
        with np.errstate(invalid="ignore"):
            self._sums[tiles] += values[present]
        self._counts[tiles] += 1
        self._first[has_values[self._records[has_values] == 0]] = record.step
        self._records[has_values] += 1
        self._last[has_values], self._times[has_values] = record.step, record.wall_time
        due = has_values[self._records[has_values] % self._every == 0]
        if not due.size:
            return None
        images = {tag: self._draw(number) for tag, number in self._maps.items() if number in due}
        return Record(record.step, record.wall_time, images=images, is_of_logger=True)

    def last_pictures(self) -> Iterator[Record]:
        """Yield the pictures of maps that have values since their last one, at the steps of these."""
        for tag, number in self._maps.items():
            if self._drawn[number] != self._records[number]:
                images = {tag: self._draw(number)}
                step, wall_time = int(self._last[number]), float(self._times[number])
                yield Record(step, wall_time, images=images, is_of_logger=True)

    def _join_columns(self, number: int) -> None:
        rows, half = list(self._places[number].values()), COLUMNS // 2
        for array in (self._sums, self._counts):
            with np.errstate(invalid="ignore"):
                array[:half, rows] = array[::2, rows] + array[1::2, rows]
            array[half:, rows] = 0
        self._widths[number] *= 2

    def means(self, number: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the means of a map, of shape [rows, columns], and whether a tile has no value."""
        columns = -(-self._records[number] // self._widths[number])
        rows = [row for _, row in sorted(self._places[number].items())]
        firsts = range(0, len(rows), self._layers_in_row(number))
        counts = np.add.reduceat(self._counts[:columns, rows].T, firsts)
        with np.errstate(invalid="ignore"):
            sums = np.add.reduceat(self._sums[:columns, rows].T, firsts)
            return sums / np.maximum(counts, 1), counts == 0

    def _layers_in_row(self, number: int) -> int:
        return -(-len(self._places[number]) // ROWS)

    def _draw(self, number: int) -> Pixels:
        self._drawn[number] = self._records[number]
        steps = int(self._first[number]), int(self._last[number])
        indices = sorted(self._places[number])[:: self._layers_in_row(number)]
        picture = draw(*self.means(number), indices, steps)
        picture.flags.writeable = False
        return picture
