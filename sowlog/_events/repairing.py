"""Copies of damaged files of a run that hold their whole records."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from sowlog._events.framing import (
    FOOTER_SIZE,
    HEADER_SIZE,
    CorruptEventFile,
    frame,
    open_regular,
    pack_header,
    possible_headers,
    read_payloads,
)
from sowlog._events.json_lines.form import LONGEST_LINE, image_path, read_image
from sowlog._events.json_lines.parsing import parse_line
from sowlog._events.parsing import parse_event
from sowlog._events.sources import is_json_name
from sowlog._events.whole_file import write_whole

# Bytes that are searched for a header at once.
_WINDOW = 1 << 20


class Copied(NamedTuple):
    """The records of a copy.

    Attributes:
        records: the number of records.
        behind: the number of those that lie behind a damage, where no reader would find them.
        images: the number of files of images that are copied, which lines of JSON refer to.
        missing: the files of images that are not there, or cannot be read.
    """

    records: int
    behind: int
    images: int
    missing: tuple[Path, ...]


def copy_whole_records(file: Path, target: Path) -> Copied:
    """Write the whole records of an event file, or of JSON lines, to a new file, whose folders are created.

    Records that hold no Event, and lines that are none of `JsonLines`, are left out; the images of lines are
    copied beside them. The copy has its name once it is complete.

    Raises:
        FileExistsError: The target exists, or another image has the name of one.
        OSError: The file cannot be read, or the copy cannot be written.
    """
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    # No reader takes it for an event file.
    partial = target.with_name(f".{os.getpid()}.partial")
    records = behind = 0
    images: dict[PurePosixPath, None] = {}
    is_json = is_json_name(file.name)
    try:
        with partial.open("xb") as copy:
            for record, is_behind in _whole_lines(file, images) if is_json else _whole_events(file):
                copy.write(record)
                records += 1
                behind += is_behind
            copy.flush()
            os.fsync(copy.fileno())
        missing = tuple(path for path in images if not _copy_image(file.parent / path, target.parent / path))
        # This fails if the name was taken meanwhile, and a hard link is not on each file system.
        target.open("xb").close()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return Copied(records, behind, len(images) - len(missing), tuple(file.parent / path for path in missing))


def _copy_image(image: Path, target: Path) -> bool:
    """Copy an image; return whether it can be read."""
    try:
        content = read_image(image)
    except OSError:
        return False
    if target.exists():
        # Two files of a run may refer to one image.
        if target.is_file() and target.stat().st_size == len(content) and target.read_bytes() == content:
            return True
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, lambda file: file.write(content))
    return True


def _whole_lines(file: Path, images: dict[PurePosixPath, None]) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines, and whether a damage lies before each; add the images that they refer to."""
    is_behind = False
    with open_regular(file) as lines:
        while data := lines.readline(LONGEST_LINE):
            try:
                line = parse_line(data)
                found = [
                    _image_of(data[each.start : each.end]) for each in line.places if each.kind == "images"
                ]
            except ValueError:
                is_behind = True
            else:
                images.update(dict.fromkeys(found))
                yield data.rstrip(b"\n") + b"\n", is_behind


def _image_of(data: bytes) -> PurePosixPath:
    """Return the path that a reference to an image has.

    Raises:
        ValueError: It has none, one outside of the folder of the lines, or that of lines.
    """
    try:
        path = image_path(json.loads(data))
    except (KeyError, TypeError) as error:
        raise ValueError(f"a reference to an image lacks its file: {error!r}") from error
    if is_json_name(path.name):
        raise ValueError(f"{path} is no image")
    return path


def _whole_events(file: Path) -> Iterator[tuple[bytes, bool]]:
    for payload, is_behind in salvage_payloads(file):
        if _is_event(payload):
            yield frame(payload), is_behind


def _is_event(payload: bytes) -> bool:
    try:
        parse_event(payload)
    except ValueError:
        return False
    return True


def salvage_payloads(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Yield the payload of each whole record of an event file, also of those behind a damage.

    A record behind a damage is found by the checksums of its length and its payload.

    Yields:
        The payload, and whether a damage lies before it.

    Raises:
        OSError: The file cannot be read, or is not regular.
    """
    start, is_behind = 0, False
    while True:
        try:
            for payload in read_payloads(path, start=start):
                yield payload, is_behind
                start += HEADER_SIZE + len(payload) + FOOTER_SIZE
        except CorruptEventFile as damage:
            found = _next_record(path, damage.offset + 1)
            if found is None:
                return
            start, is_behind = found, True
        else:
            return


def _next_record(path: Path, start: int) -> int | None:
    """Return the position of the first whole record from a position on, or None if there is none."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        while (start := _next_data(file, start, size)) < size:
            file.seek(start)
            window = file.read(_WINDOW)
            for place in possible_headers(window, size - start):
                header = window[place : place + HEADER_SIZE]
                is_header = header == pack_header(int.from_bytes(header[:8], "little"))
                if is_header and _is_whole(path, start + place):
                    return start + place
            # A header may lie across the end of the window.
            start += max(len(window) - HEADER_SIZE + 1, 1)
    return None


def _next_data(file: BinaryIO, start: int, size: int) -> int:
    """Return the first position from `start` on that is in no hole of a sparse file."""
    try:
        return os.lseek(file.fileno(), start, os.SEEK_DATA)
    except OSError as error:
        # There is only a hole to the end, or the file system knows no holes.
        return size if error.errno == errno.ENXIO else start


def _is_whole(path: Path, start: int) -> bool:
    try:
        return next(read_payloads(path, start=start), None) is not None
    except CorruptEventFile:
        return False
