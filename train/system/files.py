"""Small text files: written durably and whole, read in bounded time and memory, never through a link."""

import contextlib
import errno
import os
import secrets
import select
import stat
import time
from pathlib import Path
from typing import BinaryIO, Literal

LIMIT = 10_000_000
"""Bytes of the largest file that is read, without another limit."""

PATIENCE = 10.0
"""Seconds that a pipe, such as a shell's <(command), may take for its next bytes."""


def write(file: Path, text: str) -> None:
    """Write a file that is either the old one or the new one, also after a power cut, and never half of it.

    A link of that name is replaced, and its target is left alone.
    """
    # A name of its own, made anew: no two writers share it, and no link of that name is written through.
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as opened:
            opened.write(text.encode())
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def sync(file: Path) -> None:
    """Have the system put a file on disk."""
    with open_regular(file, "rb") as opened:
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Have the system put on disk which files a folder has, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def open_regular(file: Path, mode: Literal["rb", "ab"]) -> BinaryIO:
    """Open a regular file, and for appending make it if it is not there: no folder, pipe or device.

    Raises:
        OSError: The file cannot be opened; or, for appending, is a link, whose target is another's file.
    """
    flags = os.O_RDONLY if mode == "rb" else os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    # Without O_NONBLOCK the open of a FIFO waits for its other end.
    descriptor = os.open(file, flags | os.O_NONBLOCK, 0o666)
    try:
        _check_regular(descriptor, file)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(descriptor: int, file: Path) -> None:
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "Not a regular file", str(file))


def read(file: Path, *, limit: int = LIMIT) -> str:
    """Read a regular file as UTF-8.

    Raises:
        OSError: The file cannot be read, or is not regular.
        ValueError: The file is larger than the limit, or not UTF-8.
    """
    with open_regular(file, "rb") as opened:
        return _decode(opened.read(limit + 1), limit)


def read_stream(file: Path, *, limit: int = LIMIT) -> str:
    """Read a file, or the content of a pipe, a terminal or a device, as UTF-8.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is larger than the limit, not UTF-8, or a pipe without a writer.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        content = bytearray()
        while len(content) <= limit and (part := _read_some(descriptor, is_begun=bool(content))):
            content += part
    finally:
        os.close(descriptor)
    return _decode(content, limit)


def _read_some(descriptor: int, *, is_begun: bool) -> bytes:
    """Return the next bytes; none at the end."""
    # A FIFO without a writer has no bytes either, and one may come.
    is_open = stat.S_ISFIFO(os.fstat(descriptor).st_mode) and not is_begun
    deadline = time.monotonic() + PATIENCE
    while (left := deadline - time.monotonic()) > 0:
        select.select([descriptor], [], [], left)
        with contextlib.suppress(BlockingIOError):
            part = os.read(descriptor, 2**16)
            if part or not is_open:
                return part
        time.sleep(0.05)
    raise ValueError(f"nothing came through it for {PATIENCE:g} s; give a regular file")


def _decode(content: bytes | bytearray, limit: int) -> str:
    if len(content) > limit:
        raise ValueError(f"it has more than {limit:,} bytes; give a smaller file")
    return content.decode()
