"""`sowlog tail`: the last steps of a run, and with `-f` those that come."""

from __future__ import annotations

import select
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from sowlog._cli.errors import UsageError
from sowlog._cli.report import Report, as_json, number
from sowlog._cli.selecting import choose, read_one
from sowlog._events.json_lines.form import nonfinite_name
from sowlog._events.reading import Run
from sowlog._printable import printable

Step = dict[str, Any]


def run(options: Namespace) -> Report:
    """Write the last steps, and follow the run if that is asked for."""
    one = read_one(options.run)
    choose(one.scalars, options.tag)
    seen = _Seen(options)
    _write(sys.stdout, seen.new_steps(one, most=options.steps), is_json=options.json)
    while options.follow:
        time.sleep(options.interval)
        _check_reader(sys.stdout)
        try:
            is_new = one.refresh()
        except OSError as error:
            cause = str(error).removesuffix(".")
            raise UsageError(f"{one.path} is gone: {cause}.") from error
        if is_new:
            _write(sys.stdout, seen.new_steps(one), is_json=options.json)
    return Report(0, None, list)


def _check_reader(stream: TextIO) -> None:
    """Raise BrokenPipeError if the reader of a pipe has gone: a write would find it at the next step only."""
    poll = select.poll()
    poll.register(stream, 0)
    if any(state & (select.POLLERR | select.POLLNVAL) for _, state in poll.poll(0)):
        raise BrokenPipeError


class _Points(NamedTuple):
    """The identities of points: a step that is logged again by a resumed run has another time."""

    steps: NDArray[np.int64]
    wall_times: NDArray[np.float64]

    def common(self, before: _Points | None) -> int:
        """Return the number of points at the beginning that were there before."""
        if before is None:
            return 0
        count = min(len(before.steps), len(self.steps))
        differs = before.steps[:count] != self.steps[:count]
        differs |= before.wall_times[:count] != self.wall_times[:count]
        first = np.flatnonzero(differs)
        return int(first[0]) if len(first) else count


class _Seen:
    """The points of a run that were written.

    Args:
        options: the options of the command, with globs of tags.
    """

    def __init__(self, options: Namespace) -> None:
        self._globs = options.tag
        self._points: dict[str, _Points] = {}

    def new_steps(self, run: Run, *, most: int | None = None) -> Iterator[Step]:
        """Yield the steps with points that were not there before, in order; of these the last `most`."""
        new = {tag: self._new_points(run, tag) for tag in self._chosen(run)}
        if most is not None:
            last = _last_steps([steps for steps, _, _ in new.values()], most)
            new = {tag: _at(last, columns) for tag, columns in new.items()}
        values: dict[int, dict[str, float]] = defaultdict(dict)
        times: dict[int, float] = {}
        for tag, columns in new.items():
            for step, value, wall_time in zip(*(column.tolist() for column in columns), strict=True):
                values[step][tag] = value
                times[step] = wall_time
        for step in sorted(values):
            yield {"step": step, "wall_time": times[step], "values": values[step]}

    def _new_points(self, run: Run, tag: str) -> list[NDArray[Any]]:
        """Return steps, values and wall times of the points that were not there before."""
        series, wall_times = run.scalars[tag], run.wall_times[tag]
        points = _Points(series.steps, wall_times)
        start = points.common(self._points.get(tag))
        self._points[tag] = points
        return [column[start:] for column in (series.steps, series.values, wall_times)]

    def _chosen(self, run: Run) -> list[str]:
        # A run that is read anew may have other tags.
        try:
            return choose(run.scalars, self._globs)
        except UsageError:
            return []


def _at(chosen: NDArray[np.int64], columns: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return the rows of the chosen steps, of columns of which the first has the steps."""
    rows = np.isin(columns[0], chosen)
    return [column[rows] for column in columns]


def _last_steps(steps: list[NDArray[np.int64]], most: int) -> NDArray[np.int64]:
    """Return the largest of all steps, at most `most` of them."""
    start = None if most else 0
    largest = [np.unique(each)[-most:start] for each in steps]
    return np.unique(np.concatenate([np.empty(0, np.int64), *largest]))[-most:start]


def _as_line(step: Mapping[str, Any]) -> Step:
    """Return a step in the form of `sowlog.writers.JsonLines`."""
    names = {tag: name for tag, value in step["values"].items() if (name := nonfinite_name(value))}
    scalars = {tag: None if tag in names else value for tag, value in step["values"].items()}
    line: Step = {"step": step["step"], "time": step["wall_time"], "scalars": scalars}
    return line | ({"nonfinite": names} if names else {})


def _write(stream: TextIO, steps: Iterable[Mapping[str, Any]], *, is_json: bool) -> None:
    for step in steps:
        if is_json:
            line = as_json(_as_line(step))
        else:
            values = (f"{printable(tag)} {number(value)}" for tag, value in step["values"].items())
            line = "  ".join((f"step {step['step']}", *values))
        stream.write(f"{line}\n")
    stream.flush()
