"""Event-file records: frame, check, read.

An event file is a row of records; each is the length of its payload (8 bytes, little-endian), the
masked CRC32C of these 8 bytes, the payload, and the masked CRC32C of the payload. What the payload
means (a serialized Event) is not known here.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from crc32c import crc32c

HEADER_SIZE = 12
FOOTER_SIZE = 4
_READ_AHEAD = 1 << 20
_KNOWN_HEADERS = 4096
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class CorruptEventFile(ValueError):  # noqa: N818 - named for what is found, as FileNotFoundError is
    """An event file that cannot be read on: where, why, and how much of it is whole.

    Attributes:
        path: the file.
        offset: the byte at which the first damaged record begins; all before it is whole.
        record: the number of whole records before it.

    Example:
        >>> import tempfile, pathlib, sowlog
        >>> logdir = pathlib.Path(tempfile.mkdtemp())
        >>> with sowlog.Logger(logdir) as log:
        ...     for step in range(3):
        ...         log(step, {"loss": 1.0})
        >>> (file,) = logdir.iterdir()
        >>> _ = file.write_bytes(file.read_bytes()[:-1])  # as a crash of the machine may leave it
        >>> run = sowlog.read(logdir)
        >>> run.scalars["loss"].steps
        array([0, 1])
        >>> damage = run.damage[0]
        >>> type(damage).__name__, damage.path == file, damage.record
        ('CorruptEventFile', True, 3)
    """

    def __init__(
        self, path: Path, offset: int, record: int, cause: str, *, message: str | None = None
    ) -> None:
        super().__init__(
            message
            or f"{path}: record {record} at byte {offset} {cause}. The {record} records before it are whole; "
            f"nothing after it can be trusted."
        )
        self.path = path
        self.offset = offset
        self.record = record


def unreadable_error(path: Path, error: OSError) -> CorruptEventFile:
    """Return the damage of what stands among event files and cannot be read, such as a FIFO or a folder."""
    cause = error.strerror or str(error)
    message = f"{path} is passed over, since it cannot be read as a file: {cause}."
    return CorruptEventFile(path, 0, 0, cause, message=message)


def masked_crc32c(data: bytes | bytearray | memoryview) -> int:
    """Return the CRC32C of `data`, rotated and offset as the record format asks (RFC 3720, TFRecord)."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def pack_header(size: int) -> bytes:
    """Return what stands before a payload of `size` bytes."""
    length = struct.pack("<Q", size)
    return length + struct.pack("<I", masked_crc32c(length))


def frame(payload: bytes) -> bytes:
    """Return the whole record that carries `payload`."""
    return pack_header(len(payload)) + payload + struct.pack("<I", masked_crc32c(payload))


def read_payloads(path: Path) -> Iterator[bytes]:
    """Yield the payload of each record of an event file, checked, in order.

    Memory is bounded by the largest record, whatever a damaged length field claims.

    Raises:
        CorruptEventFile: at the first record that is cut short or fails a checksum.
        OSError: if it cannot be read, or is no regular file.
    """
    # Most records have one of a few sizes: a header seen before needs no second check.
    known: dict[bytes, int] = {}
    with open_regular(path) as file:
        size = left = os.fstat(file.fileno()).st_size
        for record in itertools.count():
            if not left:
                return
            try:
                payload = _read_payload(file, left, known)
            except _Damage as damage:
                raise CorruptEventFile(path, size - left, record, str(damage)) from None
            yield payload
            left -= HEADER_SIZE + len(payload) + FOOTER_SIZE


def read_head(path: Path, count: int) -> list[bytes]:
    """Return the first payloads of an event file, up to the first damage.

    Raises:
        OSError: if it cannot be read, or is no regular file.
    """
    payloads: list[bytes] = []
    with contextlib.suppress(CorruptEventFile):
        payloads.extend(itertools.islice(read_payloads(path), count))
    return payloads


def read_tail(path: Path, size: int) -> Iterator[bytes]:
    """Yield the payloads of the whole records among the last `size` bytes of an event file, up to a damage.

    A record begins where a length and a payload have the right checksums.

    Raises:
        OSError: if it cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        start = max(0, os.fstat(file.fileno()).st_size - size)
        file.seek(start)
        tail = file.read(size)
    place = next(filter(functools.partial(_payload_at, tail), _headers(tail)), len(tail)) if start else 0
    while (payload := _payload_at(tail, place)) is not None:
        yield payload
        place += HEADER_SIZE + len(payload) + FOOTER_SIZE


def _headers(data: bytes) -> list[int]:
    """Return where the length of a record may stand: one that fits, of a payload that is not empty."""
    if len(data) <= HEADER_SIZE + FOOTER_SIZE:
        return []
    low, high = (np.ndarray(len(data) - 7, "<u4", data, start, strides=(1,)) for start in (0, 4))
    rest = np.arange(len(data), 7, -1) - (HEADER_SIZE + FOOTER_SIZE)
    return np.flatnonzero((high == 0) & (low > 0) & (low <= rest)).tolist()


def _payload_at(data: bytes, place: int) -> bytes | None:
    """Return the payload of the record that begins there, if a whole one does."""
    header = data[place : place + HEADER_SIZE]
    try:
        start = place + HEADER_SIZE
        end = start + _checked_length(header)
    except _Damage:
        return None
    payload, footer = data[start:end], data[end : end + FOOTER_SIZE]
    if end + FOOTER_SIZE > len(data) or masked_crc32c(payload) != int.from_bytes(footer, "little"):
        return None
    return payload


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, without the wait that a pipe's other end would cause.

    Raises:
        OSError: if it cannot be opened, or is no regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if kind != stat.S_IFREG:
        os.close(fd)
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'no regular file')}", str(path))
    return os.fdopen(fd, "rb", buffering=_READ_AHEAD)


class _Damage(Exception):  # noqa: N818 - never leaves this module
    """Why there is no next payload."""


def _read_payload(file: BinaryIO, left: int, known: dict[bytes, int]) -> bytes:
    """Return the next payload of a file with `left` bytes to go."""
    header = file.read(HEADER_SIZE)
    length = known.get(header)
    if length is None:
        length = _checked_length(header)
        if len(known) < _KNOWN_HEADERS:
            known[header] = length
    if HEADER_SIZE + length + FOOTER_SIZE > left:
        raise _Damage(f"is cut short: {left} of {HEADER_SIZE + length + FOOTER_SIZE} bytes are there")
    payload = file.read(length)
    footer = file.read(FOOTER_SIZE)
    if masked_crc32c(payload) != int.from_bytes(footer, "little"):
        raise _Damage(f"has a damaged payload of {length} bytes (its checksum does not match)")
    return payload


def _checked_length(header: bytes) -> int:
    if len(header) < HEADER_SIZE:
        raise _Damage(f"is cut short: {len(header)} bytes of a header of {HEADER_SIZE} are there")
    length, crc = struct.unpack("<QI", header)
    if masked_crc32c(header[:8]) != crc:
        raise _Damage(f"has a damaged length field (it says {length} bytes, its checksum does not match)")
    return length


def event_files(path: Path) -> list[Path]:
    """Return the event files at `path` (a file, or the folder of a run) in the order they are read.

    They are found by their names, which a folder, a FIFO or a dangling link may have as well.

    Raises:
        FileNotFoundError: if there is no such file, or no event file in the folder.
    """
    if path.is_file():
        return [path]
    found = sorted(path.glob("*tfevents*"))
    if any(file.is_file() for file in found):
        return found
    what = "is no regular file"
    if path.is_dir():
        what = "holds no event file (*tfevents*)"
    elif not path.exists():
        what = "does not exist"
    raise FileNotFoundError(f"{path} {what}: give an event file, or the logdir of one run.")
