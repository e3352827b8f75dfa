"""The unmerged scalars of event files."""

from __future__ import annotations

from os import PathLike

from sowlog._events.folders import local_folder
from sowlog._events.framing import event_files, read_payloads
from sowlog._events.parsing import scalar_points
from sowlog._events.points import ScalarPoint


def read_events(path: str | PathLike[str]) -> list[ScalarPoint]:
    """Read the scalars of a run from its event files, without merging them.

    Args:
        path: an event file or a run's folder (without its subfolders).

    Returns:
        A point (step, tag, value, wall_time) for each scalar, in the order of the files' names and then of
        writing. A step that was written twice has two points. Other things with the name of an event file,
        such as a FIFO, are ignored.

    Raises:
        FileNotFoundError: There is no event file.
        CorruptEventFile: A file is damaged; the message has the record and the byte.

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
