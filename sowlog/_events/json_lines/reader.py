"""The lines of a run of `JsonLines`, read in order, and on from where they were left."""

from __future__ import annotations

import functools
import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np

from sowlog._events.columns import Columns
from sowlog._events.contents import BYTE_BITS, Contents
from sowlog._events.decoding import HistogramSummary, ImageSummary
from sowlog._events.framing import CorruptEventFile, open_regular
from sowlog._events.json_lines.form import CURVE_ROWS, LONGEST_LINE, OPENING, image_path, read_image
from sowlog._events.json_lines.parsing import Line, NoJsonError, parse_line
from sowlog._events.points import OtherValue, ParsedEvent, ScalarPoint
from sowlog._events.tracking import FileTracker, TrackedFile

# Bytes of a line that are read before its length is known: a sparse file is one line of zeros.
_FIRST = 1 << 16
# Scalars held before they become columns.
_HELD = 1 << 18
_START = ParsedEvent(
    0, 0.0, None, declares_restarts=True, mentions=None, points=[], others=[], hparams=None, descriptions={}
)


class _HeldLines:
    """The scalars of lines with the same tags."""

    def __init__(self) -> None:
        self._positions, self._steps = array("q"), array("q")
        self._times, self._values = array("d"), array("d")

    def __len__(self) -> int:
        return len(self._positions)

    def add(self, position: int, line: Line, values: array[float]) -> None:
        self._positions.append(position)
        self._steps.append(line.step)
        self._times.append(line.time)
        self._values.extend(values)

    def columns(self) -> Columns:
        with np.errstate(over="ignore"):
            values = np.array(self._values).astype(np.float32)
        return Columns(
            np.array(self._positions, np.int64),
            np.array(self._steps, np.int64),
            np.array(self._times),
            values.reshape(len(self), -1),
        )


@final
class JsonReader:
    """Reads the file of one run.

    Args:
        path: the file.

    Attributes:
        contents: the points that were found.
        tracker: the file, and how far it is read.
    """

    def __init__(self, path: Path) -> None:
        self.contents = Contents(_decoders(path.parent))
        self.tracker = FileTracker()
        self._held: dict[tuple[str, ...], _HeldLines] = {}
        self._count = 0
        # Of the first line, once there is one.
        self._run: tuple[str | None] | None = None
        # A line declares a restart by "resumed".
        self.contents.add_event(_START, 0, b"", [], 0)

    def read(self, paths: Sequence[Path]) -> bool:
        """Read the file on from where it was left; return whether anything is new.

        Raises:
            ChangedFilesError: The file is shorter, or another one.
        """
        return self.tracker.read(paths, self._read_on)

    def _read_on(self, file: TrackedFile) -> list[CorruptEventFile]:
        """Read all whole lines up to the first damage.

        A last line without its newline is read if it is whole, since a kill may cut the newline alone.
        """
        try:
            with open_regular(file.path) as lines:
                _end_line(lines, file)
                while data := _read_line(lines):
                    try:
                        self._add(parse_line(data), data, file)
                    except ValueError as error:
                        return [] if _is_cut(data, error) else [_damage(file, str(error))]
                    file.end += len(data)
                    file.records += 1
        finally:
            self._release()
        return []

    def _add(self, line: Line, data: bytes, file: TrackedFile) -> None:
        """Add the contents of a line.

        Raises:
            ValueError: The line is of another run, or its scalars are not numbers.
        """
        if self._run not in (None, (line.run,)):
            raise ValueError(
                f"is of run {line.run!r} and the line before it is of run {self._run[0]!r}: export one run "
                f"to a file to read it"
            )
        try:
            values = array("d", line.scalars.values())
        except (TypeError, OverflowError) as error:
            raise ValueError(f"has scalars that are not numbers: {error}") from error
        position = file.number << BYTE_BITS | file.end
        if line.is_resumed or line.places or line.hparams is not None:
            others = [
                OtherValue(each.tag, each.kind, is_tensor=False, place=row)
                for row, each in enumerate(line.places)
            ]
            restart = line.step if line.is_resumed else None
            event = ParsedEvent(line.step, line.time, restart, None, None, [], others, line.hparams, {})
            places = [(each.start, each.end) for each in line.places]
            self.contents.add_event(event, position, data, places, file.end)
        if values:
            self._held.setdefault(tuple(line.scalars), _HeldLines()).add(position, line, values)
            self._count += len(values)
        self._run = (line.run,)
        if self._count > _HELD:
            self._release()

    def _release(self) -> None:
        """Move the held scalars to the contents; those of a set of tags that occurs once, tag by tag."""
        for tags, held in self._held.items():
            columns = held.columns()
            if len(held) > 1:
                self.contents.add_columns(tags, columns)
                continue
            (position,), (step,), (time,) = columns.positions, columns.steps, columns.wall_times
            scalars = zip(tags, columns.values[0].tolist(), strict=True)
            points = [ScalarPoint(int(step), tag, value, float(time)) for tag, value in scalars]
            self.contents.add_points(points, int(position))
        self._held, self._count = {}, 0


def _read_line(lines: BinaryIO) -> bytes:
    """Return the next line, of at most `LONGEST_LINE` bytes; of one that is no object, its first bytes."""
    size = min(_FIRST, LONGEST_LINE)
    first = lines.readline(size)
    if len(first) < size or first.endswith(b"\n") or not first.lstrip().startswith(b"{"):
        return first
    return first + lines.readline(LONGEST_LINE - size)


def _end_line(lines: BinaryIO, file: TrackedFile) -> None:
    """Go to the first line that was not read, past the newline of a last line that was read without it."""
    lines.seek(max(0, file.end - 1))
    if file.end and lines.read(1) != b"\n":
        if lines.read(1) == b"\n":
            file.end += 1
        lines.seek(file.end)


def _is_cut(data: bytes, error: ValueError) -> bool:
    """Return whether a line is the beginning of one, as a kill or a write in progress leaves it."""
    is_beginning = data.startswith(OPENING) or OPENING.startswith(data)
    is_last = not data.endswith(b"\n") and len(data) < LONGEST_LINE
    return isinstance(error, NoJsonError) and is_beginning and is_last


def _damage(file: TrackedFile, cause: str) -> CorruptEventFile:
    message = (
        f"{file.path}: line {file.records + 1}, at byte {file.end}, {cause}. The {file.records} lines before "
        f"it are read; those after it are not."
    )
    return CorruptEventFile(file.path, file.end, file.records, cause, message=message)


def _decoders(folder: Path) -> Mapping[str, Callable[[bytes], Any]]:
    """Return the decoders of values by kind; images are in files relative to a folder."""
    return {
        "histograms": functools.partial(_decode, _histogram),
        "images": functools.partial(_decode, functools.partial(_image, folder)),
        "text": functools.partial(_decode, _text),
        "pr_curves": functools.partial(_decode, _curve),
        "tensors": functools.partial(_decode, np.asarray),
    }


def _decode(decode: Callable[[Any], Any], data: bytes) -> Any:
    """Return the value that JSON describes.

    Raises:
        ValueError: It describes none.
    """
    try:
        return decode(json.loads(data))
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks a value that the writer stores: {error!r}") from error


def _histogram(fields: Mapping[str, Any]) -> HistogramSummary:
    edges, counts = (np.array(fields[name], np.float64) for name in ("edges", "counts"))
    if edges.ndim != 1 or counts.ndim != 1 or len(edges) != len(counts) + (len(counts) > 0):
        raise ValueError(f"a histogram has edges of {edges.shape} and counts of {counts.shape}")
    return HistogramSummary(
        edges[:-1],
        edges[1:],
        counts,
        min=fields["min"],
        max=fields["max"],
        sum=fields["sum"],
        sum_squares=fields["sum_squares"],
    )


def _image(folder: Path, fields: Mapping[str, Any]) -> ImageSummary:
    path = folder / image_path(fields)
    height, width, *_ = fields["shape"]
    return ImageSummary((read_image(path),), width, height)


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.80} is no text")
    return text


def _curve(fields: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([fields[name] for name in CURVE_ROWS], np.float32)
