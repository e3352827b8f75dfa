"""`sowlog export`: the scalars of runs as CSV, Parquet or JSON lines."""

from __future__ import annotations

import importlib
import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sowlog._cli.errors import UsageError
from sowlog._cli.json_export import write_json_lines
from sowlog._cli.report import Report, counted
from sowlog._cli.selecting import choose, read_runs
from sowlog._events import frames
from sowlog._events.csv_form import csv_cell
from sowlog._events.reading import Run

# Rows that are made to text at once.
_ROWS = 1 << 16


def run(options: Namespace) -> Report:
    """Write the file and return the number of its rows."""
    path = Path(options.output)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise UsageError(f"-o {path} has no suffix of a format: one of {', '.join(_WRITERS)}.")
    runs = read_runs(options.runs)
    tags = choose(sorted({tag for one in runs.values() for tag in one.scalars}), options.tag)
    curves = _curves(runs, set(tags))
    names = ("run", "tag") if len(runs) > 1 else ("tag",)
    _write(path, lambda file: writer(file, names, curves))
    rows = sum(len(curve.steps) for curve in curves.values())
    data = {"file": str(path), "rows": rows, "runs": len(runs), "tags": len(tags)}
    counts = (counted(rows, "row"), counted(len(tags), "tag"), counted(len(runs), "run"))
    return Report(0, data, lambda: ["{}: {}, {} of {}".format(path, *counts)])


def _curves(runs: Mapping[str, Run], tags: set[str]) -> dict[tuple[str, ...], frames.Curve]:
    is_one = len(runs) == 1
    return {
        (tag,) if is_one else (name, tag): frames.Curve(series.steps, one.wall_times[tag], series.values)
        for name, one in runs.items()
        for tag, series in one.scalars.items()
        if tag in tags
    }


def _write(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file that has its name once it is complete.

    Raises:
        UsageError: The file cannot be written, or a package is missing.
    """
    partial = path.with_name(f".{path.name[-100:]}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            write(file)
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{path} needs {error.name}, which is not installed: pip install 'sowlog[arrow]', or name a "
            "file with the suffix .csv or .jsonl, which needs no other package."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _write_csv(file: BinaryIO, names: tuple[str, ...], curves: frames.Curves) -> None:
    file.write(f"{','.join((*names, 'step', 'wall_time', 'value'))}\n".encode())
    for key, steps, times, values in _texts(curves):
        prefix = ",".join(map(csv_cell, key))
        rows = zip(steps, times, values, strict=True)
        file.write(_encode("".join(f"{prefix},{s},{t},{v}\n" for s, t, v in rows)))


def _encode(text: str) -> bytes:
    # A path may hold bytes that are no UTF-8.
    return text.encode("utf-8", "surrogateescape")


def _texts(curves: frames.Curves) -> Iterator[tuple[tuple[str, ...], list[str], list[str], list[str]]]:
    """Yield parts of the curves as the shortest texts that come back as the same numbers."""
    for key, curve in curves.items():
        for start in range(0, len(curve.steps), _ROWS):
            part = slice(start, start + _ROWS)
            steps, times, values = (_numbers(column[part]) for column in curve)
            yield key, steps, times, values


def _numbers(column: NDArray[Any]) -> list[str]:
    if column.dtype == np.float32:
        return [str(value) for value in column]
    return list(map(repr, column.tolist()))


def _write_parquet(file: BinaryIO, names: tuple[str, ...], curves: frames.Curves) -> None:
    table = frames.as_arrow(names, curves)
    importlib.import_module("pyarrow.parquet").write_table(table, file)


_WRITERS: dict[str, Callable[[BinaryIO, tuple[str, ...], frames.Curves], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".jsonl": write_json_lines,
    ".ndjson": write_json_lines,
}
