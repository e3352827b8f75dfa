"""Points that a restart of the program supersedes, by the rules of TensorBoard.

In a file of version 2, as all programs write today, a START of a session supersedes the points of all tags at
its step and later ones that were read before. A file without a version declares no restarts: there an event
whose step is below that of an earlier event supersedes the points of its own tags.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import final

import numpy as np
from numpy.typing import NDArray

from sowlog._events.points import ParsedEvent

Positions = NDArray[np.int64]

# Restarts are declared from this version of event files on.
_DECLARES_RESTARTS = 2.0


def declares_restarts(version: str) -> bool:
    """Return whether a file of a version, such as "brain.Event:2", declares its restarts."""
    try:
        return float(version.rpartition("brain.Event:")[2]) >= _DECLARES_RESTARTS
    except ValueError:
        return False


class Cuts:
    """Events that supersede earlier points.

    Args:
        positions: int64, their positions, in increasing order.
        steps: int64, the step from which each supersedes.
    """

    def __init__(self, positions: Positions, steps: NDArray[np.int64]) -> None:
        self._positions = positions
        # A point is superseded if the lowest step of the cuts behind it is not above its own.
        self._lowest = np.minimum.accumulate(steps[::-1])[::-1]

    def kept(self, positions: Positions, steps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return a mask of the points that no later cut supersedes."""
        if not len(self._positions):
            return np.ones(len(positions), np.bool_)
        behind = np.searchsorted(self._positions, positions, side="right")
        is_last = behind == len(self._positions)
        return is_last | (steps < self._lowest[np.minimum(behind, len(self._positions) - 1)])


@final
class Restarts:
    """The events of a run that decide which points are superseded."""

    def __init__(self) -> None:
        self._declared = False
        self._versions: list[tuple[int, bool]] = []
        self._starts: list[tuple[int, int]] = []
        # While no restarts are declared: parsed events, and the places of each tag of them.
        self._others: list[tuple[int, int, bool]] = []
        self._mentions: dict[str, list[int]] = defaultdict(list)

    def note(self, event: ParsedEvent, position: int) -> None:
        """Note a parsed event."""
        if event.declares_restarts is not None:
            self._declared = event.declares_restarts
            self._versions.append((position, event.declares_restarts))
        if event.restart is not None:
            self._starts.append((position, event.restart))
        if not self._declared:
            self._others.append((position, event.step, event.mentions is not None))
            for tag in event.mentions or ():
                self._mentions[tag].append(position)

    def starts(self, ranked: Callable[[Positions], Positions]) -> Cuts:
        """Return the declared restarts.

        Args:
            ranked: returns positions in the order of the files.
        """
        positions = ranked(np.array([position for position, _ in self._starts], np.int64))
        steps = np.array([step for _, step in self._starts], np.int64)
        order = np.argsort(positions)[self._declares(np.sort(positions), ranked)]
        return Cuts(positions[order], steps[order])

    def back_steps(
        self, events: Iterable[tuple[Positions, NDArray[np.int64]]], ranked: Callable[[Positions], Positions]
    ) -> tuple[Positions, NDArray[np.int64]]:
        """Return position and step of the events at which the step goes back, where no restart is declared.

        Args:
            events: positions, in the order of the files, and steps of all events with points.
            ranked: returns positions in the order of the files.
        """
        noted = np.array([position for position, _, _ in self._others], np.int64)
        parts = [*events, (ranked(noted), np.array([step for _, step, _ in self._others], np.int64))]
        positions, first = np.unique(np.concatenate([part for part, _ in parts]), return_index=True)
        steps = np.concatenate([part for _, part in parts])[first]
        undeclared = ~self._declares(positions, ranked)
        positions, steps = positions[undeclared], steps[undeclared]
        bare = ranked(np.array([position for position, _, summary in self._others if not summary], np.int64))
        is_bare = np.isin(positions, bare)
        goes_back = np.zeros(len(positions), np.bool_)
        # An event without a summary sets the step anew; from there on the highest one counts.
        for part in np.split(np.arange(len(positions)), np.flatnonzero(is_bare)):
            own = steps[part]
            latest = own[:1] if is_bare[part[:1]].any() else [-1]
            goes_back[part] = own < np.maximum.accumulate(np.concatenate((latest, own)))[:-1]
        return positions[goes_back], steps[goes_back]

    def mentions(self, ranked: Callable[[Positions], Positions]) -> Iterator[tuple[str, Positions]]:
        """Yield each tag with the positions of its parsed events, where no restart is declared."""
        for tag, positions in self._mentions.items():
            yield tag, ranked(np.array(positions, np.int64))

    def declares_all(self, ranked: Callable[[Positions], Positions]) -> bool:
        """Return whether the first event of the run has a version, and all versions declare restarts."""
        places = ranked(np.array([position for position, _ in self._versions], np.int64))
        return 0 in places and all(declared for _, declared in self._versions)

    def _declares(self, positions: Positions, ranked: Callable[[Positions], Positions]) -> NDArray[np.bool_]:
        """Return whether restarts are declared at each position."""
        places = ranked(np.array([position for position, _ in self._versions], np.int64))
        order = np.argsort(places)
        declared = np.array([False, *(self._versions[index][1] for index in order.tolist())])
        return declared[np.searchsorted(places[order], positions, side="right")]
