"""The rows of a part of `Parquet`, in memory."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sowlog._tree.identity import ByIdentity
from sowlog._tree.layout import PresentTags
from sowlog.writers.record import Record

COLUMNS = {"step": np.int64, "wall_time": np.float64, "tag": np.int32, "value": np.float32}
"""The columns, in order, with their types in memory: of a tag its number."""

_CAPACITY = 1 << 10


class PartRows:
    """Rows in columns that grow, 24 bytes each.

    Attributes:
        count: the number of rows.
    """

    def __init__(self) -> None:
        self.count = 0
        self._columns = {name: np.empty(_CAPACITY, dtype) for name, dtype in COLUMNS.items()}
        self._tags: dict[str, int] = {}
        self._codes = ByIdentity[tuple[str, ...], NDArray[np.int32]]()

    def add(self, record: Record) -> None:
        """Append the rows of a record."""
        start, self.count = self.count, self.count + len(record.tags)
        while self.count > len(self._columns["step"]):
            self._columns = {name: _doubled(column) for name, column in self._columns.items()}
        rows = slice(start, self.count)
        columns = self._columns
        columns["step"][rows] = record.step
        columns["wall_time"][rows] = record.wall_time
        columns["tag"][rows] = self._codes_of(record.tags)
        columns["value"][rows] = record.values

    def shorten(self, count: int) -> None:
        """Drop all rows but the first ones."""
        self.count = count

    def table(self) -> Any:
        """Return the rows as a table of Arrow."""
        arrow = importlib.import_module("pyarrow")
        columns: dict[str, Any] = {name: column[: self.count] for name, column in self._columns.items()}
        # The text of Arrow is UTF-8.
        texts = [tag.encode(errors="backslashreplace").decode() for tag in self._tags]
        tags = arrow.array(texts, arrow.string())
        return arrow.table(columns | {"tag": arrow.DictionaryArray.from_arrays(columns["tag"], tags)})

    def _codes_of(self, tags: tuple[str, ...]) -> NDArray[np.int32]:
        """Return the number of each tag; those of a layout are cached."""
        if isinstance(tags, PresentTags):
            return self._codes_of(tags.whole)[tags.present]
        return self._codes.find(tags, self._make_codes)

    def _make_codes(self, tags: tuple[str, ...]) -> NDArray[np.int32]:
        return np.array([self._tags.setdefault(tag, len(self._tags)) for tag in tags], np.int32)


def _doubled(column: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([column, np.empty_like(column)])
