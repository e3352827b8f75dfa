"""The points of a run as they are found, and its series, in order and without superseded points."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from sowlog._events.columns import Columns, concatenate
from sowlog._events.media import Media, MediaPoints
from sowlog._events.points import OtherValue, ParsedEvent, ScalarPoint
from sowlog._events.restarts import Cuts, Restarts
from sowlog._events.singles import Singles

Steps = NDArray[np.int64]

# A position is the number of a file, in the order in which files are found, and the byte in that file.
BYTE_BITS = 44
# Kinds of values that are read besides scalars; all other tensors are of the kind "tensors".
_KINDS = ("histograms", "images", "text", "pr_curves")


@final
class FileOrder:
    """The order of the files of a run, which is that of their names.

    Args:
        ranks: the place of each file in that order, by its number.
    """

    def __init__(self, ranks: Sequence[int]) -> None:
        self._ranks = np.array(ranks, np.int64)
        self._is_sorted = bool((np.diff(self._ranks) > 0).all())

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return positions whose numbers of files are replaced by ranks."""
        if self._is_sorted:
            return positions
        return self._ranks[positions >> BYTE_BITS] << BYTE_BITS | positions & (1 << BYTE_BITS) - 1


class _BackSteps(NamedTuple):
    """Events at which the step goes back, where restarts are not declared."""

    positions: NDArray[np.int64]
    steps: Steps
    by_tag: dict[str, list[NDArray[np.int64]]]

    def cuts(self, tag: str) -> Cuts:
        """Return those that have a tag."""
        has_tag = np.isin(self.positions, np.concatenate(self.by_tag[tag]))
        return Cuts(self.positions[has_tag], self.steps[has_tag])


class _LoosePoints:
    """The points of a tag from events without a layout."""

    def __init__(self) -> None:
        self._positions, self._steps = array("q"), array("q")
        self._wall_times, self._values = array("d"), array("f")

    def add(self, point: ScalarPoint, position: int) -> None:
        """Add one point."""
        self._positions.append(position)
        self._steps.append(point.step)
        self._wall_times.append(point.wall_time)
        self._values.append(point.value)

    def columns(self) -> Columns:
        """Return all points."""
        positions, steps = np.array(self._positions, np.int64), np.array(self._steps, np.int64)
        return Columns(
            positions, steps, np.array(self._wall_times), np.array(self._values, np.float32)[:, None]
        )


@final
class Contents:
    """Collects the points of a run.

    Args:
        decoders: the functions that decode the bytes of a value, by its kind.
        tags: the tags of plain events by their numbers.

    Attributes:
        singles: the events whose set of tags occurred once.
        left_out: the kind of the values that are not read, by tag.
        descriptions: the description of each tag that has one.
    """

    def __init__(self, decoders: Mapping[str, Callable[[bytes], Any]], tags: Sequence[str] = ()) -> None:
        self._decoders = decoders
        self.singles = Singles(tags)
        self.left_out: dict[str, str] = {}
        self.descriptions: dict[str, str] = {}
        self._columns: dict[tuple[str, ...], list[Columns]] = defaultdict(list)
        self._loose: dict[str, _LoosePoints] = defaultdict(_LoosePoints)
        self._media: dict[tuple[str, str], MediaPoints] = defaultdict(MediaPoints)
        self._restarts = Restarts()
        self._hparams: list[tuple[int, dict[str, bool | float | str]]] = []

    def add_columns(self, tags: tuple[str, ...], columns: Columns) -> None:
        """Add events of one layout."""
        self._columns[tags].append(columns)

    def add_points(self, points: Sequence[ScalarPoint], position: int) -> None:
        """Add the scalars of an event without a layout."""
        for point in points:
            self._loose[point.tag].add(point, position)

    def add_event(
        self, event: ParsedEvent, position: int, payload: bytes, places: Sequence[tuple[int, int]], start: int
    ) -> None:
        """Add the contents of a parsed event but for its scalars.

        Args:
            event: the event.
            position: its position.
            payload: its bytes.
            places: start and end of each of its values in the payload, if it has other values.
            start: the first byte of the payload in its file.
        """
        self._restarts.note(event, position)
        if event.hparams is not None:
            self._hparams.append((position, event.hparams))
        for tag, text in event.descriptions.items():
            self.descriptions.setdefault(tag, text)
        for other in event.others:
            kind = _kind_of(other)
            if kind is None:
                self.left_out[other.tag] = other.kind
                continue
            first, last = places[other.place]
            self._media[kind, other.tag].add(
                event, position, number=position >> BYTE_BITS, start=start + first, data=payload[first:last]
            )

    def hparams(self, order: FileOrder) -> dict[str, bool | float | str]:
        """Return the first hyperparameters, which TensorBoard shows; empty if there are none."""
        positions = order(np.array([position for position, _ in self._hparams], np.int64))
        return self._hparams[int(np.argmin(positions))][1] if self._hparams else {}

    def scalars(self, order: FileOrder) -> Iterator[tuple[str, Columns]]:
        """Yield the tags that have points in sorted order, each with its points, `values` of shape [n]."""
        self._merge()
        starts, back = self._restarts.starts(order), self._back_steps(order)
        parts: dict[str, list[Columns]] = defaultdict(list)
        for tags, found in self._scalars(order):
            kept = starts.kept(found.positions, found.steps)
            columns = found if kept.all() else found.take(kept)
            values = np.ascontiguousarray(columns.values.T)
            for tag, column in zip(tags, values, strict=True):
                parts[tag].append(Columns(columns.positions, columns.steps, columns.wall_times, column))
        for tag in sorted(parts):
            known = parts[tag]
            columns = known[0] if len(known) == 1 else concatenate(known)
            if back is not None:
                columns = columns.take(back.cuts(tag).kept(columns.positions, columns.steps))
            if len(columns.steps):
                yield tag, columns

    def media(self, kind: str, order: FileOrder, files: tuple[Path, ...]) -> dict[str, Media[Any]]:
        """Return the points of a kind by tag, in sorted order; a tag whose points are superseded has none."""
        starts, back = self._restarts.starts(order), self._back_steps(order)
        found: dict[str, Media[Any]] = {}
        for tag in sorted(tag for of_kind, tag in self._media if of_kind == kind):
            points = self._media[kind, tag]
            positions, steps = order(points.positions()), points.steps()
            kept = starts.kept(positions, steps)
            if back is not None:
                kept &= back.cuts(tag).kept(positions, steps)
            rows = np.flatnonzero(kept)
            if len(rows):
                rows = rows[np.argsort(positions[rows], kind="stable")]
                found[tag] = points.media(tag, self._decoders[kind], files, rows)
        return found

    def _merge(self) -> None:
        """Join the columns of each layout, whose values lie tag by tag, so that series are views of them."""
        for tags, batches in self._columns.items():
            if len(batches) > 1 or not batches[0].values.T.flags.c_contiguous:
                merged = batches[0] if len(batches) == 1 else concatenate(batches)
                merged.values = np.ascontiguousarray(merged.values.T).T
                self._columns[tags] = [merged]

    def _scalars(self, order: FileOrder) -> Iterator[tuple[tuple[str, ...], Columns]]:
        """Yield all scalars by tags, in the order of the files."""
        found = [(tags, columns) for tags, batches in self._columns.items() for columns in batches]
        found += [((tag,), points.columns()) for tag, points in self._loose.items()]
        found += [((tag,), columns) for tag, columns in self.singles.columns()]
        for tags, columns in found:
            positions = order(columns.positions)
            ordered = Columns(positions, columns.steps, columns.wall_times, columns.values)
            if not (np.diff(positions) > 0).all():
                ordered = ordered.take(np.argsort(positions, kind="stable"))
            yield tags, ordered

    def _back_steps(self, order: FileOrder) -> _BackSteps | None:
        """Return the events at which the step goes back, or None if there are none."""
        if self._restarts.declares_all(order):
            return None
        by_tag: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
        events: list[tuple[NDArray[np.int64], Steps]] = []
        for tags, columns in self._scalars(order):
            events.append((columns.positions, columns.steps))
            for tag in tags:
                by_tag[tag].append(columns.positions)
        for (_, tag), points in self._media.items():
            events.append((order(points.positions()), points.steps()))
            by_tag[tag].append(events[-1][0])
        for tag, positions in self._restarts.mentions(order):
            by_tag[tag].append(positions)
        back = self._restarts.back_steps(events, order)
        return _BackSteps(*back, by_tag) if len(back[0]) else None


def _kind_of(other: OtherValue) -> str | None:
    """Return the kind by which a value is read, or None if it is left out."""
    if other.kind in _KINDS:
        return other.kind
    return "tensors" if other.is_tensor else None
