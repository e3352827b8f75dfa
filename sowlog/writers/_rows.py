"""Rows of scalars: the records of several steps under one set of tags, as a matrix."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import final, overload

import numpy as np
from numpy.typing import NDArray

from sowlog.writers.record import Record


@final
class ScalarRows(Sequence[Record]):
    """Records that have scalars alone, under one set of tags, as a matrix with a row for each.

    A writer that takes a batch may treat it as any sequence of records, which are made at the first use: a
    record costs as much as its bytes in an event file.

    Args:
        steps: the step of each record.
        wall_times: seconds since the epoch, at the `log` call of each.
        tags: the tags of all, none of which is absent.
        values: float32, shape [records, tags], read-only from here on.
    """

    def __init__(
        self,
        steps: Sequence[int],
        wall_times: Sequence[float],
        tags: tuple[str, ...],
        values: NDArray[np.float32],
    ) -> None:
        values.setflags(write=False)
        self.steps, self.wall_times, self.tags, self.values = steps, wall_times, tags, values

    @functools.cached_property
    def _records(self) -> tuple[Record, ...]:
        rows = zip(self.steps, self.wall_times, self.values, strict=True)
        return tuple(Record(step, wall_time, self.tags, _own(row)) for step, wall_time, row in rows)

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        return self._records[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)


def _own(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a read-only copy, as a writer that keeps a record would keep the whole matrix."""
    copy = row.copy()
    copy.setflags(write=False)
    return copy
