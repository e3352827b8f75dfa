"""The file of `Csv`: its header, its last whole row, and the rows that a resumed run writes again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sowlog._events.appending import AppendedFile, open_appended

_HEADER = b"step,wall_time,tag,value\n"
_BLOCK = 1 << 20
_REMEDY = "close that one first, or name another file"


def open_rows(path: Path) -> AppendedFile:
    """Open a file of rows, without a last row that a kill has cut.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is another program's.
    """
    file = open_appended(path, remedy=_REMEDY)
    try:
        if not _has_header(file):
            file.shorten(0)
            file.append(_HEADER)
        file.shorten(_end_of_rows(file))
    except BaseException:
        file.release()
        raise
    return file


def _has_header(file: AppendedFile) -> bool:
    """Return whether a file has the header, whole.

    Raises:
        ValueError: The file begins otherwise.
    """
    head = file.read(0, len(_HEADER))
    if not _HEADER.startswith(head):
        raise ValueError(
            f"{file.path} does not begin as a file of Csv does, {_HEADER.decode().strip()}, so nothing is "
            f"appended to it: name another file."
        )
    return head == _HEADER


def _end_of_rows(file: AppendedFile) -> int:
    """Return the byte behind the last whole row: a line end within quotes ends none."""
    end = place = 0
    is_quoted = False
    while block := file.read(place, _BLOCK):
        for piece in block.split(b'"'):
            newline = -1 if is_quoted else piece.rfind(b"\n")
            if newline >= 0:
                end = place + newline + 1
            place += len(piece) + 1
            is_quoted = not is_quoted
        # The last piece of a block has no quote behind it.
        place, is_quoted = place - 1, not is_quoted
    return end


def without_rows(file: AppendedFile, step: int) -> AppendedFile:
    """Return the file without the rows from a step on.

    If other rows follow them, another file takes its name, so that a kill leaves one of the two whole.

    Raises:
        OSError: The file cannot be written; it is closed.
        ValueError: A row has no step; the file is closed.
    """
    try:
        kept = _ranges_before(file, step)
        if len(kept) > 1:
            return file.replace(kept)
        file.shorten(kept[0][1])
    except BaseException:
        file.release()
        raise
    return file


def _ranges_before(file: AppendedFile, step: int) -> list[tuple[int, int]]:
    """Return the start and the end of the header and of the rows before a step, joined to few ranges."""
    kept = [(0, len(_HEADER))]
    for start, row in _rows_of(file):
        if _step_of(row, file.path) >= step:
            continue
        begin, end = kept[-1]
        if end == start:
            kept[-1] = begin, start + len(row)
        else:
            kept.append((start, start + len(row)))
    return kept


def _rows_of(file: AppendedFile) -> Iterator[tuple[int, bytes]]:
    """Yield the first byte and the text of each row behind the header."""
    start, row = len(_HEADER), b""
    for line in _lines_of(file):
        row += line
        if row.count(b'"') % 2 == 0:
            yield start, row
            start, row = start + len(row), b""


def _lines_of(file: AppendedFile) -> Iterator[bytes]:
    rest = b""
    for place in range(len(_HEADER), file.end, _BLOCK):
        *lines, rest = (rest + file.read(place, min(_BLOCK, file.end - place))).split(b"\n")
        yield from (line + b"\n" for line in lines)


def _step_of(row: bytes, path: Path) -> int:
    try:
        return int(row.partition(b",")[0])
    except ValueError:
        raise ValueError(
            f"{path} has the row {row[:80]!r}, which does not begin with a step, so its rows cannot be "
            f"compared with resume_from: mend that row, or name another file."
        ) from None
