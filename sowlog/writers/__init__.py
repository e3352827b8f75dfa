"""Writers: where records go. Each is one short class behind write / flush / close."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Protocol, runtime_checkable

from sowlog._arguments import check_count, check_writer
from sowlog._record import Record

__all__ = ["BatchWriter", "Every", "StalledError", "WarningWriter", "Writer", "local_folder"]

# pathlib has made "gs://bucket" into "gs:/bucket". Windows' drives are one letter.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)


def local_folder(path: str | PathLike[str]) -> Path:
    """Return the folder that a path names on this machine, with `~` expanded to the home directory.

    Event files and checkpoints are appended to, synced and locked, which an object store cannot do: a path
    with a scheme would become a local folder of that name.

    Args:
        path: a path, of a folder or a file that need not exist.

    Raises:
        ValueError: for an empty path, one with a scheme as in `gs://bucket/run`, one that holds a null
            character, and a `~user` without a home directory.

    Example:
        >>> from sowlog.writers import local_folder
        >>> local_folder("runs/first").name
        'first'
        >>> local_folder("gs://bucket/run")
        Traceback (most recent call last):
        ValueError: gs://bucket/run is no local folder...
    """
    text = os.fspath(path)
    if not text.strip():
        raise ValueError(f"the path is {text!r}, which names no folder: write '.' for the current one.")
    if "\0" in text:
        raise ValueError(f"the path {text!r} holds a null character, which no file name may: remove it.")
    if found := _SCHEME.match(text):
        raise ValueError(_refuse_scheme(text, *found.groups()))
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{text} begins with a user whose home directory is unknown: write the directory itself, or "
            f"./{text} for a folder of that name."
        ) from error


def _refuse_scheme(text: str, scheme: str, rest: str) -> str:
    if scheme.lower() == "file":
        return f"{text} is a URL: write the path itself, /{rest.removeprefix('localhost/')}."
    return (
        f"{text} is no local folder, and {scheme}: cannot be written to: write to a local or mounted folder "
        f"and copy it there, or ./{text} for a local folder of that name."
    )


class StalledError(Exception):
    """Raised by a writer's `write` when nothing of the record was written and a later try may succeed.

    The logger keeps the record, warns once, and tries again before the next record and at flush and close.
    Any other exception means that the record is lost.
    """


class Writer(Protocol):
    """What a destination of records offers.

    All three are called from one thread, the logger's own. An exception that `write` raises reaches
    the training thread at its next call, the record counts as lost in this writer, and the writer is
    called again with the next record.
    """

    def write(self, record: Record) -> None:
        """Take one record; hold nothing back that a killed process should not lose."""
        ...

    def flush(self) -> None:
        """Return once all that was written is durable."""
        ...

    def close(self) -> None:
        """Flush and release what is held; called once, last."""
        ...


@runtime_checkable
class BatchWriter(Writer, Protocol):
    """A writer that takes several records at less cost than one by one, as they come when steps are short."""

    def write_all(self, records: Iterable[Record]) -> None:
        """Take the records in order: all of them, or none if it raises, and then each comes by `write`."""
        ...


@runtime_checkable
class WarningWriter(Writer, Protocol):
    """A writer that may have something to say of a record that it has written."""

    def take_warning(self) -> Warning | None:
        """Return the warning to issue where the training thread calls the logger next, once; or None.

        Asked for after each write, and after `close`.
        """
        ...


class Every:
    """A writer that passes on each n-th step to another one.

    Args:
        steps: the cadence; a record is passed on when its step is a multiple.
        writer: the writer that gets it.

    Example:
        >>> import sowlog, sowlog.testing
        >>> from sowlog.writers import Every
        >>> all_steps, some = sowlog.testing.MemoryWriter(), sowlog.testing.MemoryWriter()
        >>> with sowlog.Logger("unused", writers=[all_steps, Every(10, some)]) as log:
        ...     for step in range(25):
        ...         log(step, {"loss": 1.0})
        >>> len(all_steps.records), [record.step for record in some.records]
        (25, [0, 10, 20])
    """

    def __init__(self, steps: int, writer: Writer) -> None:
        check_writer(writer)
        self._steps = check_count(steps, "steps", "the cadence given to Every must be 1 step or more")
        self._writer = writer
        self._warner = writer if isinstance(writer, WarningWriter) else None

    def write(self, record: Record) -> None:
        """Pass on the record of a step that is a multiple of the cadence."""
        if record.step % self._steps == 0:
            self._writer.write(record)

    def take_warning(self) -> Warning | None:
        """Return the other writer's warning."""
        return None if self._warner is None else self._warner.take_warning()

    def flush(self) -> None:
        """Flush the other writer."""
        self._writer.flush()

    def close(self) -> None:
        """Close the other writer."""
        self._writer.close()
