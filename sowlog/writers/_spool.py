"""A spool: a bounded file of records in order, which a killed process leaves to the next one.

The file begins with the number of its form and the byte behind the last forwarded record. The records follow,
each framed as in an event file: its length and its bytes, with a checksum of either.
"""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

from sowlog._events.appending import open_appended
from sowlog._events.framing import FOOTER_SIZE, HEADER_SIZE, frame, masked_crc32c, pack_header

_MAGIC = b"sowspl01"
_HEAD = struct.Struct("<8sQI")
_REMEDY = "a spool belongs to one writer of one run"
# Below it the bytes of forwarded records are not worth a copy of the others.
_MIN_COMPACTION = 1 << 20
_BLOCK = 1 << 20


class Spool:
    """Pending records in a file.

    It is not thread-safe: its owner has a lock.

    Args:
        path: the file, created if it does not exist; the records that are left in it are pending.

    Attributes:
        count: the number of pending records.
        damage: a description of damaged records that were found, or an empty text.

    Raises:
        BlockingIOError: Another writer has the file.
        OSError: The file cannot be opened.
        ValueError: The file is no spool.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ""
        self._must_empty = False
        self._file = open_appended(path, remedy=_REMEDY)
        try:
            self._begin = self._read_head()
            self.count = self._repair()
        except BaseException:
            self._file.release()
            raise

    @property
    def size(self) -> int:
        """The bytes of the pending records."""
        return self._file.end - self._begin

    def append(self, contents: list[bytes]) -> None:
        """Append records, all or none.

        Raises:
            OSError: They cannot be written.
        """
        if self._must_empty:
            self._empty()
        self._file.append(b"".join(map(frame, contents)))
        self.count += len(contents)

    def peek(self, *, most: int, size: int) -> list[bytes]:
        """Return the oldest records: at most `most`, and of more than `size` bytes one alone."""
        found, place = list[bytes](), self._begin
        while place < self._file.end and len(found) < most:
            content = self._read(place)
            if content is None:
                raise OSError(f"{self.path} was changed by another program at byte {place}")
            place += HEADER_SIZE + len(content) + FOOTER_SIZE
            if found and place - self._begin > size:
                break
            found.append(content)
        return found

    def drop(self, contents: list[bytes]) -> None:
        """Note that the oldest records, as returned by `peek`, are forwarded.

        Raises:
            OSError: The note cannot be written; it is part of the next one.
        """
        self._begin += sum(HEADER_SIZE + len(content) + FOOTER_SIZE for content in contents)
        self.count -= len(contents)
        self._file.overwrite(0, _head(self._begin))
        if not self.count:
            self._begin, self._must_empty = _HEAD.size, True
            self._empty()
        elif self._begin > max(_MIN_COMPACTION, self.size):
            # On a full disk the file stays as it is, until the next call.
            with contextlib.suppress(OSError):
                self._compact()

    def _empty(self) -> None:
        """Drop the bytes of forwarded records; after an error the next `append` does it."""
        # A kill between the two leaves a file that ends before its first pending record, which is empty.
        self._file.shorten(_HEAD.size)
        self._file.overwrite(0, _head(_HEAD.size))
        self._must_empty = False

    def sync(self) -> None:
        """Return once all records are on the disk itself.

        Raises:
            OSError: The file cannot be synced, or was deleted.
        """
        if self.count and self._file.deleted:
            raise FileNotFoundError(
                f"{self.path} was deleted during the run: this process still forwards its {self.count} "
                f"records, and a later one cannot"
            )
        self._file.sync()

    def close(self) -> None:
        """Close the file, and remove it if nothing is pending."""
        if self.count:
            self._file.close()
        else:
            # A folder that became read-only keeps the file, in which nothing is pending.
            with contextlib.suppress(OSError):
                self._file.remove()

    def release(self) -> None:
        """Close the file as it is."""
        self._file.release()

    def _read_head(self) -> int:
        """Return the byte behind the last forwarded record."""
        head = self._file.read(0, _HEAD.size)
        if not _MAGIC.startswith(head[: len(_MAGIC)]):
            raise ValueError(
                f"{self.path} is a file of another program, and no spool: name a file of its own."
            )
        if len(head) < _HEAD.size:  # New, or killed in its first moment.
            self._file.shorten(0)
            self._file.append(_head(_HEAD.size))
            return _HEAD.size
        _, begin, _ = _HEAD.unpack(head)
        if head == _head(begin) and begin <= self._file.end:
            return begin
        if head != _head(begin):
            self.damage = (
                f"the head of the spool {self.path} is damaged, so that records may be forwarded once more."
            )
        self._file.overwrite(0, _head(_HEAD.size))
        return _HEAD.size

    def _repair(self) -> int:
        """Count the records; drop a last one that a kill has cut, and quarantine damaged ones."""
        count, place = 0, self._begin
        while place < self._file.end:
            content = self._read(place)
            if content is None:
                if not self._is_cut(place):
                    self._quarantine(place)
                self._file.shorten(place)
                break
            place += HEADER_SIZE + len(content) + FOOTER_SIZE
            count += 1
        return count

    def _is_cut(self, place: int) -> bool:
        """Return whether the file ends within the record at a byte."""
        head = self._file.read(place, HEADER_SIZE)
        size = int.from_bytes(head[:8], "little")
        return len(head) < HEADER_SIZE or (
            head == pack_header(size) and place + HEADER_SIZE + size + FOOTER_SIZE > self._file.end
        )

    def _quarantine(self, place: int) -> None:
        """Copy the bytes from the first damaged record on to a file beside the spool."""
        aside = self.path.with_name(f"{self.path.name}.damaged")
        with aside.open("wb") as copy:
            for start in range(place, self._file.end, _BLOCK):
                copy.write(self._file.read(start, min(_BLOCK, self._file.end - start)))
        self.damage = (
            f"the spool {self.path} is damaged at byte {place}: the records from there on are not forwarded, "
            f"and are kept in {aside.name}."
        )

    def _read(self, place: int) -> bytes | None:
        """Return the record at a byte; None if it is cut or damaged."""
        head = self._file.read(place, HEADER_SIZE)
        if len(head) < HEADER_SIZE:
            return None
        size = int.from_bytes(head[:8], "little")
        if head != pack_header(size) or place + HEADER_SIZE + size + FOOTER_SIZE > self._file.end:
            return None
        content = self._file.read(place + HEADER_SIZE, size + FOOTER_SIZE)
        if int.from_bytes(content[size:], "little") != masked_crc32c(content[:size]):
            return None
        return content[:size]

    def _compact(self) -> None:
        """Replace the file by one without the forwarded records, which is whole before it has the name."""
        self._file = self._file.replace([(self._begin, self._file.end)], head=_head(_HEAD.size))
        self._begin = _HEAD.size


def _head(begin: int) -> bytes:
    return _HEAD.pack(_MAGIC, begin, masked_crc32c(struct.pack("<Q", begin)))
