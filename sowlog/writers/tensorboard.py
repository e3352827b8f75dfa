"""Event files for TensorBoard, written with tensorboardX's protobuf classes.

Only the classes are used: the queue and the flush of tensorboardX's SummaryWriter lose records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

# Generated modules make their classes at import, where no type checker sees them.
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from sowlog._events import EventFile, frame
from sowlog._record import Record

_FILE_VERSION = "brain.Event:2"


class TensorBoardWriter:
    """Writes each record as one event of a new event file.

    A record reaches the operating system in one write before `write` returns, so a killed process loses
    none that was written. Tags are kept as they are.

    Args:
        logdir: the folder of the run; made if it is not there.
        resume_from: the first step that will be written, when a run continues: TensorBoard then
            drops what older files of the folder hold at and after it.
        clock: seconds since the epoch, for the file's name and its first events.

    Raises:
        OSError: if the file cannot be made.

    Example:
        >>> import tempfile, sowlog
        >>> from sowlog.writers.tensorboard import TensorBoardWriter
        >>> logdir = tempfile.mkdtemp()
        >>> with sowlog.Logger(logdir, writers=[TensorBoardWriter(logdir)]) as log:
        ...     log(0, {"loss": 0.5})
    """

    def __init__(
        self,
        logdir: str | PathLike[str],
        *,
        resume_from: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = EventFile(Path(logdir), clock=clock)
        self._append(Event(wall_time=clock(), file_version=_FILE_VERSION))
        if resume_from is not None:
            start = SessionLog(status=SessionLog.START)
            self._append(Event(wall_time=clock(), step=resume_from, session_log=start))

    @property
    def path(self) -> Path:
        """The event file."""
        return self._file.path

    def write(self, record: Record) -> None:
        """Append one event with all values of the record."""
        if not record.tags:
            return
        pairs = zip(record.tags, record.values.tolist(), strict=True)
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in pairs])
        self._append(Event(wall_time=record.wall_time, step=record.step, summary=summary))

    def flush(self) -> None:
        """Return when all that was written is on the disk itself."""
        self._file.sync()

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()

    def _append(self, event: Any) -> None:
        self._file.append(frame(event.SerializeToString()))


class ScalarPoint(NamedTuple):
    """One scalar as an event file holds it.

    Attributes:
        step: the step.
        tag: the tag.
        value: a float32 value, widened.
        wall_time: seconds since the epoch.
    """

    step: int
    tag: str
    value: float
    wall_time: float


def scalar_points(payload: bytes) -> Iterator[ScalarPoint]:
    """Yield the plain scalars of one serialized Event, in order."""
    event = Event.FromString(payload)
    for value in event.summary.value:
        if value.WhichOneof("value") == "simple_value":
            yield ScalarPoint(event.step, value.tag, value.simple_value, event.wall_time)
