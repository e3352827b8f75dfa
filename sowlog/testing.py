"""What users test their own models and training with."""

from __future__ import annotations

from os import PathLike

from sowlog._checks import HostSyncError, assert_sown, count_traces, forbid_host_sync, sown_structure
from sowlog._events import event_files, read_payloads
from sowlog._laws import assert_invariant, assert_reducer_laws
from sowlog._points import ScalarPoint, scalar_points
from sowlog._record import Record
from sowlog.writers import local_folder

__all__ = [
    "HostSyncError",
    "MemoryWriter",
    "assert_invariant",
    "assert_reducer_laws",
    "assert_sown",
    "count_traces",
    "forbid_host_sync",
    "read_events",
    "sown_structure",
]


class MemoryWriter:
    """A writer that keeps the records in a list, for tests.

    Attributes:
        records: every record, in order. Read it after `log.flush()`.
        closed: whether `close` was called.

    Example:
        >>> import sowlog, sowlog.testing
        >>> memory = sowlog.testing.MemoryWriter()
        >>> with sowlog.Logger("unused", writers=[memory]) as log:
        ...     log(7, {"loss": 0.5})
        >>> [(record.step, record.tags, record.values.tolist()) for record in memory.records]
        [(7, ('loss',), [0.5])]
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.closed = False

    def write(self, record: Record) -> None:
        """Keep one record."""
        if self.closed:
            raise RuntimeError(f"step {record.step} was written after close")
        self.records.append(record)

    def flush(self) -> None:
        """Do nothing: a list is always up to date."""

    def close(self) -> None:
        """Refuse further records."""
        self.closed = True


def read_events(path: str | PathLike[str]) -> list[ScalarPoint]:
    """Read the scalars of a run as they stand in its event files.

    Args:
        path: an event file or a run's folder (not the folders within).

    Returns:
        A point (step, tag, value, wall_time) for each scalar, in the order of the files' names and then of
        writing. Nothing is merged: a step that was written twice is there twice. What is named as an event
        file in a folder and is none, such as a FIFO, is passed over.

    Raises:
        FileNotFoundError: if there is no event file.
        CorruptEventFile: if a file is damaged; it says at which record and byte.

    Example:
        >>> import tempfile, sowlog, sowlog.testing
        >>> logdir = tempfile.mkdtemp()
        >>> with sowlog.Logger(logdir) as log:
        ...     log(7, {"loss": 0.5})
        >>> [(point.step, point.tag, point.value) for point in sowlog.testing.read_events(logdir)]
        [(7, 'loss', 0.5)]
    """
    return [
        point
        for file in event_files(local_folder(path))
        if file.is_file()
        for payload in read_payloads(file)
        for point in scalar_points(payload)
    ]
