"""The event file of one writer: its name, its lock, its appends and syncs.

An open file holds an exclusive `flock`, which ends with the process. By it other writers of the folder
distinguish a file that is being written from one that an earlier process left.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import secrets
import socket
import time
import weakref
from collections.abc import Callable, Generator
from pathlib import Path

from sowlog._events.framing import open_regular

# A failed fsync may drop pages of the system's cache, so unsynced bytes are kept in memory as well.
_UNSYNCED = 1 << 24
# A folder is locked for a few milliseconds, while a file in it is created. In seconds.
_LOCK_TIMEOUT = 5.0
_LOCK_POLL = 0.005

_counter = itertools.count()
_STAMP = re.compile(r"tfevents\.(\d+)\.")
_open_files: dict[int, weakref.ref[EventFile]] = {}


def unique_name(logdir: Path, now: float) -> str:
    """Return a unique name for a new event file, which sorts after all files in the folder.

    Readers take files in the order of their names and drop the steps of a file that sorts before an older
    one. A clock may go back, so the time stamp is later than that of any file in the folder.
    """
    stamps = [int(match[1]) for file in logdir.iterdir() if (match := _STAMP.search(file.name))]
    stamp = max([int(now), *(known + 1 for known in stamps)])
    unique = f"{os.getpid()}.{next(_counter):04d}.{secrets.token_hex(4)}"
    return f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{unique}"


class EventFile:
    """A new event file that holds whole records only.

    Each record reaches the operating system in one write before `append` returns, so a killed process loses
    none of them; a record that does not fit on the disk is truncated. Linux reports a failed write-back once
    and may forget the bytes, so the unsynced bytes are written again before the next fsync.

    Args:
        logdir: the folder of the file.
        opening: the first framed records. If they cannot be written, no file is left.
        clock: returns seconds since the epoch, for the name.
    """

    def __init__(self, logdir: Path, opening: bytes, *, clock: Callable[[], float] = time.time) -> None:
        self.path = logdir / unique_name(logdir, clock())
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        _open_files[self._fd] = weakref.ref(self)
        self._end = 0
        self._torn = False
        self._unsynced = bytearray()
        self._sync_failed = False
        try:
            # Some file systems have no locks.
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.append(opening)
            _sync_folder(logdir)
        except OSError:
            self.discard()
            raise

    @property
    def deleted(self) -> bool:
        """Whether the file has no name any more, although a write to it may still succeed."""
        try:
            return os.fstat(self._fd).st_nlink == 0
        except OSError:  # a network file system has no descriptor of a deleted file
            return True

    def append(self, record: bytes | bytearray | memoryview) -> None:
        """Write one framed record after the last whole one.

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
        self._unsynced += record
        self._torn = False

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
            self._sync_at_last()
        finally:
            self._release()

    def _sync_at_last(self) -> None:
        try:
            self.sync()
        except OSError:
            # No later call writes the bytes again, so a failed sync is repeated here.
            self.sync()

    def discard(self) -> None:
        """Close the file and remove it."""
        self._release()
        self.path.unlink(missing_ok=True)

    def _release(self) -> None:
        _open_files.pop(self._fd, None)
        # A forked child may hold a copy of the descriptor, which would keep the lock, so it is released here.
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)

    def close_in_child(self) -> None:
        """Close a forked child's copy of the descriptor, which would keep the parent's lock."""
        os.close(self._fd)
        self._fd = -1


def _close_all_in_child() -> None:
    for known in list(_open_files.values()):
        file = known()
        if file is not None:
            file.close_in_child()
    _open_files.clear()


os.register_at_fork(after_in_child=_close_all_in_child)


def is_open(path: Path) -> bool:
    """Return whether a writer, of any process, has the event file open."""
    try:
        with open_regular(path) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file.fileno(), fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def locked_folder(logdir: Path) -> Generator[None]:
    """Create the folder and hold its lock, so that one writer at a time lists it and creates a file.

    Continue without the lock if the file system has none, or another program holds it.
    """
    _make_folder(logdir)
    fd = os.open(logdir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _wait_for_lock(fd)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _wait_for_lock(fd: int) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while time.monotonic() < deadline:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_POLL)
        except OSError:
            return None
    return None


def _make_folder(folder: Path) -> None:
    """Create the folder and its missing parents, and sync the name of each to the disk itself."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _sync_folder(each.parent)


def _sync_folder(folder: Path) -> None:
    """Return once the names in `folder` are on the disk itself; a synced file without a name is lost."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
