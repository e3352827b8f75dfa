"""The files of a run, and how far each is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from sowlog._events.contents import FileOrder
from sowlog._events.framing import CorruptEventFile, read_range, unreadable_error

# More than a checksum and a wall time.
_LAST = 64


class ChangedFilesError(Exception):
    """A file that was read is gone, shorter, or another one, so the run must be read anew."""


@dataclass
class TrackedFile:
    """A file of the run, and how far it is read.

    Attributes:
        path: the file.
        number: its index in the order in which files were found.
        identity: its device and inode; None if it was never read.
        state: its size and its time of modification when it was last read.
        last: the last bytes before `end`, by which a file that was written anew under its name is known.
        end: the byte behind the last record that was read.
        records: the number of records before that byte.
        damage: the errors of the file.
    """

    path: Path
    number: int
    identity: tuple[int, int] | None = None
    state: tuple[int, int] = (0, 0)
    last: bytes = b""
    end: int = 0
    records: int = 0
    damage: list[CorruptEventFile] = field(default_factory=list[CorruptEventFile])


ReadOn = Callable[[TrackedFile], list[CorruptEventFile]]


@final
class FileTracker:
    """Tracks the files of one run."""

    def __init__(self) -> None:
        self._files: dict[Path, TrackedFile] = {}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files by their numbers."""
        return tuple(self._files)

    @property
    def order(self) -> FileOrder:
        """The order of the files."""
        ranks = {path: rank for rank, path in enumerate(sorted(self._files))}
        return FileOrder([ranks[path] for path in self._files])

    @property
    def damage(self) -> tuple[CorruptEventFile, ...]:
        """The errors of all files, in the order of these."""
        return tuple(error for path in sorted(self._files) for error in self._files[path].damage)

    @property
    def records(self) -> dict[Path, int]:
        """The number of whole records of each file, up to its first damage."""
        return {path: file.records for path, file in self._files.items()}

    def read(self, paths: Sequence[Path], read_on: ReadOn) -> bool:
        """Read the files on from where they were left; return whether anything is new.

        Args:
            paths: the files of the run now.
            read_on: reads a file from its `end` to the end of the file or to the first damage, moves `end`
                and `records`, and returns the errors found.

        Raises:
            ChangedFilesError: A file that was read is not among them, is shorter, or is another one.
        """
        if not self._files.keys() <= set(paths):
            raise ChangedFilesError
        is_new = False
        for path in paths:
            is_new |= self._read_file(path, read_on)
        return is_new

    def _read_file(self, path: Path, read_on: ReadOn) -> bool:
        """Read a file to its end or to its first damage; return whether anything is new."""
        file = self._files.setdefault(path, TrackedFile(path, len(self._files)))
        try:
            state = path.stat()
        except OSError as error:
            if file.identity is not None:
                raise ChangedFilesError from error
            return _set_damage(file, [unreadable_error(path, error)])
        identity = state.st_dev, state.st_ino
        if file.identity is not None:
            if file.identity != identity or state.st_size < file.end:
                raise ChangedFilesError
            if file.state == (state.st_size, state.st_mtime_ns):
                return False
            if _last_bytes(file) != file.last:
                raise ChangedFilesError
        before, kept = file.end, [error for error in file.damage if error.offset < file.end]
        try:
            found = read_on(file)
        except OSError as error:
            return _set_damage(file, [unreadable_error(path, error)])
        file.identity, file.state = identity, (state.st_size, state.st_mtime_ns)
        file.last = _last_bytes(file)
        return _set_damage(file, [*kept, *found]) or file.end > before


def _last_bytes(file: TrackedFile) -> bytes:
    """Return the last bytes that were read; none of a file that is gone."""
    start = max(0, file.end - _LAST)
    try:
        return read_range(file.path, start, file.end - start)
    except OSError:  # the next look at the file reports it
        return b""


def _set_damage(file: TrackedFile, damage: list[CorruptEventFile]) -> bool:
    is_new = [str(error) for error in damage] != [str(error) for error in file.damage]
    file.damage = damage
    return is_new
