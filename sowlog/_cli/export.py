"""`sowlog export`: the values of runs as CSV, Parquet or JSON lines."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from sowlog._cli.errors import UsageError
from sowlog._cli.json_export import JSON_KINDS, write_json_lines
from sowlog._cli.report import Report, counted
from sowlog._cli.selecting import choose, matching, read_runs
from sowlog._cli.table_export import COLUMNS, WRITERS, Part, Table
from sowlog._events.reading import Run
from sowlog._events.whole_file import write_whole

T = TypeVar("T")
_KINDS = ("scalars", "histograms", "images", "texts", "pr_curves", "tensors", "hparams")
_JSON = (".jsonl", ".ndjson")
Setting = bool | float | str
# Scalars that are one part of a table.
_ROWS = 1 << 16


def run(options: Namespace) -> Report:
    """Write the file and return the number of its rows."""
    path = Path(options.output)
    kinds = _kinds_of(path, options.kind, options.tag)
    runs = read_runs(options.runs)
    known = {tag for kind in kinds for one in runs.values() for tag in _tags_of(one, kind)}
    tags = choose(sorted(known), options.tag)
    left_out = _left_out(runs, kinds, options.tag)
    if _is_json(path):
        rows, lost = _write(path, lambda file: write_json_lines(file, path, runs, kinds, set(tags)))
        left_out += lost
    else:
        table = _table(runs, kinds[0], set(tags))
        rows = _write(path, lambda file: WRITERS[path.suffix.lower()](file, table))
    data = {"file": str(path), "rows": rows, "runs": len(runs), "tags": len(tags), "left_out": left_out}
    said = [f"left out: {', '.join(left_out)}{_remedy(path)}"] if left_out else []
    counts = (counted(rows, "row"), counted(len(tags), "tag"), counted(len(runs), "run"))
    return Report(0, data, lambda: ["{}: {}, {} of {}".format(path, *counts), *said])


def _is_json(path: Path) -> bool:
    return path.suffix.lower() in _JSON


def _kinds_of(path: Path, given: Sequence[str] | None, globs: Sequence[str] | None) -> tuple[str, ...]:
    """Return the kinds of values that the file is to hold.

    Raises:
        UsageError: The suffix is of no format, or the format does not hold a kind.
    """
    is_json = _is_json(path)
    if not is_json and path.suffix.lower() not in WRITERS:
        formats = ", ".join((*WRITERS, *_JSON))
        raise UsageError(f"-o {path} has no suffix of a format: one of {formats}.")
    able = JSON_KINDS if is_json else tuple(COLUMNS)
    kinds = tuple(dict.fromkeys(given or (JSON_KINDS if is_json else ("scalars",))))
    for kind in kinds:
        if kind not in able:
            hint = "" if is_json or kind not in JSON_KINDS else "; a file that ends in .jsonl does"
            raise UsageError(f"a file {path.suffix} does not hold {kind}, but {', '.join(able)}{hint}.")
    if len(kinds) > 1 and not is_json:
        raise UsageError(
            f"a file {path.suffix} has the columns of one kind, and {len(kinds)} are named: write a file for "
            f"each, or a file that ends in .jsonl."
        )
    if kinds == ("hparams",) and globs:
        raise UsageError("--tag chooses tags, and hyperparameters have none: leave it out.")
    # Hyperparameters have no tag to be chosen by.
    return tuple(kind for kind in kinds if not (globs and kind == "hparams"))


def _tags_of(run: Run, kind: str) -> list[str]:
    return [] if kind == "hparams" else list(getattr(run, kind))


def _left_out(runs: Mapping[str, Run], kinds: Sequence[str], globs: Sequence[str] | None) -> list[str]:
    """Return the kinds of values that the runs have and the file does not hold."""
    found: list[str] = []
    for kind in _KINDS:
        if kind in kinds:
            continue
        if kind == "hparams":
            if not globs and any(one.hparams for one in runs.values()):
                found.append("hparams")
            continue
        count = len({tag for one in runs.values() for tag in matching(getattr(one, kind), globs)})
        if count:
            found.append(f"{kind} of {count} tag{'s' * (count != 1)}")
    return found


def _remedy(path: Path) -> str:
    if _is_json(path):
        return ""
    return f" (--kind writes one of {', '.join(COLUMNS)}; a file that ends in .jsonl holds all but tensors)"


def _write(path: Path, write: Callable[[BinaryIO], T]) -> T:
    """Write a file that has its name once it is complete.

    Raises:
        UsageError: The file cannot be written, or a package is missing.
    """
    try:
        return write_whole(path, write, is_shared=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    except (ModuleNotFoundError, ValueError) as error:
        # The latter of values that were changed since, or that cannot be decoded.
        raise UsageError(str(error)) from error


def _table(runs: Mapping[str, Run], kind: str, tags: set[str]) -> Table:
    names = [*(["run"] if len(runs) > 1 else []), *(["tag"] if kind != "hparams" else [])]

    def parts() -> Iterator[Part]:
        for name, one in runs.items():
            key = (name,) if len(runs) > 1 else ()
            if kind == "hparams":
                yield Part(key, (list(one.hparams), list(map(_setting, one.hparams.values()))))
            elif kind == "scalars":
                yield from _scalars(one, key, tags)
            else:
                yield from _others(one, kind, key, tags)

    return Table(tuple(names), COLUMNS[kind], parts())


def _setting(value: Setting) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)


def _scalars(run: Run, key: tuple[str, ...], tags: set[str]) -> Iterator[Part]:
    for tag, series in run.scalars.items():
        if tag in tags:
            for start in range(0, len(series.steps), _ROWS):
                part = slice(start, start + _ROWS)
                yield Part((*key, tag), (series.steps[part], run.wall_times[tag][part], series.values[part]))


def _others(run: Run, kind: str, key: tuple[str, ...], tags: set[str]) -> Iterator[Part]:
    """Yield a row for each bucket of a histogram, or for each text; of a text of several parts, for each."""
    for tag, points in getattr(run, kind).items():
        if tag not in tags:
            continue
        for row, (step, value) in enumerate(points):
            if kind == "histograms":
                columns = value.lefts, value.rights, value.counts
            else:
                columns = ([value] if isinstance(value, str) else list(value.ravel()),)
            count = len(columns[0])
            times = np.full(count, points.wall_times[row])
            yield Part((*key, tag), (np.full(count, step, np.int64), times, *columns))
