"""The folder of `Parquet`: its lock, its parts, and the rows that a resumed run writes again."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
import weakref
from pathlib import Path
from typing import Any

from sowlog._events.appending import AppendedFile, make_folder, open_appended
from sowlog._events.whole_file import write_whole
from sowlog.writers._part_rows import COLUMNS

_PART = re.compile(r"part-(\d+)\.parquet")
_REMEDY = "close that one first, or name another folder"


class Parts:
    """The parts in a folder, of one writer at a time.

    Args:
        folder: the folder, created if it does not exist.

    Raises:
        BlockingIOError: Another writer has the folder.
        OSError: The folder cannot be written to.
        ValueError: The folder has files of another table.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)
        self._pinned = _Pinned(folder)
        self._lock = self._open()
        try:
            self._require_write()
            files = self._files()
            for path in files[:1]:
                _open_part(path)
        except BaseException:
            self.release()
            raise
        numbers = [int(match[1]) for path in files if (match := _PART.fullmatch(path.name))]
        self._number = max(numbers, default=-1) + 1

    def _require_write(self) -> None:
        """Create and remove a file: of a folder that became read-only, the lock alone can still be opened."""
        probe = self.folder / ".part"
        probe.touch()
        probe.unlink()

    def _open(self) -> AppendedFile:
        return open_appended(self.folder / ".lock", remedy=_REMEDY)

    def _files(self) -> list[Path]:
        """Return the files of the table: those of this writer, and one that a user has made of several."""
        return sorted(self.folder.glob("*.parquet"))

    @property
    def deleted(self) -> bool:
        """Whether the folder was deleted or moved."""
        return not self._pinned.has_its_name()

    def begin_again(self) -> None:
        """Create the folder again, after it was deleted or moved.

        The current part is written there with the next table.

        Raises:
            OSError: The folder cannot be created.
        """
        make_folder(self.folder)
        pinned = _Pinned(self.folder)
        self._lock_again()
        self._pinned.release()
        self._pinned = pinned

    def _lock_again(self) -> None:
        gone, self._lock = self._lock, self._open()
        gone.release()

    def write(self, table: Any) -> None:
        """Write the current part, with all its rows, in place of its former content.

        Raises:
            BlockingIOError: The lock was deleted, and another writer has the folder.
            OSError: The part cannot be written; it stays as it is.
        """
        if self._lock.deleted:
            self._lock_again()
        _write(self.folder / f"part-{self._number:06d}.parquet", table)

    def end_part(self) -> None:
        """Leave the current part as it is, and begin another one with the next table."""
        self._number += 1

    def drop_rows(self, step: int) -> None:
        """Remove the rows from a step on.

        Raises:
            OSError: A part cannot be read or written.
            ValueError: A part is damaged, or of another table.
        """
        for path in self._files():
            part = _open_part(path)
            if _last_step(part) < step:
                continue
            table = part.read()
            kept = table.filter(_arrow().array(table["step"].to_numpy() < step))
            if kept.num_rows:
                _write(path, kept)
            else:
                path.unlink()

    def release(self) -> None:
        """Let another writer have the folder."""
        self._pinned.release()
        # A folder that became read-only keeps the file, which the next writer locks again.
        with contextlib.suppress(OSError):
            self._lock.remove()


class _Pinned:
    """A folder whose number in the file system is not used again, even after it was deleted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.release = weakref.finalize(self, os.close, self._fd)
        self.release.atexit = False

    def has_its_name(self) -> bool:
        try:
            return os.path.samestat(self._folder.stat(), os.fstat(self._fd))
        except (FileNotFoundError, NotADirectoryError):
            return False


def _open_part(path: Path) -> Any:
    """Return a part, of which the columns are read.

    Raises:
        OSError: The part cannot be read.
        ValueError: The part is damaged, or of another table.
    """
    try:
        part = _parquet().ParquetFile(path)
    except ValueError as error:
        raise ValueError(f"{path} is no file of Parquet, or is damaged: {error}. Remove it.") from error
    names = part.schema_arrow.names
    if names != list(COLUMNS):
        raise ValueError(
            f"{path} has the columns {', '.join(names)}, where Parquet writes {', '.join(COLUMNS)}: name "
            f"another folder."
        )
    return part


def _last_step(part: Any) -> float:
    """Return the largest step of a part, as far as it is noted there; else infinity."""
    groups = [part.metadata.row_group(group) for group in range(part.metadata.num_row_groups)]
    notes = [group.column(0).statistics for group in groups]
    return max((math.inf if note is None or not note.has_min_max else note.max for note in notes), default=0)


def _write(path: Path, table: Any) -> None:
    write_whole(path, lambda file: _parquet().write_table(table, file))


def _arrow() -> Any:
    """Import pyarrow where it is first used, which takes a third of a second."""
    return importlib.import_module("pyarrow")


def _parquet() -> Any:
    return importlib.import_module("pyarrow.parquet")
