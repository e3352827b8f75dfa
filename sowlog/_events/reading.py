"""Event files back as arrays.

An event is only sorted into its shape as it is read; the events of a shape are decoded together, and those of
a set of tags that comes once are taken apart by tag. What fits neither is parsed by protobuf. Order and
restarts are settled at the end, by each event's place in the files.
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

from sowlog._events.columns import Block, Shape, concatenate
from sowlog._events.folders import local_folder
from sowlog._events.framing import (
    FOOTER_SIZE,
    HEADER_SIZE,
    CorruptEventFile,
    event_files,
    read_payloads,
    unreadable,
)
from sowlog._events.points import ScalarPoint, parse_event
from sowlog._events.protos import event_bodies
from sowlog._events.singles import Singles

# Bytes of events held before they are decoded.
_HELD = 1 << 24


class Series(NamedTuple):
    """A tag's points in the order they were written.

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
        path: what was read.
        scalars: steps and values by tag.
        wall_times: seconds since the epoch of the same points, float64, by tag.
        damage: for each file that could not be read to its end, where and why. A killed run may end in a
            record that is cut short. What is named as an event file and is none, such as a FIFO or a folder,
            is passed over and stands here.
        left_out: the kind of what is no scalar and so not read, by tag: "histograms", "images", "text" and
            others. The scalars of a tag that has both are read.
    """

    path: Path
    scalars: Mapping[str, Series]
    wall_times: Mapping[str, NDArray[np.float64]]
    damage: tuple[CorruptEventFile, ...]
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])


def read(path: str | PathLike[str]) -> Run:
    """Read the scalars of a run, of any program that writes TensorBoard's event files.

    A file is read to its first damaged record. Where a run was resumed, the steps that the later file
    supersedes are left out, as TensorBoard does.

    Args:
        path: an event file or a run's folder (not the folders within).

    Returns:
        The run.

    Raises:
        FileNotFoundError: if there is no event file.
        ValueError: if the path is none on this machine, as in `gs://bucket/run`.

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
            reader.damage.append(unreadable(file, error))
    series = dict(reader.series())
    return Run(
        folder,
        {tag: Series(block.steps, block.values) for tag, block in series.items()},
        {tag: block.wall_times for tag, block in series.items()},
        tuple(reader.damage),
        dict(sorted(reader.left_out.items())),
    )


class _Loose:
    """A tag's points from events of no shape."""

    def __init__(self) -> None:
        self._places, self._steps = array("q"), array("q")
        self._wall_times, self._values = array("d"), array("f")

    def add(self, point: ScalarPoint, place: int) -> None:
        """Take one point."""
        self._places.append(place)
        self._steps.append(point.step)
        self._wall_times.append(point.wall_time)
        self._values.append(point.value)

    def block(self) -> Block:
        """Return all of them."""
        places, steps = np.array(self._places, np.int64), np.array(self._steps, np.int64)
        return Block(places, steps, np.array(self._wall_times), np.array(self._values, np.float32)[:, None])


class _Reader:
    """Collects the points of one run's files, read in order."""

    def __init__(self) -> None:
        self.damage: list[CorruptEventFile] = []
        self.left_out: dict[str, str] = {}
        # By an event's size; then by where the bytes between head and first value are, and by these bytes.
        self._shapes: dict[int, dict[tuple[int, int], dict[bytes, list[Shape]]]] = {}
        self._full: dict[Shape, None] = {}
        self._held = 0
        self._blocks: dict[tuple[str, ...], list[Block]] = defaultdict(list)
        self._loose: dict[str, _Loose] = defaultdict(_Loose)
        self._singles = Singles()
        self._restarts: list[tuple[int, int]] = []
        self._files: list[tuple[int, Path]] = []
        self._place = 0

    def read_file(self, path: Path) -> None:
        """Read a file to its end or its first damage."""
        self._files.append((self._place, path))
        try:
            for payload in read_payloads(path):
                self._sort(payload, self._place)
                self._place += HEADER_SIZE + len(payload) + FOOTER_SIZE
        except CorruptEventFile as damage:
            self.damage.append(damage)
        finally:
            self._decode_held()

    def series(self) -> Iterator[tuple[str, Block]]:
        """Yield each tag with its points, sorted by tag."""
        parts: dict[str, list[Block]] = defaultdict(list)
        loose = [((tag,), [points.block()]) for tag, points in self._loose.items()]
        loose += [((tag,), [block]) for tag, block in self._singles.blocks()]
        for tags, blocks in [*self._blocks.items(), *loose]:
            block = self._without_superseded(concatenate(blocks))
            columns = np.ascontiguousarray(block.values.T)
            for tag, column in zip(tags, columns, strict=True):
                parts[tag].append(Block(block.places, block.steps, block.wall_times, column))
        for tag in sorted(parts):
            known = parts[tag]
            yield tag, known[0] if len(known) == 1 else concatenate(known)

    def _sort(self, payload: bytes, place: int) -> None:
        """Put an event with those of its shape, or parse it."""
        shape = self._find(payload)
        if shape is None:
            shape = self._parse(payload, place)
            if shape is None:
                return
        shape.hold(payload, place)
        self._full[shape] = None
        self._held += len(payload)
        if self._held > _HELD:
            self._decode_held()

    def _find(self, payload: bytes) -> Shape | None:
        """Return the shape that an event seems to have; `Shape.decode` looks at all of it."""
        for (start, stop), shapes in self._shapes.get(len(payload), {}).items():
            found = shapes.get(payload[start:stop])
            if found is not None:
                if len(found) == 1:
                    return found[0]
                return next((shape for shape in found if shape.holds(payload)), None)
        return None

    def _parse(self, payload: bytes, place: int) -> Shape | None:
        """Parse an event; return its new shape, or None if its points are taken one by one.

        The first event of a set of tags is a single; a shape is made at the second.
        """
        if self._singles.keep(payload, place):
            return None
        try:
            event = parse_event(payload)
        except ValueError as error:
            raise self._damage_at(place, str(error)) from error
        if event.restart is not None:
            self._restarts.append((place, event.restart))
        self.left_out.update(event.others)
        if not event.points:
            return None
        tags = tuple(point.tag for point in event.points)
        shape = Shape(tags, len(payload), *event_bodies(tags))
        if not (shape.regular and shape.holds(payload)):
            for point in event.points:
                self._loose[point.tag].add(point, place)
            return None
        self._blocks[tags] += self._singles.release(tags)
        shapes = self._shapes.setdefault(shape.size, {}).setdefault(shape.probe, {})
        shapes.setdefault(payload[slice(*shape.probe)], []).append(shape)
        return shape

    def _decode_held(self) -> None:
        self._held = 0
        while self._full:
            shape, _ = self._full.popitem()
            block, misfits = shape.decode()
            self._blocks[shape.tags].append(block)
            for payload, place in misfits:
                self._sort_misfit(payload, place)

    def _sort_misfit(self, payload: bytes, place: int) -> None:
        """Sort an event that only began like others of its size; from then on these are told apart."""
        try:
            shape = self._find(payload)
            if shape is None or not shape.holds(payload):
                shape = self._parse(payload, place)
        except CorruptEventFile as damage:
            self.damage.append(damage)
            return
        if shape is not None:
            shape.hold(payload, place)
            self._full[shape] = None

    def _damage_at(self, place: int, cause: str) -> CorruptEventFile:
        start, path = max(file for file in self._files if file[0] <= place)
        offset = 0
        for record, payload in enumerate(read_payloads(path)):
            if offset == place - start:
                return CorruptEventFile(path, offset, record, cause)
            offset += HEADER_SIZE + len(payload) + FOOTER_SIZE
        raise AssertionError(f"{path} has changed while it was read")

    def _without_superseded(self, block: Block) -> Block:
        """Leave out what a later restart writes again."""
        for place, step in self._restarts:
            kept = (block.places > place) | (block.steps < step)
            if not kept.all():
                block = block.take(kept)
        return block
