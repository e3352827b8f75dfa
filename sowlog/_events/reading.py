"""Event files read into arrays.

Each event is assigned to its layout when it is read, and the events of a layout are decoded together. An
event whose set of tags occurs once is a single, decoded tag by tag; protobuf parses all other events. Order
and restarts are resolved at the end, by the position of each event in the files.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from sowlog._events.columns import Columns, EventLayout, concatenate
from sowlog._events.folders import local_folder
from sowlog._events.framing import (
    FOOTER_SIZE,
    HEADER_SIZE,
    CorruptEventFile,
    event_files,
    read_payloads,
    unreadable_error,
)
from sowlog._events.points import ScalarPoint, parse_event
from sowlog._events.protos import event_bodies
from sowlog._events.singles import Singles

# Bytes of events held before they are decoded.
_HELD = 1 << 24


class Series(NamedTuple):
    """The points of a tag in the order of writing.

    Attributes:
        steps: int64, shape [n].
        values: float32, shape [n].
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float32]


@final
@dataclass(frozen=True)
class Run:
    """The scalars of a run.

    Attributes:
        path: the file or the folder.
        scalars: steps and values by tag.
        wall_times: seconds since the epoch of the same points, float64, by tag.
        damage: an error for each file that cannot be read to its end, with the position and the cause. The
            last record of a killed run may be cut short. A path with the name of an event file that is no
            readable file, such as a FIFO or a folder, is skipped and listed here.
        left_out: the kind of skipped values by tag: "histograms", "images", "text" and others. The scalars
            of a tag with values of both kinds are read.

    Example:
        >>> import tempfile, sowlog
        >>> logdir = tempfile.mkdtemp()
        >>> with sowlog.Logger(logdir) as log:
        ...     log(3, {"train": {"loss": 0.5, "accuracy": 0.25}})
        >>> run = sowlog.read(logdir)
        >>> run
        <Run of ..., 2 tags>
        >>> sorted(run.scalars)
        ['train/accuracy', 'train/loss']
        >>> run.scalars["train/loss"].values
        array([0.5], dtype=float32)
    """

    path: Path
    scalars: Mapping[str, Series]
    wall_times: Mapping[str, NDArray[np.float64]]
    damage: tuple[CorruptEventFile, ...]
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])

    def __repr__(self) -> str:
        count = len(self.scalars)
        damaged = f", {len(self.damage)} damaged" if self.damage else ""
        return f"<Run of {self.path}, {count} tag{'s' * (count != 1)}{damaged}>"


def read(path: str | PathLike[str]) -> Run:
    """Read the scalars of a run, from event files of any program.

    Each file is read to its first damaged record. In a resumed run, the points that a later file supersedes
    are left out, as in TensorBoard.

    Args:
        path: an event file or the folder of a run, without its subfolders.

    Returns:
        The run.

    Raises:
        FileNotFoundError: The path has no event file.
        ValueError: The path is not on this machine, as in `gs://bucket/run`.

    Example:
        >>> import tempfile, sowlog
        >>> logdir = tempfile.mkdtemp()
        >>> with sowlog.Logger(logdir) as log:
        ...     for step in range(3):
        ...         log(step, {"loss": 1.0 / 2**step})
        >>> steps, values = sowlog.read(logdir).scalars["loss"]
        >>> steps, values
        (array([0, 1, 2]), array([1.  , 0.5 , 0.25], dtype=float32))
    """
    folder = local_folder(path)
    reader = _Reader()
    for file in event_files(folder):
        try:
            reader.read_file(file)
        except OSError as error:
            if file == folder:
                raise
            reader.damage.append(unreadable_error(file, error))
    series = dict(reader.series())
    return Run(
        folder,
        {tag: Series(columns.steps, columns.values) for tag, columns in series.items()},
        {tag: columns.wall_times for tag, columns in series.items()},
        tuple(reader.damage),
        dict(sorted(reader.left_out.items())),
    )


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


class _Reader:
    """Collects the points of the files of one run, read in order."""

    def __init__(self) -> None:
        self.damage: list[CorruptEventFile] = []
        self.left_out: dict[str, str] = {}
        # By the size of an event; then by the slice between head and first value, and by its bytes.
        self._layouts: dict[int, dict[tuple[int, int], dict[bytes, list[EventLayout]]]] = {}
        self._full: dict[EventLayout, None] = {}
        self._held = 0
        self._columns: dict[tuple[str, ...], list[Columns]] = defaultdict(list)
        self._loose: dict[str, _LoosePoints] = defaultdict(_LoosePoints)
        self._singles = Singles()
        self._restarts: list[tuple[int, int]] = []
        self._files: list[tuple[int, Path]] = []
        self._position = 0

    def read_file(self, path: Path) -> None:
        """Read a file to its end or to its first damage."""
        self._files.append((self._position, path))
        try:
            for payload in read_payloads(path):
                self._route(payload, self._position)
                self._position += HEADER_SIZE + len(payload) + FOOTER_SIZE
        except CorruptEventFile as damage:
            self.damage.append(damage)
        finally:
            self._decode_held()

    def series(self) -> Iterator[tuple[str, Columns]]:
        """Yield the tags in sorted order, each with its points."""
        parts: dict[str, list[Columns]] = defaultdict(list)
        loose = [((tag,), [points.columns()]) for tag, points in self._loose.items()]
        loose += [((tag,), [columns]) for tag, columns in self._singles.columns()]
        for tags, batches in [*self._columns.items(), *loose]:
            columns = self._without_superseded(concatenate(batches))
            values = np.ascontiguousarray(columns.values.T)
            for tag, column in zip(tags, values, strict=True):
                parts[tag].append(Columns(columns.positions, columns.steps, columns.wall_times, column))
        for tag in sorted(parts):
            known = parts[tag]
            yield tag, known[0] if len(known) == 1 else concatenate(known)

    def _route(self, payload: bytes, position: int) -> None:
        """Add an event to its layout, or parse it."""
        layout = self._find(payload)
        if layout is None:
            layout = self._parse(payload, position)
            if layout is None:
                return
        layout.hold(payload, position)
        self._full[layout] = None
        self._held += len(payload)
        if self._held > _HELD:
            self._decode_held()

    def _find(self, payload: bytes) -> EventLayout | None:
        """Return the probable layout of an event, which `EventLayout.decode` checks in full."""
        for (start, stop), layouts in self._layouts.get(len(payload), {}).items():
            found = layouts.get(payload[start:stop])
            if found is not None:
                if len(found) == 1:
                    return found[0]
                return next((layout for layout in found if layout.holds(payload)), None)
        return None

    def _parse(self, payload: bytes, position: int) -> EventLayout | None:
        """Parse an event; return its new layout, or None if its points are added one by one.

        The first event of a set of tags is a single; the second creates a layout.
        """
        if self._singles.keep(payload, position):
            return None
        try:
            event = parse_event(payload)
        except ValueError as error:
            raise self._damage_at(position, str(error)) from error
        if event.restart is not None:
            self._restarts.append((position, event.restart))
        self.left_out.update(event.others)
        if not event.points:
            return None
        tags = tuple(point.tag for point in event.points)
        layout = EventLayout(tags, len(payload), *event_bodies(tags))
        if not (layout.regular and layout.holds(payload)):
            for point in event.points:
                self._loose[point.tag].add(point, position)
            return None
        self._columns[tags] += self._singles.release(tags)
        layouts = self._layouts.setdefault(layout.size, {}).setdefault(layout.probe, {})
        layouts.setdefault(payload[slice(*layout.probe)], []).append(layout)
        return layout

    def _decode_held(self) -> None:
        self._held = 0
        while self._full:
            layout, _ = self._full.popitem()
            columns, misfits = layout.decode()
            self._columns[layout.tags].append(columns)
            for payload, position in misfits:
                self._route_misfit(payload, position)

    def _route_misfit(self, payload: bytes, position: int) -> None:
        """Assign an event that only begins like others of its size; its layout is distinct from then on."""
        try:
            layout = self._find(payload)
            if layout is None or not layout.holds(payload):
                layout = self._parse(payload, position)
        except CorruptEventFile as damage:
            self.damage.append(damage)
            return
        if layout is not None:
            layout.hold(payload, position)
            self._full[layout] = None

    def _damage_at(self, position: int, cause: str) -> CorruptEventFile:
        start, path = max(file for file in self._files if file[0] <= position)
        offset = 0
        for record, payload in enumerate(read_payloads(path)):
            if offset == position - start:
                return CorruptEventFile(path, offset, record, cause)
            offset += HEADER_SIZE + len(payload) + FOOTER_SIZE
        raise AssertionError(f"{path} changed while it was read.")

    def _without_superseded(self, columns: Columns) -> Columns:
        """Leave out the points that a later restart supersedes."""
        for position, step in self._restarts:
            kept = (columns.positions > position) | (columns.steps < step)
            if not kept.all():
                columns = columns.take(kept)
        return columns
