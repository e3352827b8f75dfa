"""Tables in the long form, a row for each value, as CSV and Parquet.

The texts are UTF-8. It lacks the halves of surrogate pairs, which a path or a line of JSON may have, so they
are written as their codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sowlog._events.csv_form import csv_cell
from sowlog._extras import import_extra
from sowlog._printable import encodable

Column = NDArray[Any] | list[str]

# Rows of a row group of Parquet.
_ROWS = 1 << 17

_POINT = {"step": "int64", "wall_time": "float64"}
COLUMNS: dict[str, dict[str, str]] = {
    "scalars": {**_POINT, "value": "float32"},
    "histograms": {**_POINT, "left": "float64", "right": "float64", "count": "float64"},
    "texts": {**_POINT, "text": "string"},
    "hparams": {"name": "string", "value": "string"},
}
"""The columns of each kind behind those of run and tag, with their types in Arrow."""


class Part(NamedTuple):
    """Rows of one run and tag.

    Attributes:
        key: the texts of the first columns.
        columns: the other columns, of one length.
    """

    key: tuple[str, ...]
    columns: tuple[Column, ...]


class Table(NamedTuple):
    """A table, whose rows are made as they are written.

    Attributes:
        names: the names of the first columns, which are texts.
        columns: the names and types of the others.
        parts: the rows.
    """

    names: tuple[str, ...]
    columns: dict[str, str]
    parts: Iterable[Part]


def _write_csv(file: BinaryIO, table: Table) -> int:
    """Write the shortest texts that come back as the same numbers; return the number of rows."""
    file.write(f"{','.join((*table.names, *table.columns))}\n".encode())
    count = 0
    for part in table.parts:
        prefix = list(map(csv_cell, part.key))
        rows = zip(*map(_texts, part.columns), strict=True)
        text = "".join(f"{','.join((*prefix, *row))}\n" for row in rows)
        file.write(encodable(text).encode())
        count += len(part.columns[0])
    return count


def _texts(column: Column) -> list[str]:
    if isinstance(column, list):
        return list(map(csv_cell, column))
    if column.dtype == np.float32:
        return [str(value) for value in column]
    return list(map(repr, column.tolist()))


def _write_parquet(file: BinaryIO, table: Table) -> int:
    """Write a file whose first columns are dictionaries; return the number of rows.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """
    need, otherwise = "Parquet is written by pyarrow", ".csv and .jsonl need no other package"
    arrow, parquet = (
        import_extra(name, need, extra="arrow", otherwise=otherwise)
        for name in ("pyarrow", "pyarrow.parquet")
    )
    coded = arrow.dictionary(arrow.int32(), arrow.string())
    types = {name: getattr(arrow, kind)() for name, kind in table.columns.items()}
    schema = arrow.schema([*((name, coded) for name in table.names), *types.items()])
    count = 0
    with parquet.ParquetWriter(file, schema) as writer:
        for parts in _groups(table.parts):
            sizes = [len(part.columns[0]) for part in parts]
            keys = [_coded(arrow, texts, sizes) for texts in zip(*(part.key for part in parts), strict=True)]
            others = [_joined(columns) for columns in zip(*(part.columns for part in parts), strict=True)]
            writer.write_table(arrow.table([*keys, *map(arrow.array, others)], schema=schema))
            count += sum(sizes)
    return count


def _groups(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Yield parts that are one row group."""
    held: list[Part] = []
    rows = 0
    for part in parts:
        held.append(part)
        rows += len(part.columns[0])
        if rows >= _ROWS:
            yield held
            held, rows = [], 0
    if held:
        yield held


def _coded(arrow: Any, texts: Sequence[str], sizes: Sequence[int]) -> Any:
    """Return a dictionary array of texts, each repeated."""
    known = {text: code for code, text in enumerate(dict.fromkeys(texts))}
    codes = np.repeat(np.array([known[text] for text in texts], np.int32), sizes)
    return arrow.DictionaryArray.from_arrays(codes, arrow.array(list(map(encodable, known)), arrow.string()))


def _joined(columns: Sequence[Column]) -> Column:
    if isinstance(columns[0], list):
        return [encodable(text) for column in columns for text in column]
    return np.concatenate(columns)


WRITERS: dict[str, Callable[[BinaryIO, Table], int]] = {".csv": _write_csv, ".parquet": _write_parquet}
"""The writers of tables by suffix."""
