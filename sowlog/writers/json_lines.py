"""JSON lines: a file that any language reads, a line for each call of the logger.

Each line is an object of strict JSON, in ASCII. All keys but the first two are left out where a record has no
such values:

- `step`: an integer; `time`: seconds since the epoch.
- `scalars`: numbers by tag, with nine digits, which are a float32 exactly, and an exponent, so that no number
  is read as an integer. An absent tag has no value at this step; null stands for a value that JSON lacks, and
- `nonfinite` then has its name by tag: "NaN", "Infinity" or "-Infinity". So the column of a tag holds numbers
  alone, for readers with types.
- `histograms`: by tag `edges` (n + 1) and `counts` (n), between the smallest and the largest element; `min`,
  `max`, `sum` and `sum_squares` of the finite elements, null if there are none; the numbers of the others,
  `nan`, `positive_inf` and `negative_inf`, which an export (`sowlog export`) does not know.
- `images`: by tag `file`, a PNG (of an export also a JPEG or GIF) relative to the folder of the lines, and
  `shape`, [height, width, channels].
- `pr_curves`: by tag six lists of numbers at thresholds from 0 to 1: `true_positives`, `false_positives`,
  `true_negatives`, `false_negatives`, `precision` and `recall`.
- `texts`: Markdown by tag.
- `hparams`: `values` by dotted name and `metrics`, a list of tags. `layout`: regular expressions of tags by
  category and title. `ending`: "success" or "failure". All three are of the run, with step 0.
- `resumed`: true, alone. The run went on at `step`, and all lines before this one with a step at or after it
  are superseded. A reader drops these, as `sowlog.read` does, and TensorBoard in event files.
- `run`: the name of the run, in an export of several runs to one file (`sowlog export`).

`sowlog.read` reads the file back. A later version may add keys.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from sowlog._events.appending import AppendedFile, open_appended
from sowlog._events.json_lines.form import JSON_SUFFIXES, LONGEST_LINE, METRICS_NAME, OPENING, save_image
from sowlog._events.png import encode_png
from sowlog.writers._arguments import check_path, check_resume
from sowlog.writers._json_text import Encoder
from sowlog.writers._text_file import TextFile
from sowlog.writers.protocol import StalledError
from sowlog.writers.record import Record

_BLOCK = 1 << 16
_REMEDY = "close that one first, or name another file"


class JsonLines:
    """Writes each record as one line of JSON, to a file that a resumed run continues.

    The module's docstring, `help(sowlog.writers.json_lines)`, has the form of a line. A line reaches the
    operating system in one write before `write` returns; a last line that a kill has cut is removed when the
    file is opened again. Images become PNG files in a folder beside it, `metrics.images`. On a full disk
    the file holds whole lines only and the logger tries again; after it was deleted, a new one begins.

    Args:
        path: the file, if its name ends in .jsonl, .ndjson or .json; else a folder, in which the file is
            `metrics.jsonl`. It is created if it does not exist, with `~` expanded, and else continued.
        resume_from: the first step that will be written when a run continues: a line notes that it
            supersedes all lines before it from that step on.
        clock: returns seconds since the epoch, for that line.

    Raises:
        BlockingIOError: Another writer has the file.
        OSError: The file cannot be opened.
        TypeError: `resume_from` is not an integer.
        ValueError: The file is another program's, or `path` is not on this machine, as `gs://bucket/run`.

    Example:
        >>> import json, pathlib, tempfile, sowlog
        >>> from sowlog.writers import JsonLines
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with sowlog.Logger(folder, writers=[JsonLines(folder)]) as log:
        ...     for step in range(3):
        ...         log(step, {"loss": 0.5**step, "rate": {"router": 0.25}})
        >>> lines = (folder / "metrics.jsonl").read_text().splitlines()
        >>> json.loads(lines[2])["scalars"]
        {'loss': 0.25, 'rate/router': 0.25}

        A run that goes on at step 2, and a reader that drops the superseded lines:

        >>> with sowlog.Logger(folder, writers=[JsonLines(folder, resume_from=2)]) as log:
        ...     log(2, {"loss": 0.125})
        >>> shown = []
        >>> for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        ...     if line.get("resumed"):
        ...         shown = [other for other in shown if other["step"] < line["step"]]
        ...     else:
        ...         shown.append(line)
        >>> [(line["step"], line["scalars"]["loss"]) for line in shown]
        [(0, 1.0), (1, 0.5), (2, 0.125)]
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        resume_from: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        resumed = check_resume(resume_from)
        self._encoder = Encoder()
        self._file = TextFile(_open(_file_of(check_path(path))), _open)
        self._path = self._file.path
        if resumed is not None and self._file.end:
            try:
                self._file.append(_line_of({"step": resumed, "time": clock(), "resumed": True}))
            except OSError:
                self._file.release()
                raise

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def write(self, record: Record) -> None:
        """Append the line of a record.

        Raises:
            StalledError: The line cannot be written now.
        """
        self.write_all([record])

    def write_all(self, records: Iterable[Record]) -> None:
        """Append the lines of all records in one write.

        Raises:
            StalledError: The lines cannot be written now; the file then holds none of them.
        """
        try:
            lines = [self._encoder.line(record, self._save_images(record)) for record in records]
            self._file.append("".join(lines).encode("ascii"))
        except OSError as error:
            raise StalledError(f"{self._path} cannot be written: {error}") from error

    def _save_images(self, record: Record) -> dict[str, dict[str, Any]]:
        return {
            tag: save_image(self._path, tag, record.step, encode_png(image), image.shape)
            for tag, image in record.images.items()
        }

    def flush(self) -> None:
        """Return once all written lines are on the disk itself.

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


def _line_of(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode("ascii") + b"\n"


def _file_of(path: Path) -> Path:
    """Return the file that a path names, itself or in its folder.

    Raises:
        NotADirectoryError: The path names neither.
    """
    if path.suffix in JSON_SUFFIXES and not path.is_dir():
        return path
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(
            f"{path} is a file, and neither a folder nor the name of one: name a folder, or a file that ends "
            f"in .jsonl."
        )
    return path / METRICS_NAME


def _open(path: Path) -> AppendedFile:
    """Open a file of lines, without a last line that a kill has cut.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is another program's.
    """
    file = open_appended(path, remedy=_REMEDY)
    try:
        _check_head(file)
        _repair(file)
    except BaseException:
        file.release()
        raise
    return file


def _check_head(file: AppendedFile) -> None:
    """Find a file of another program before it is changed."""
    if not OPENING.startswith(file.read(0, len(OPENING))):
        raise ValueError(
            f"{file.path} does not begin as a file of JsonLines does, {OPENING.decode()}..., so nothing is "
            f"appended to it: name another file."
        )


def _repair(file: AppendedFile) -> None:
    """End the last line of a file, or drop it if it is cut."""
    start = _last_line(file)
    size = file.end - start
    if not size:
        return
    if size < LONGEST_LINE and _is_whole(file.read(start, size)):
        file.append(b"\n")
    else:
        file.shorten(start)


def _last_line(file: AppendedFile) -> int:
    """Return the byte behind the last newline."""
    end = file.end
    while end:
        start = max(0, end - _BLOCK)
        newline = file.read(start, end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
