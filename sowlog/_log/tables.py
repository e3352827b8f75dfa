"""Tables: rows or columns, written as a table of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from sowlog._log.texts import Text, check_tag, check_text

_FORM = "log.table(step, 'samples', {'prompt': [...], 'loss': [...]})"
# A cell shows its text unchanged, so the characters of Markdown and HTML are escaped.
_SPECIAL = re.compile(r"[\\`*_{}\[\]|]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r\n": "<br>", "\n": "<br>", "\r": "<br>"}
_HTML_PARTS = re.compile("|".join(_HTML))


def check_table(tag: object, table: Any) -> Text:
    """Return a table as Markdown.

    Raises:
        TypeError: The table is neither a mapping of columns nor a list of rows, or a column is on a device.
        ValueError: The table has no column, columns of several lengths, no tag, or is too long.
    """
    tag = check_tag("table", tag, _FORM)
    columns = _columns(tag, table)
    if not columns:
        raise ValueError(f"the table {tag} has no columns: {_FORM}.")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the table {tag} has columns of several lengths: {_shown(lengths)}.")
    lines = [columns, ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return check_text(tag, "\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def _shown(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} has {length}" for name, length in lengths.items())


def _columns(tag: str, table: Any) -> dict[str, list[str]]:
    """Return the cells of each column by its name, both as Markdown."""
    if hasattr(table, "keys") and hasattr(table, "__getitem__"):
        return {_cell(tag, name): _column(tag, name, table[name]) for name in table.keys()}  # noqa: SIM118
    if isinstance(table, str | bytes) or not isinstance(table, Iterable):
        raise TypeError(
            f"the table {tag} has type {type(table).__name__}: give a dict of columns or a list of "
            f"rows, {_FORM}."
        )
    return _of_rows(tag, list(cast(Iterable[Any], table)))


def _of_rows(tag: str, rows: Sequence[Any]) -> dict[str, list[str]]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(
                f"row {number} of the table {tag} has type {type(row).__name__}: give a dict for each row, "
                f"log.table(step, 'samples', [{{'prompt': 'a', 'loss': 0.5}}])."
            )
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {_cell(tag, name): [_cell(tag, row.get(name)) for row in rows] for name in names}


def _column(tag: str, name: Any, values: Any) -> list[str]:
    if isinstance(values, jax.Array):
        raise _on_device(tag)
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(
            f"the column {name} of the table {tag} has type {type(values).__name__}: give a list, {_FORM}."
        )
    return [_cell(tag, value) for value in cast(Iterable[Any], values)]


def _cell(tag: str, value: Any) -> str:
    if isinstance(value, jax.Array):
        raise _on_device(tag)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return _HTML_PARTS.sub(lambda part: _HTML[part[0]], _SPECIAL.sub(r"\\\g<0>", text))


def _on_device(tag: str) -> TypeError:
    return TypeError(
        f"the table {tag} has a jax.Array, and reading it would make training wait for the device: log the "
        f"table later, or accept the wait, log.table(step, {tag!r}, jax.device_get(table))."
    )
