"""Tables on a terminal, drawn by rich if it is installed, and plain ones in a pipe."""

from __future__ import annotations

import importlib
import importlib.util
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, TextIO


class TextTable:
    """A table of texts.

    Args:
        heads: the heads of the columns; one that begins with ">" is of numbers, which are aligned right.
        rows: the cells of each row.
    """

    def __init__(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        self.heads = [head.removeprefix(">") for head in heads]
        self.is_right = [head.startswith(">") for head in heads]
        self.rows = [list(row) for row in rows]

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
    rich_table: Any = importlib.import_module("rich.table")
    drawn = rich_table.Table(box=importlib.import_module("rich.box").SIMPLE_HEAD, pad_edge=False)
    for head, right in zip(table.heads, table.is_right, strict=True):
        drawn.add_column(head, justify="right" if right else "left", overflow="fold")
    text: Any = importlib.import_module("rich.text").Text
    for row in table.rows:
        drawn.add_row(*map(text, row))
    importlib.import_module("rich.console").Console(file=stream).print(drawn)
