"""A run read from its event files, or from its JSON lines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from sowlog._events import frames
from sowlog._events.decoding import HistogramSummary, ImageSummary
from sowlog._events.folders import local_folder
from sowlog._events.framing import CorruptEventFile, open_regular
from sowlog._events.html import run_html
from sowlog._events.json_lines.reader import JsonReader
from sowlog._events.media import Media
from sowlog._events.reader import Reader
from sowlog._events.sources import reader_of, run_files
from sowlog._events.tracking import ChangedFilesError
from sowlog._events.trees import suggest_runs


class Series(NamedTuple):
    """The points of a tag in the order of writing.

    Attributes:
        steps: int64, shape [n].
        values: float32, shape [n].
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float32]


@final
@dataclass(eq=False)
class Run:
    """The contents of a run's files.

    Values other than scalars stay in the files and are decoded where they are used: `run.images["x"]` has
    `steps`, `wall_times`, and `values`, a sequence that reads one value at each index.

    Attributes:
        path: the file or the folder.
        scalars: steps and values by tag.
        wall_times: seconds since the epoch of the same points, float64, by tag.
        damage: an error for each file that cannot be read to its end, with the position and the cause. The
            last record of a killed run may be cut short. A path with the name of an event file that is no
            readable file, such as a FIFO or a folder, is skipped and listed here.
        histograms: histograms by tag, with `lefts`, `rights` and `counts` of their buckets.
        images: images by tag; `values[0].pixels()` is uint8 of shape [H, W, C].
        texts: texts by tag, each a str, or of a table an object array of str.
        tensors: numbers, or an object array of bytes, by tag: tensors of TensorFlow 2 that no other attribute
            has.
        pr_curves: precision-recall curves by tag, arrays of shape [6, thresholds] as in `Record.pr_curves`.
        hparams: the hyperparameters by dotted name, as TensorBoard shows them: the first of the run.
        config: the same, nested at the dots.
        descriptions: the description of each tag that has one.
        left_out: the kind of skipped values by tag, such as "audio".

    Example:
        >>> import tempfile, sowlog
        >>> logdir = tempfile.mkdtemp()
        >>> with sowlog.Logger(logdir) as log:
        ...     log.hparams({"optimizer": {"name": "adam"}})
        ...     log(3, {"train": {"loss": 0.5, "accuracy": 0.25}})
        ...     log.text(3, "note", "halfway")
        >>> run = sowlog.read(logdir)
        >>> run
        <Run of ..., 3 tags>
        >>> sorted(run.scalars)
        ['train/accuracy', 'train/loss']
        >>> run.scalars["train/loss"].values
        array([0.5], dtype=float32)
        >>> run.config
        {'optimizer': {'name': 'adam'}}
        >>> list(run.texts["note"])
        [(3, 'halfway')]
    """

    path: Path
    scalars: Mapping[str, Series]
    wall_times: Mapping[str, NDArray[np.float64]]
    damage: tuple[CorruptEventFile, ...]
    histograms: Mapping[str, Media[HistogramSummary]]
    images: Mapping[str, Media[ImageSummary]]
    texts: Mapping[str, Media[str | NDArray[np.object_]]]
    tensors: Mapping[str, Media[NDArray[Any]]]
    pr_curves: Mapping[str, Media[NDArray[Any]]]
    hparams: Mapping[str, bool | float | str]
    config: Mapping[str, Any]
    descriptions: Mapping[str, str]
    left_out: Mapping[str, str]
    _reader: Reader | JsonReader = field(repr=False)

    def __repr__(self) -> str:
        kinds = (self.scalars, self.histograms, self.images, self.texts, self.tensors, self.pr_curves)
        count = len({tag for of_kind in kinds for tag in of_kind})
        damaged = f", {len(self.damage)} damaged" if self.damage else ""
        return f"<Run of {self.path}, {count} tag{'s' * (count != 1)}{damaged}>"

    def _repr_html_(self) -> str:
        kinds = ("histograms", "images", "texts", "tensors", "pr_curves")
        return run_html(repr(self), self.scalars, {kind: getattr(self, kind) for kind in kinds})

    def refresh(self) -> bool:
        """Read the records written since, and no byte twice; a run whose files were replaced is read anew.

        Arrays that were taken from the run before stay as they are.

        Returns:
            Whether anything is new.

        Raises:
            FileNotFoundError: The files are gone.

        Example:
            >>> import tempfile, sowlog
            >>> logdir = tempfile.mkdtemp()
            >>> with sowlog.Logger(logdir) as log:
            ...     log(0, {"loss": 1.0})
            ...     log.flush()
            ...     run = sowlog.read(logdir)
            ...     log(1, {"loss": 0.5})
            ...     log.flush()
            ...     run.refresh(), run.scalars["loss"].steps
            (True, array([0, 1]))
            >>> run.refresh()
            False
        """
        files = run_files(self.path)
        try:
            is_new = self._reader.read(files)
        except ChangedFilesError:
            self._reader, is_new = reader_of(files), True
            self._reader.read(files)
        if is_new:
            vars(self).update(vars(_run_of(self.path, self._reader)))
        return is_new

    def to_numpy(self) -> dict[str, NDArray[Any]]:
        """Return the scalars as one table with a row for each point, tag by tag.

        Returns:
            The columns by name, all of one length: tag (object array of str), step (int64), wall_time
            (float64, seconds since the epoch) and value (float32).

        Example:
            >>> import tempfile, sowlog
            >>> logdir = tempfile.mkdtemp()
            >>> with sowlog.Logger(logdir) as log:
            ...     log(7, {"loss": 0.5, "rate": 0.25})
            >>> table = sowlog.read(logdir).to_numpy()
            >>> table["tag"].tolist(), table["step"].tolist(), table["value"].tolist()
            (['loss', 'rate'], [7, 7], [0.5, 0.25])
        """
        return frames.as_numpy(("tag",), self._curves())

    def to_pandas(self) -> Any:
        """Return the table of `to_numpy` as a DataFrame of pandas, with tags as categories.

        `frame.pivot_table(index="step", columns="tag", values="value", observed=True)` has a column for each
        tag.

        Raises:
            ModuleNotFoundError: pandas is not installed (`pip install 'sowlog[pandas]'`).

        Example:
            >>> import tempfile, sowlog
            >>> logdir = tempfile.mkdtemp()
            >>> with sowlog.Logger(logdir) as log:
            ...     for step in range(3):
            ...         log(step, {"loss": 1.0 / 2**step})
            >>> frame = sowlog.read(logdir).to_pandas()
            >>> frame[["tag", "step", "value"]]
                tag  step  value
            0  loss     0   1.00
            1  loss     1   0.50
            2  loss     2   0.25
        """
        return frames.as_pandas(("tag",), self._curves())

    def to_arrow(self) -> Any:
        """Return the table of `to_numpy` as a Table of Arrow, with tags as a dictionary.

        Raises:
            ModuleNotFoundError: pyarrow is not installed (`pip install 'sowlog[arrow]'`).

        Example:
            >>> import tempfile, sowlog
            >>> logdir = tempfile.mkdtemp()
            >>> with sowlog.Logger(logdir) as log:
            ...     log(7, {"loss": 0.5})
            >>> table = sowlog.read(logdir).to_arrow()
            >>> table.column_names, table["value"].to_pylist()
            (['tag', 'step', 'wall_time', 'value'], [0.5])
        """
        return frames.as_arrow(("tag",), self._curves())

    def _curves(self, *names: str) -> dict[tuple[str, ...], frames.Curve]:
        """Return the scalars by tag, behind further names."""
        return {
            (*names, tag): frames.Curve(series.steps, self.wall_times[tag], series.values)
            for tag, series in self.scalars.items()
        }


def read(path: str | PathLike[str]) -> Run:
    """Read a run from its event files, of any program, or from the lines of `sowlog.writers.JsonLines`.

    Each file is read to its first damaged record or line. In a resumed run, superseded points are left out,
    as in TensorBoard. Event files without a version record mark no restart: there a step that goes back is
    one. A last line of JSON that a kill has cut is left out.

    Args:
        path: an event file; a file of JSON lines, whose name ends in .jsonl, .ndjson or .json; or the folder
            of a run, without its subfolders, which `read_all` reads. A folder's files are its event files, or
            without one its `metrics.jsonl`.

    Returns:
        The run.

    Raises:
        FileNotFoundError: The path has no event file and no `metrics.jsonl`.
        OSError: The path is a file that cannot be read.
        ValueError: The path is not on this machine, as in `gs://bucket/run`.

    Example:
        >>> import tempfile, sowlog
        >>> logdir = tempfile.mkdtemp()
        >>> with sowlog.Logger(logdir) as log:
        ...     for step in range(3):
        ...         log(step, {"loss": 1.0 / 2**step})
        >>> steps, values = sowlog.read(logdir).scalars["loss"]
        >>> steps, values
        (array([0, 1, 2]), array([1.  , 0.5 , 0.25], dtype=float32))
        >>> with sowlog.Logger(logdir, writers=[sowlog.writers.JsonLines(f"{logdir}/lines")]) as log:
        ...     log(7, {"loss": 0.125})
        >>> sowlog.read(f"{logdir}/lines/metrics.jsonl").scalars["loss"].values
        array([0.125], dtype=float32)
    """
    folder = local_folder(path)
    try:
        return read_run(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{suggest_runs(folder)}") from None


def read_run(path: Path) -> Run:
    """Read a run.

    Raises:
        FileNotFoundError: The path has no event file and no `metrics.jsonl`.
        OSError: The path is a file that cannot be read.
    """
    files = run_files(path)
    if files == [path]:
        open_regular(path).close()
    reader = reader_of(files)
    reader.read(files)
    return _run_of(path, reader)


def _run_of(path: Path, reader: Reader | JsonReader) -> Run:
    contents, order, files = reader.contents, reader.tracker.order, reader.tracker.files
    series = dict(contents.scalars(order))
    hparams = contents.hparams(order)
    return Run(
        path,
        {tag: Series(columns.steps, columns.values) for tag, columns in series.items()},
        {tag: columns.wall_times for tag, columns in series.items()},
        reader.tracker.damage,
        contents.media("histograms", order, files),
        contents.media("images", order, files),
        contents.media("text", order, files),
        contents.media("tensors", order, files),
        contents.media("pr_curves", order, files),
        hparams,
        _nested(hparams),
        dict(sorted(contents.descriptions.items())),
        dict(sorted(contents.left_out.items())),
        reader,
    )


def _nested(settings: Mapping[str, bool | float | str]) -> dict[str, Any]:
    """Return settings nested at the dots of their names; a name that is a section's as well stays dotted."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, last = name.split(".")
        inner = nested
        for place, section in enumerate(sections):
            if not isinstance(inner.setdefault(section, {}), dict):
                last = ".".join([*sections[place:], last])
                break
            inner = inner[section]
        inner[last] = value
    return nested
