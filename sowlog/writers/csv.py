"""CSV: a row for each scalar, for a table of pandas, R or a spreadsheet.

The columns are those of `Run.to_pandas`. The table is long, as each new tag would change the header of a wide
one:

- `step`: an integer; `wall_time`: seconds since the epoch.
- `tag`: the tag, in quotes if it contains a comma, a quote or a line end. The text is UTF-8.
- `value`: nine digits, which are a float32 exactly; `nan`, `inf` or `-inf`. An absent value has no row.

`frame.pivot(index="step", columns="tag", values="value")` makes a column for each tag.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from sowlog._events.csv_form import csv_cell
from sowlog._tree.identity import ByIdentity
from sowlog._tree.layout import PresentTags
from sowlog.writers._arguments import check_path, check_resume
from sowlog.writers._csv_rows import open_rows, without_rows
from sowlog.writers._text_file import TextFile
from sowlog.writers.protocol import StalledError
from sowlog.writers.record import Record

_NAME, _SUFFIX = "metrics.csv", ".csv"


class Csv:
    """Writes the scalars of each record as rows of a CSV file, which a resumed run continues.

    The columns are `step`, `wall_time`, `tag` and `value`; `help(sowlog.writers.csv)` has their form. The
    rows of a record reach the operating system in one write before `write` returns; a row that a kill has cut
    is removed when the file is opened again. On a full disk the file holds whole records only and the logger
    tries again; after it was deleted, a new one begins. Other values than scalars have no place there.

    Args:
        path: the file, if its name ends in .csv; else a folder, in which the file is `metrics.csv`. It is
            created if it does not exist, with `~` expanded, and else continued.
        resume_from: the first step that will be written when a run continues: all rows from that step on are
            removed.

    Raises:
        BlockingIOError: Another writer has the file.
        OSError: The file cannot be opened.
        TypeError: `resume_from` is not an integer.
        ValueError: The file is another program's, or `path` is not on this machine, as `gs://bucket/run`.

    Example:
        >>> import pathlib, tempfile, sowlog
        >>> from sowlog.writers import Csv
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with sowlog.Logger(folder, writers=[Csv(folder)]) as log:
        ...     for step in range(3):
        ...         log(step, {"loss": 0.5**step, "rate": {"router": 0.25}})

        >>> import pandas
        >>> frame = pandas.read_csv(folder / "metrics.csv")
        >>> frame.pivot(index="step", columns="tag", values="value")["loss"].tolist()
        [1.0, 0.5, 0.25]

        A run that continues at step 2:

        >>> with sowlog.Logger(folder, writers=[Csv(folder, resume_from=2)]) as log:
        ...     log(2, {"loss": 0.125})
        >>> frame = pandas.read_csv(folder / "metrics.csv")
        >>> frame[frame["tag"] == "loss"]["value"].tolist()
        [1.0, 0.5, 0.125]
    """

    def __init__(self, path: str | PathLike[str], *, resume_from: int | None = None) -> None:
        resumed = check_resume(resume_from)
        self._path = _file_of(check_path(path))
        file = open_rows(self._path)
        if resumed is not None:
            file = without_rows(file, resumed)
        self._file = TextFile(file, open_rows)
        self._pieces = ByIdentity[tuple[str, ...], tuple[str, ...]]()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def write(self, record: Record) -> None:
        """Append the rows of a record.

        Raises:
            StalledError: The rows cannot be written now.
        """
        self.write_all([record])

    def write_all(self, records: Iterable[Record]) -> None:
        """Append the rows of all records in one write.

        Raises:
            StalledError: The rows cannot be written now; the file then holds none of them.
        """
        rows = "".join(self._rows(record) for record in records if record.tags)
        try:
            self._file.append(rows.encode())
        except OSError as error:
            raise StalledError(f"{self._path} cannot be written: {error}") from error

    def _rows(self, record: Record) -> str:
        start = f"{record.step},{record.wall_time!r},"
        return (start + start.join(self._pieces_of(record.tags))) % tuple(record.values.tolist())

    def _pieces_of(self, tags: tuple[str, ...]) -> Iterable[str]:
        """Return the end of each tag's row, with a place for the value; those of a layout are cached."""
        if isinstance(tags, PresentTags):
            return itertools.compress(self._pieces_of(tags.whole), tags.present.tolist())
        return self._pieces.find(tags, _make_pieces)

    def flush(self) -> None:
        """Return once all written rows are on the disk itself.

        Raises:
            OSError: The file cannot be synced, or was deleted.
        """
        self._file.flush()

    def close(self) -> None:
        """Flush and close the file.

        Raises:
            OSError: As for `flush`; the file is closed nevertheless.
        """
        self._file.close()


def _make_pieces(tags: tuple[str, ...]) -> tuple[str, ...]:
    # The file is UTF-8.
    cells = (csv_cell(tag.encode(errors="backslashreplace").decode()) for tag in tags)
    return tuple(f"{cell.replace('%', '%%')},%.9g\n" for cell in cells)


def _file_of(path: Path) -> Path:
    """Return the file that a path names, itself or in its folder.

    Raises:
        NotADirectoryError: The path names neither.
    """
    if path.suffix == _SUFFIX and not path.is_dir():
        return path
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(
            f"{path} is a file, and neither a folder nor the name of one: name a folder, or a file that ends "
            f"in {_SUFFIX}."
        )
    return path / _NAME
