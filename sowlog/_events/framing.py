"""Event-file records: frame, check, read.

An event file is a sequence of records. Each is the length of its payload (8 bytes, little-endian), the masked
CRC32C of these 8 bytes, the payload, and the masked CRC32C of the payload. The payload is a serialized Event,
which this module does not parse.
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
from typing import Any, BinaryIO

import numpy as np
from crc32c import crc32c

HEADER_SIZE = 12
FOOTER_SIZE = 4
_READ_AHEAD = 1 << 20
# A larger payload is held once its checksum is known: a damaged length may be that of the whole file.
_UNCHECKED = 1 << 24
_KNOWN_HEADERS = 4096
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class CorruptEventFile(ValueError):  # noqa: N818 - a name of the fault, as FileNotFoundError
    """An event file, or one of JSON lines, is damaged; the message has the position and the cause.

    Attributes:
        path: the file.
        offset: the byte at which the first damaged record begins.
        record: the number of whole records, or lines, before it.

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
            f"the records after it cannot be trusted."
        )
        self.path = path
        self.offset = offset
        self.record = record

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is made anew from its message alone.
        make = functools.partial(CorruptEventFile, message=str(self))
        return make, (self.path, self.offset, self.record, "")


def unreadable_error(path: Path, error: OSError) -> CorruptEventFile:
    """Return the error for a path with the name of an event file that is no readable file, such as a FIFO."""
    cause = error.strerror or str(error)
    message = f"{path} is skipped, since it cannot be read as a file: {cause}."
    return CorruptEventFile(path, 0, 0, cause, message=message)


def masked_crc32c(data: bytes | bytearray | memoryview) -> int:
    """Return the CRC32C of `data`, rotated and offset as in the record format (RFC 3720, TFRecord)."""
    return masked(crc32c(data))


def masked(crc: Any) -> Any:
    """Return a CRC, or an array of uint64 CRCs, rotated and offset."""
    return (((crc >> 15) | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def pack_header(size: int) -> bytes:
    """Return the header of a payload of `size` bytes."""
    length = struct.pack("<Q", size)
    return length + struct.pack("<I", masked_crc32c(length))


def frame(payload: bytes) -> bytes:
    """Return the whole record of a payload."""
    return pack_header(len(payload)) + payload + struct.pack("<I", masked_crc32c(payload))


def read_payloads(path: Path, *, start: int = 0, record: int = 0) -> Iterator[bytes]:
    """Yield the checked payload of each record of an event file, in order.

    The largest record bounds the memory, since a damaged length field is compared with the file, and a large
    payload is checked in parts before it is held.

    Args:
        path: the file.
        start: the byte at which a record begins.
        record: the number of records before it.

    Raises:
        CorruptEventFile: A record is cut short or fails a checksum.
        OSError: The file cannot be read, or is not regular.
    """
    # Most records have one of a few sizes, so each distinct header is checked once.
    known: dict[bytes, int] = {}
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        left = size - start
        file.seek(start)
        for number in itertools.count(record):
            if left <= 0:
                return
            try:
                payload = _read_payload(file, left, known)
            except _Damage as damage:
                raise CorruptEventFile(path, size - left, number, str(damage)) from None
            yield payload
            left -= HEADER_SIZE + len(payload) + FOOTER_SIZE


def read_range(path: Path, start: int, size: int) -> bytes:
    """Return the bytes at a position of a file, fewer where it ends before.

    Raises:
        OSError: The file cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.pread(fd, size, start)
    finally:
        os.close(fd)


def read_head(path: Path, count: int) -> list[bytes]:
    """Return the first payloads of an event file, up to the first damage.

    Raises:
        OSError: The file cannot be read, or is not regular.
    """
    payloads: list[bytes] = []
    with contextlib.suppress(CorruptEventFile):
        payloads.extend(itertools.islice(read_payloads(path), count))
    return payloads


def read_tail(path: Path, size: int) -> Iterator[bytes]:
    """Yield the payloads of the whole records in the last `size` bytes of an event file, up to a damage.

    The first record is found by the checksums of its length and its payload.

    Raises:
        OSError: The file cannot be read, or is not regular.
    """
    with open_regular(path) as file:
        start = max(0, os.fstat(file.fileno()).st_size - size)
        file.seek(start)
        tail = file.read(size)
    found = filter(functools.partial(_payload_at, tail), possible_headers(tail))
    place = next(found, len(tail)) if start else 0
    while (payload := _payload_at(tail, place)) is not None:
        yield payload
        place += HEADER_SIZE + len(payload) + FOOTER_SIZE


def possible_headers(data: bytes, size: int | None = None) -> list[int]:
    """Return the possible positions of headers: those whose length is not 0 and fits the data.

    Args:
        data: the data.
        size: the bytes from the beginning of the data to the end of the file, if the data is not the rest.
    """
    if len(data) <= HEADER_SIZE + FOOTER_SIZE:
        return []
    low, high = (np.ndarray(len(data) - 7, "<u4", data, start, strides=(1,)) for start in (0, 4))
    left = len(data) if size is None else size
    rest = left - np.arange(len(data) - 7) - (HEADER_SIZE + FOOTER_SIZE)
    return np.flatnonzero((high == 0) & (low > 0) & (low <= rest)).tolist()


def _payload_at(data: bytes, place: int) -> bytes | None:
    """Return the payload of the record at a position, or None if no whole record begins there."""
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
    """Open a file for reading, without blocking on a FIFO.

    Raises:
        OSError: The file cannot be opened, or is not regular.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if kind != stat.S_IFREG:
        os.close(fd)
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'no regular file')}", str(path))
    return os.fdopen(fd, "rb", buffering=_READ_AHEAD)


class _Damage(Exception):  # noqa: N818 - never leaves this module
    """The cause for which a record has no payload."""


def _read_payload(file: BinaryIO, left: int, known: dict[bytes, int]) -> bytes:
    """Return the next payload of a file with `left` bytes to its end."""
    header = file.read(HEADER_SIZE)
    length = known.get(header)
    if length is None:
        length = _checked_length(header)
        if len(known) < _KNOWN_HEADERS:
            known[header] = length
    if HEADER_SIZE + length + FOOTER_SIZE > left:
        raise _Damage(f"is cut short: {left} of {HEADER_SIZE + length + FOOTER_SIZE} bytes are left")
    if length > _UNCHECKED:
        _check_in_parts(file, length)
    payload = file.read(length)
    footer = file.read(FOOTER_SIZE)
    if masked_crc32c(payload) != int.from_bytes(footer, "little"):
        raise _damaged_payload(length)
    return payload


def _check_in_parts(file: BinaryIO, length: int) -> None:
    """Compare a large payload with its checksum, and return to its beginning."""
    start, crc, left = file.tell(), 0, length
    while left and (part := file.read(min(left, _READ_AHEAD))):
        crc = crc32c(part, crc)
        left -= len(part)
    if masked(crc) != int.from_bytes(file.read(FOOTER_SIZE), "little"):
        raise _damaged_payload(length)
    file.seek(start)


def _damaged_payload(length: int) -> _Damage:
    return _Damage(f"has a damaged payload of {length} bytes (its checksum does not match)")


def _checked_length(header: bytes) -> int:
    if len(header) < HEADER_SIZE:
        raise _Damage(f"is cut short: {len(header)} of the {HEADER_SIZE} bytes of its header are left")
    length, crc = struct.unpack("<QI", header)
    if masked_crc32c(header[:8]) != crc:
        raise _Damage(f"has a damaged length field (it says {length} bytes, its checksum does not match)")
    return length


def is_event_name(name: str) -> bool:
    """Return whether a name is that of an event file. TensorFlow's profiler leaves empty ones as marks."""
    return "tfevents" in name and not name.endswith(".profile-empty")


def event_files(path: Path) -> list[Path]:
    """Return the event files at `path`, a file or the folder of a run, in the order of reading.

    They are found by name, so a folder, a FIFO or a dangling link may be among them.

    Raises:
        FileNotFoundError: The path does not exist, or the folder has no event file.
    """
    if path.is_file():
        return [path]
    found = sorted(file for file in path.iterdir() if is_event_name(file.name)) if path.is_dir() else []
    if any(file.is_file() for file in found):
        return found
    cause = "is no regular file"
    if path.is_dir():
        cause = "holds no event file (*tfevents*)"
    elif not path.exists():
        cause = "does not exist"
    raise FileNotFoundError(f"{path} {cause}: pass an event file, or the logdir of one run.")
