"""Tables on a terminal, drawn by rich if it is installed, and plain ones in a pipe."""

from __future__ import annotations

import importlib
import importlib.util
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

# The width to which texts are folded at most, one that no table has, and that of an unknown terminal.
_FOLDED, _WIDEST, _UNKNOWN = 20, 1 << 16, 80


class TextTable:
    """A table of texts.

    Args:
        heads: the heads of the columns; one that begins with ">" is of numbers, which are aligned right.
        rows: the cells of each row.
        optional: the columns that a narrow terminal leaves out, the first first. Where two columns have one
            head, as a tag may be named as a column, it is the first of them.
    """

    def __init__(
        self, heads: Sequence[str], rows: Iterable[Sequence[str]], *, optional: Sequence[str] = ()
    ) -> None:
        self.heads = [head.removeprefix(">") for head in heads]
        self.optional = [self.heads.index(head) for head in optional]
        self.is_right = [head.startswith(">") for head in heads]
        self.rows = [list(row) for row in rows]

    def places_without(self, left_out: Sequence[int]) -> list[int]:
        """Return the indices of the columns but for some."""
        return [place for place in range(len(self.heads)) if place not in left_out]

    def is_folded(self, place: int) -> bool:
        """Return whether a column may be narrower than its texts: neither numbers nor a curve."""
        return not self.is_right[place] and place not in self.optional

    def lines(self) -> list[str]:
        """Return the table as plain lines, whose columns are two spaces apart."""
        table = [self.heads, *self.rows]
        widths = [max(map(cells, column)) for column in zip(*table, strict=True)]
        return [
            "  ".join(
                f"{' ' * (width - cells(text))}{text}" if right else f"{text}{' ' * (width - cells(text))}"
                for text, width, right in zip(row, widths, self.is_right, strict=True)
            ).rstrip()
            for row in table
        ]


def write(stream: TextIO, parts: Iterable[str | TextTable]) -> None:
    """Write lines and tables."""
    is_drawn = stream.isatty() and importlib.util.find_spec("rich") is not None
    for part in parts:
        if isinstance(part, str):
            stream.write(f"{part}\n")
        elif is_drawn:
            _draw(stream, part)
        else:
            stream.writelines(f"{line}\n" for line in part.lines())


def cells(text: str) -> int:
    """Return the columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def _draw(stream: TextIO, table: TextTable) -> None:
    console: Any = importlib.import_module("rich.console").Console(file=stream)
    # COLUMNS=0, as of a terminal without a size, would leave nothing.
    console.width = console.width or _UNKNOWN
    left_out: list[int] = []
    while not (fits := _least_width(console, table, left_out) <= console.width):
        if len(left_out) == len(table.optional):
            break
        left_out.append(table.optional[len(left_out)])
    drawn = _without_rows(table, left_out, fits=fits)
    text: Any = importlib.import_module("rich.text").Text
    for row in table.rows:
        drawn.add_row(*(text(row[index]) for index in table.places_without(left_out)))
    console.print(drawn)
    if left_out:
        names = ", ".join(table.heads[place] for place in left_out)
        stream.write(f"left out, as the terminal has {console.width} columns: {names}\n")


def _least_width(console: Any, table: TextTable, left_out: Sequence[int]) -> int:
    """Return the width of a table whose numbers and curves are whole, and whose texts are folded."""
    places = table.places_without(left_out)
    heads = sum(cells(table.heads[place]) for place in places)
    wide = console.options.update(max_width=_WIDEST)
    lines = console.measure(_without_rows(table, left_out, fits=True), options=wide).maximum - heads
    widths = [max(cells(row[place]) for row in (table.heads, *table.rows)) for place in places]
    least = [
        min(width, _FOLDED) if table.is_folded(place) else width
        for place, width in zip(places, widths, strict=True)
    ]
    return lines + sum(least)


def _without_rows(table: TextTable, left_out: Sequence[int], *, fits: bool) -> Any:
    rich_table: Any = importlib.import_module("rich.table")
    drawn = rich_table.Table(box=importlib.import_module("rich.box").SIMPLE_HEAD, pad_edge=False)
    for place in table.places_without(left_out):
        justify = "right" if table.is_right[place] else "left"
        is_whole = fits and not table.is_folded(place)
        drawn.add_column(table.heads[place], justify=justify, overflow="fold", no_wrap=is_whole)
    return drawn
