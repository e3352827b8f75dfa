"""Singles: events whose set of tags occurs once, as with absent values that change at every step.

A layout for each would cost more than its points. So the values of singles are joined by tag at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from sowlog._events.columns import Columns
from sowlog._events.plain import PlainEvent


class _Single(NamedTuple):
    position: int
    step: int
    wall_time: float
    values: NDArray[np.float32]


@final
class Singles:
    """Keeps the points of plain events, one event for each set of tags.

    Args:
        tags: the tags by their numbers in the events.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        self._tags = tags
        # Keys are the numbers of the tags as int32 bytes.
        self._events: dict[bytes, _Single] = {}

    def keep(self, event: PlainEvent, position: int) -> bool:
        """Keep an event; return False if an event with its tags is kept already."""
        if event.numbers in self._events:
            return False
        self._events[event.numbers] = _Single(position, event.step, event.wall_time, event.values)
        return True

    def release(self, event: PlainEvent) -> Columns:
        """Remove and return the kept event with the tags of this one."""
        single = self._events.pop(event.numbers)
        return _rows([single], [1], single.values[None])

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
            yield self._tags[int(numbers[rows[0]])], columns.take(rows)


def _rows(singles: list[_Single], counts: list[int], values: NDArray[np.float32]) -> Columns:
    return Columns(
        np.repeat(np.array([single.position for single in singles], np.int64), counts),
        np.repeat(np.array([single.step for single in singles], np.int64), counts),
        np.repeat(np.array([single.wall_time for single in singles]), counts),
        values,
    )
