"""A file of whole records, appended to by one writer at a time: an event file, lines of JSON, a spool."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import weakref
from collections.abc import Iterable
from pathlib import Path

from sowlog._events.unsynced import Unsynced

# A failed fsync may drop pages of the system's cache, so unsynced bytes are kept in memory as well.
_UNSYNCED = 1 << 24
_BLOCK = 1 << 20

_open_files: weakref.WeakSet[AppendedFile]


class AppendedFile:
    """An open file that holds whole records only.

    Each record reaches the operating system in one write before `append` returns, so a killed process loses
    none of them; a record that does not fit on the disk is truncated. Linux reports a failed write-back once
    and may forget the bytes, so the unsynced bytes are written again before the next fsync.

    Args:
        path: the file.
        fd: its descriptor, with the lock that `is_open` looks for; owned from here on.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._end = os.fstat(fd).st_size
        self._unsynced = Unsynced()
        self._sync_failed = self._torn = False
        # A writer may be left without a close, as in a list whose next writer raises: its file is free then.
        self._closing = weakref.finalize(self, os.close, fd)
        self._closing.atexit = False
        _open_files.add(self)

    @property
    def end(self) -> int:
        """The size of the whole records, in bytes."""
        return self._end

    @property
    def deleted(self) -> bool:
        """Whether the file has no name any more, although a write to it may still succeed."""
        try:
            return os.fstat(self._fd).st_nlink == 0
        except OSError:  # a network file system has no descriptor of a deleted file
            return True

    def read(self, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start` on."""
        return os.pread(self._fd, size, start)

    def append(self, record: bytes | bytearray | memoryview) -> None:
        """Write one record after the last whole one.

        Raises:
            OSError: The record cannot be written whole; the file then holds nothing of it.
        """
        if len(self._unsynced) > _UNSYNCED:
            self.sync()
        if self._torn:
            self._truncate()
        self._torn = True
        try:
            self._write(record, self._end)
        except OSError:
            # A full disk may refuse this as well, and the next append then truncates first.
            with contextlib.suppress(OSError):
                self._truncate()
            raise
        self._end += len(record)
        self._unsynced.add(record)
        self._torn = False

    def overwrite(self, start: int, content: bytes) -> None:
        """Write a few bytes of one page in place, which a kill does not tear."""
        self._write(content, start)

    def shorten(self, end: int) -> None:
        """Drop all bytes from `end` on."""
        self._end, self._torn = end, True
        self._unsynced.clear()
        self._truncate()

    def replace(self, parts: Iterable[tuple[int, int]], *, head: bytes = b"") -> AppendedFile:
        """Return a file of some of the bytes that takes the name of this one, whole, and close this one.

        Of a link, the file that it leads to is replaced.

        Args:
            parts: the start and the end of the bytes to keep, in order.
            head: the bytes before them.

        Raises:
            OSError: The other file cannot be written; this one then stays as it is.
        """
        target = self.path.resolve()
        path = target.with_name(f"{target.name}.part")
        path.unlink(missing_ok=True)
        new = open_appended(path, remedy="close that one first")
        try:
            new.append(head)
            for begin, end in parts:
                for start in range(begin, end, _BLOCK):
                    new.append(self.read(start, min(_BLOCK, end - start)))
            new.sync()
            path.replace(target)
        except BaseException:
            new.remove()
            raise
        new.path = self.path
        self.release()
        return new

    def _write(self, content: bytes | bytearray | memoryview, start: int) -> None:
        with memoryview(content) as view:
            done = 0
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], start + done)

    def _truncate(self) -> None:
        os.ftruncate(self._fd, self._end)
        self._torn = False

    def sync(self) -> None:
        """Return once all records are on the disk itself.

        Raises:
            OSError: The sync fails; the next call writes the unsynced bytes again.
        """
        try:
            if self._sync_failed:
                self._write(self._unsynced.content(), self._end - len(self._unsynced))
            os.fsync(self._fd)
        except OSError as error:
            self._sync_failed = True
            cause = f"{error.strerror}, so {len(self._unsynced)} bytes are kept for the next flush"
            raise OSError(error.errno, cause, str(self.path)) from error
        self._sync_failed = False
        self._unsynced.clear()

    def flush(self) -> None:
        """Return once all records are on the disk itself, under the name of the file.

        Raises:
            OSError: The file cannot be synced, or was deleted.
        """
        self._check_name()
        self.sync()

    def close(self) -> None:
        """Flush and close.

        Raises:
            OSError: As for `flush`; the descriptor is released nevertheless.
        """
        try:
            self._check_name()
            try:
                self.sync()
            except OSError:
                # No later call writes the bytes again, so a failed sync is repeated here.
                self.sync()
        finally:
            self.release()

    def _check_name(self) -> None:
        if self.deleted:
            raise FileNotFoundError(f"{self.path} was deleted during the run, with all its records")

    def remove(self) -> None:
        """Delete the file and close it; leave another one that has taken its name."""
        try:
            if _has_the_name(self._fd, self.path):
                self.path.unlink(missing_ok=True)
        finally:
            self.release()

    def release(self) -> None:
        """Close the file as it is."""
        _open_files.discard(self)
        # A forked child may hold a copy of the descriptor, which would keep the lock, so it is released here.
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._closing()

    def close_in_child(self) -> None:
        """Close a forked child's copy of the descriptor, which would keep the parent's lock."""
        self._closing()
        self._fd = -1


_open_files = weakref.WeakSet()


def _close_all_in_child() -> None:
    for file in list(_open_files):
        file.close_in_child()
    _open_files.clear()


os.register_at_fork(after_in_child=_close_all_in_child)


def open_appended(path: Path, *, remedy: str) -> AppendedFile:
    """Open a file to append to, with an exclusive `flock` that ends with its writer.

    Args:
        path: the file, created with its folders if it does not exist.
        remedy: the next move if another writer has the file, as the end of a message.

    Raises:
        BlockingIOError: Another writer has the file.
        OSError: The file cannot be opened, or is not regular.
    """
    make_folder(path.parent)
    file = AppendedFile(path, _open_locked(path, remedy))
    try:
        sync_folder(path.parent)
    except OSError:
        file.release()
        raise
    return file


def _open_locked(path: Path, remedy: str) -> int:
    while True:
        # For reading, too, since the opening of a FIFO for writing alone waits for its reader.
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except IsADirectoryError:
            raise _irregular(errno.EISDIR, path) from None
        try:
            _lock(fd, path, remedy)
            if _has_the_name(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        # Its last writer has removed it, after it was opened and before it was locked.
        os.close(fd)


def _lock(fd: int, path: Path, remedy: str) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise _irregular(errno.EINVAL, path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        cause = f"is open in another writer, of this process or another one: {remedy}"
        raise BlockingIOError(errno.EWOULDBLOCK, cause, str(path)) from None
    except OSError:
        return  # Some file systems have no locks.


def _irregular(number: int, path: Path) -> OSError:
    cause = "is not a regular file, to which nothing can be appended: move it away, or name another file"
    return OSError(number, cause, str(path))


def _has_the_name(fd: int, path: Path) -> bool:
    try:
        named, opened = path.stat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def make_folder(folder: Path) -> None:
    """Create the folder and its missing parents, and sync the name of each to the disk itself."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Return once the names in `folder` are on the disk itself; a synced file without a name is lost."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
