"""A file that whole pieces are appended to, by one writer at a time, and that a later process continues."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import weakref
from pathlib import Path

from sowlog._events.file import _make_folder, _sync_folder

# A failed fsync may drop pages of the system's cache, so unsynced bytes are kept in memory as well.
_UNSYNCED = 1 << 24

_open_files: weakref.WeakSet[AppendedFile]


class AppendedFile:
    """A file to append to, with an exclusive `flock` that ends with its writer.

    Each piece reaches the operating system in one write before `append` returns; one that does not fit on the
    disk is truncated. Linux reports a failed write-back once and may forget the bytes, so the unsynced bytes
    are written again before the next fsync.

    Args:
        path: the file, created with its folders if it does not exist.
        remedy: the next move if another writer has the file, as the end of a message.

    Raises:
        BlockingIOError: Another writer has the file.
        OSError: The file cannot be opened, or is not regular.
    """

    def __init__(self, path: Path, *, remedy: str) -> None:
        self.path = path
        self._remedy = remedy
        self._unsynced = bytearray()
        self._sync_failed = self._torn = False
        _make_folder(path.parent)
        self._fd = self._open()
        _open_files.add(self)
        self._end = os.fstat(self._fd).st_size
        _sync_folder(path.parent)

    def _open(self) -> int:
        while True:
            # For reading, too, since the opening of a FIFO for writing alone waits for its reader.
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._check(fd)
                if self._has_the_name(fd):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            # Its last writer has removed it, after it was opened and before it was locked.
            os.close(fd)

    def _check(self, fd: int) -> None:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file, and lines cannot be appended", str(self.path))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            cause = f"is open in another writer, of this process or another one: {self._remedy}"
            raise BlockingIOError(errno.EWOULDBLOCK, cause, str(self.path)) from None
        except OSError:
            return  # Some file systems have no locks.

    def _has_the_name(self, fd: int) -> bool:
        try:
            named, opened = self.path.stat(), os.fstat(fd)
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)

    @property
    def end(self) -> int:
        """The size of the whole pieces, in bytes."""
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

    def append(self, piece: bytes | bytearray | memoryview) -> None:
        """Write one piece after the last whole one.

        Raises:
            OSError: The piece cannot be written whole; the file then holds nothing of it.
        """
        if len(self._unsynced) > _UNSYNCED:
            self.sync()
        if self._torn:
            self._truncate()
        self._torn = True
        try:
            self._write(piece, self._end)
        except OSError:
            # A full disk may refuse this as well, and the next append then truncates first.
            with contextlib.suppress(OSError):
                self._truncate()
            raise
        self._end += len(piece)
        self._unsynced += piece
        self._torn = False

    def overwrite(self, start: int, piece: bytes) -> None:
        """Write a few bytes of one page in place, which a kill does not tear."""
        self._write(piece, start)

    def shorten(self, end: int) -> None:
        """Drop all bytes from `end` on."""
        self._end = end
        del self._unsynced[:]
        self._truncate()

    def _write(self, content: bytes | bytearray | memoryview, start: int) -> None:
        with memoryview(content) as view:
            done = 0
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], start + done)

    def _truncate(self) -> None:
        os.ftruncate(self._fd, self._end)
        self._torn = False

    def sync(self) -> None:
        """Return once all pieces are on the disk itself.

        Raises:
            OSError: The sync fails; the next call writes the unsynced bytes again.
        """
        try:
            if self._sync_failed:
                self._write(self._unsynced, self._end - len(self._unsynced))
            os.fsync(self._fd)
        except OSError as error:
            self._sync_failed = True
            cause = f"{error.strerror}, so {len(self._unsynced)} bytes are kept for the next flush"
            raise OSError(error.errno, cause, str(self.path)) from error
        self._sync_failed = False
        self._unsynced = bytearray()

    def close(self) -> None:
        """Sync and close; the descriptor is released even if the sync fails."""
        try:
            try:
                self.sync()
            except OSError:
                # No later call writes the bytes again, so a failed sync is repeated here.
                self.sync()
        finally:
            self.release()

    def remove(self) -> None:
        """Delete the file and close it."""
        self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Close the file as it is."""
        _open_files.discard(self)
        # A forked child may hold a copy of the descriptor, which would keep the lock, so it is released here.
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)

    def close_in_child(self) -> None:
        """Close a forked child's copy of the descriptor, which would keep the parent's lock."""
        os.close(self._fd)
        self._fd = -1


_open_files = weakref.WeakSet()


def _close_all_in_child() -> None:
    for file in list(_open_files):
        file.close_in_child()
    _open_files.clear()


os.register_at_fork(after_in_child=_close_all_in_child)
