"""Parquet: the table of `Csv` in a folder of parts, small and typed, for pandas, Arrow, DuckDB or Spark.

The columns are `step` (int64), `wall_time` (float64, seconds since the epoch), `tag` (a dictionary of
strings) and `value` (float32). An absent value has no row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path

from sowlog._extras import import_extra
from sowlog.writers._arguments import check_path, check_resume
from sowlog.writers._part_rows import PartRows
from sowlog.writers._parts import Parts
from sowlog.writers.protocol import DeliveryError, StalledError
from sowlog.writers.record import Record

_NAME, _SUFFIX = "metrics.parquet", ".parquet"
# A part is written again, with the rows since, until it has this many, which takes 20 ms.
_ROWS = 1 << 18
_SECONDS = 30.0


class Parquet:
    """Writes the scalars of each record as rows of Parquet, to a folder of parts that is one table.

    A file of Parquet can be read once it is whole, so rows wait in memory for the next part: `flush` and
    `close` write it, and a record after 30 seconds or 262144 rows. A killed process loses the rows since,
    also behind `Spooled`. Each part has its name once it is whole and on the disk, so
    `pandas.read_parquet(folder)` reads the folder at any time. While the disk is full the rows are kept, and
    tried again. Other values than scalars have no place there. It needs pyarrow, `pip install
    'sowlog[arrow]'`.

    Args:
        path: the folder of the parts, if its name ends in .parquet; else a folder, in which it is
            `metrics.parquet`. It is created if it does not exist, with `~` expanded, and else continued.
        resume_from: the first step that will be written when a run continues: all rows from that step on are
            removed.
        clock: returns seconds, for the time between two parts.

    Raises:
        BlockingIOError: Another writer has the folder.
        ModuleNotFoundError: pyarrow is not installed.
        OSError: The folder cannot be written to.
        TypeError: `resume_from` is not an integer.
        ValueError: A part is damaged, or `path` is not on this machine, as `gs://bucket/run`.

    Example:
        >>> import pathlib, tempfile, pandas, sowlog
        >>> from sowlog.writers import Parquet
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with sowlog.Logger(folder, writers=[Parquet(folder)]) as log:
        ...     for step in range(3):
        ...         log(step, {"loss": 0.5**step})
        >>> pandas.read_parquet(folder / "metrics.parquet")["value"].tolist()
        [1.0, 0.5, 0.25]

        A run that continues at step 2:

        >>> with sowlog.Logger(folder, writers=[Parquet(folder, resume_from=2)]) as log:
        ...     log(2, {"loss": 0.125})
        >>> pandas.read_parquet(folder / "metrics.parquet")["value"].tolist()
        [1.0, 0.5, 0.125]
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        resume_from: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        resumed = check_resume(resume_from)
        self._path = _folder_of(check_path(path))
        _require_arrow()
        self._clock = clock
        self._parts = Parts(self._path)
        try:
            if resumed is not None:
                self._parts.drop_rows(resumed)
        except BaseException:
            self._parts.release()
            raise
        self._rows = PartRows()
        # Records since the last part.
        self._waiting = 0
        self._due = clock() + _SECONDS

    @property
    def path(self) -> Path:
        """The folder of the parts."""
        return self._path

    def write(self, record: Record) -> None:
        """Keep the rows of a record for the next part, and write that if it is due.

        Raises:
            StalledError: The part cannot be written now; the record is not kept.
        """
        self.write_all([record])

    def write_all(self, records: Iterable[Record]) -> None:
        """Keep the rows of all records for the next part, and write that if it is due.

        Raises:
            StalledError: The part cannot be written now; none of the records is kept.
        """
        known = self._rows.count, self._waiting
        try:
            self._require_folder()
            for record in records:
                if record.tags:
                    self._rows.add(record)
                    self._waiting += 1
            if self._rows.count >= _ROWS or self._clock() >= self._due:
                self._write_part()
        except OSError as error:
            self._rows.shorten(known[0])
            self._waiting = known[1]
            raise StalledError(f"{self._path} cannot be written: {error}") from error

    def _require_folder(self) -> None:
        """Begin a new folder and raise StalledError if this one was deleted or moved."""
        if self._parts.deleted:
            self._parts.begin_again()
            raise StalledError(f"{self._path} was deleted or moved during the run; a new folder replaces it")

    def _write_part(self) -> None:
        """Write all rows of the current part; begin another one if it is full.

        Raises:
            OSError: The part cannot be written; its rows are kept.
        """
        # Of a full disk each attempt takes some milliseconds.
        self._due = self._clock() + _SECONDS
        if not self._waiting:
            return
        self._parts.write(self._rows.table())
        self._waiting = 0
        if self._rows.count >= _ROWS:
            self._parts.end_part()
            self._rows = PartRows()

    def flush(self) -> None:
        """Write the part with all rows, and return once it is on the disk itself.

        Raises:
            DeliveryError: The part cannot be written now; its rows are kept.
            FileNotFoundError: The folder was deleted or moved.
        """
        if self._parts.deleted:
            raise self._deleted_error()
        try:
            self._write_part()
        except OSError as error:
            raise DeliveryError(
                f"{self._waiting} records are not in {self._path} yet: {error}.", late=self._waiting
            ) from error

    def close(self) -> None:
        """Write the part with all rows.

        Raises:
            DeliveryError: The part cannot be written; the records since the last part are lost.
            FileNotFoundError: The folder was deleted or moved.
        """
        try:
            if self._parts.deleted:
                raise self._deleted_error()
            self._write_part()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DeliveryError(
                f"{self._waiting} records are not in {self._path}: {error}.", lost=self._waiting
            ) from error
        finally:
            self._parts.release()

    def _deleted_error(self) -> FileNotFoundError:
        return FileNotFoundError(f"{self._path} was deleted or moved during the run, with all its rows")


def _folder_of(path: Path) -> Path:
    """Return the folder of the parts that a path names, itself or in its folder.

    Raises:
        NotADirectoryError: The path names a file.
    """
    folder = path if path.suffix == _SUFFIX else path / _NAME
    for each in (path, folder):
        if each.exists() and not each.is_dir():
            raise NotADirectoryError(
                f"{each} is a file, and Parquet writes a folder of parts: name another folder, or one that "
                f"ends in {_SUFFIX}."
            )
    return folder


def _require_arrow() -> None:
    import_extra(
        "pyarrow.parquet",
        "writers.Parquet needs pyarrow",
        extra="arrow",
        otherwise="writers.Csv needs no other package",
    )
