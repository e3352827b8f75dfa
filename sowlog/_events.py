"""Event-file records: build, check, read.

An event file is a row of records; each is the length of its payload (8 bytes, little-endian), the
masked CRC32C of these 8 bytes, the payload, and the masked CRC32C of the payload. What the payload
means (a serialized Event) is not known here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from crc32c import crc32c

HEADER_SIZE = 12
FOOTER_SIZE = 4
_READ_AHEAD = 1 << 20
_KNOWN_HEADERS = 4096

_counter = itertools.count()
_STAMP = re.compile(r"tfevents\.(\d+)\.")


class CorruptEventFile(ValueError):  # noqa: N818 - named for what is found, as FileNotFoundError is
    """An event file that cannot be read on: where, why, and how much of it is whole.

    Attributes:
        path: the file.
        offset: the byte at which the first damaged record begins; all before it is whole.
        record: the number of whole records before it.
    """

    def __init__(self, path: Path, offset: int, record: int, cause: str) -> None:
        super().__init__(
            f"{path}: record {record} at byte {offset} {cause}. The {record} records before it are whole; "
            f"nothing after it can be trusted."
        )
        self.path = path
        self.offset = offset
        self.record = record


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
    """
    # Most records have one of a few sizes: a header seen before needs no second check.
    known: dict[bytes, int] = {}
    with path.open("rb", buffering=_READ_AHEAD) as file:
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

    Raises:
        FileNotFoundError: if there is no such file, or no event file in the folder.
    """
    if path.is_file():
        return [path]
    if found := sorted(path.glob("*tfevents*")):
        return found
    what = "holds no event file (*tfevents*)" if path.is_dir() else "does not exist"
    raise FileNotFoundError(f"{path} {what}: give an event file, or the logdir of one run")


def unique_name(logdir: Path, now: float) -> str:
    """Return the name for a new event file: no other writer's, and sorting after all in the folder.

    Readers take files in the order of their names and drop the steps of a file that sorts before an
    older one, so a clock that went back must not show: the time stamp is later than any there.
    """
    stamps = [int(match[1]) for file in logdir.iterdir() if (match := _STAMP.search(file.name))]
    stamp = max([int(now), *(known + 1 for known in stamps)])
    unique = f"{os.getpid()}.{next(_counter):04d}.{secrets.token_hex(4)}"
    return f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{unique}"


class EventFile:
    """A new event file that holds whole records only.

    Each record reaches the operating system in one write before `append` returns, so a killed process
    loses none of them; one that does not fit is cut off again.

    Args:
        logdir: its folder; made if it is not there.
        opening: the framed records it begins with. If they cannot be written there is no file.
        clock: seconds since the epoch, for its name.
    """

    def __init__(self, logdir: Path, opening: bytes, *, clock: Callable[[], float] = time.time) -> None:
        logdir.mkdir(parents=True, exist_ok=True)
        self.path = logdir / unique_name(logdir, clock())
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._end = 0
        self._torn = False
        try:
            self.append(opening)
            _sync_folder(logdir)
        except OSError:
            self.discard()
            raise

    @property
    def deleted(self) -> bool:
        """Whether nobody can find the file any more, though writing to it may still succeed."""
        try:
            return os.fstat(self._fd).st_nlink == 0
        except OSError:  # a network file system forgets deleted files altogether
            return True

    def append(self, record: bytes | bytearray | memoryview) -> None:
        """Write one framed record at the end of the last whole one.

        Raises:
            OSError: if the record could not be written whole; nothing of it stays.
        """
        if self._torn:
            self._cut()
        self._torn = True
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[os.pwrite(self._fd, rest, self._end + len(record) - len(rest)) :]
        except OSError:
            # A full disk may refuse this too; then the next append cuts first.
            with contextlib.suppress(OSError):
                self._cut()
            raise
        self._end += len(record)
        self._torn = False

    def _cut(self) -> None:
        os.ftruncate(self._fd, self._end)
        self._torn = False

    def sync(self) -> None:
        """Return once all records are on the disk itself."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Sync and close; the descriptor is released whatever happens."""
        try:
            self.sync()
        finally:
            os.close(self._fd)

    def discard(self) -> None:
        """Close the file and remove it."""
        os.close(self._fd)
        self.path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Return once the names in `folder` are on the disk itself: a synced file without a name is lost."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
