"""The event file of one writer: its name and its lock.

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
from collections.abc import Callable, Generator
from pathlib import Path

from sowlog._events.appending import AppendedFile, make_folder, sync_folder
from sowlog._events.framing import open_regular

# A folder is locked for a few milliseconds, while a file in it is created. In seconds.
_LOCK_TIMEOUT = 5.0
_LOCK_POLL = 0.005

_counter = itertools.count()
_STAMP = re.compile(r"tfevents\.(\d+)\.")


def unique_name(logdir: Path, now: float) -> str:
    """Return a unique name for a new event file, which sorts after all files in the folder.

    Readers take files in the order of their names and drop the steps of a file that sorts before an older
    one. A clock may go back, so the time stamp is later than that of any file in the folder.
    """
    stamps = [int(match[1]) for file in logdir.iterdir() if (match := _STAMP.search(file.name))]
    stamp = max([int(now), *(known + 1 for known in stamps)])
    unique = f"{os.getpid()}.{next(_counter):04d}.{secrets.token_hex(4)}"
    return f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{unique}"


def create_event_file(
    logdir: Path, opening: bytes, *, clock: Callable[[], float] = time.time
) -> AppendedFile:
    """Create an event file.

    Args:
        logdir: the folder of the file.
        opening: the first framed records. If they cannot be written, no file is left.
        clock: returns seconds since the epoch, for the name.

    Raises:
        OSError: The file cannot be created.
    """
    path = logdir / unique_name(logdir, clock())
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    # Some file systems have no locks.
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file = AppendedFile(path, fd)
    try:
        file.append(opening)
        sync_folder(logdir)
    except OSError:
        file.remove()
        raise
    return file


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
    make_folder(logdir)
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
