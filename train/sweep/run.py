"""Sweeps: one experiment with settings varied, a run folder for each point of the product.

What is known of a sweep is what its run folders hold, so the same command goes on where it stopped: a point
with results is finished, one that another process trains is waited for, every other one is trained, from its
checkpoint if it has one. Only the points import JAX.
"""

import hashlib
import itertools
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self, cast

from train.config import errors, yaml_reading
from train.config import file as config_file
from train.config.errors import COMMAND_LINE, ConfigError
from train.config.experiment import Config
from train.runs import folder as run_folder
from train.runs import results
from train.runs.folder import RunFolderError, UnreadableFolderError
from train.runs.results import Results
from train.show import lines
from train.system import files
from train.system.signals import Handlers

LOG = "output.log"
MAX_POINTS = 10_000
_RANGE = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})")
_UNSAFE = re.compile(r"[^A-Za-z0-9._=,+@\[\]-]")
_LONGEST_NAME = 150
# Seconds between two looks at what runs.
_INTERVAL = 0.1
_TAIL = 15
_TAIL_BYTES = 100_000


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        path: its run folder, named after what is varied.
        values: what is varied, by dotted key.
        overrides: the same, as the command line takes it.
        config: the whole configuration.
    """

    path: Path
    values: dict[str, Any]
    overrides: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        """The name of its folder, as TensorBoard lists it."""
        return self.path.name

    @property
    def log(self) -> Path:
        """The file that its output is appended to."""
        return self.path / LOG

    def results(self) -> Results | None:
        """Gives what came of it; None if it is not finished."""
        found = results.read(self.path)
        return found if found is not None and found.steps == self.config.steps else None


def plan(file: Path, overrides: Sequence[str], sweeps: Sequence[str], folder: Path) -> list[Point]:
    """Gives the points of a sweep, the first setting varied the slowest, all checked.

    Args:
        file: the experiment.
        overrides: settings of every point.
        sweeps: `key=value,value` each; `a..b` stands for the whole numbers from a to b.
        folder: where the run folders are.

    Raises:
        ConfigError: with every mistake in what is varied and in the configurations that result.
        RunFolderError: a point's folder holds another configuration.
    """
    axes = dict(_parse_all(sweeps))
    points: list[Point] = []
    wrong: dict[str, None] = {}
    for values in itertools.product(*axes.values()):
        assigned = dict(zip(axes, values, strict=True))
        texts = tuple(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in assigned.items())
        try:
            config = config_file.load(file, [*overrides, *texts], is_to_train=True)
        except ConfigError as error:
            wrong |= dict.fromkeys(error.mistakes)
        else:
            points.append(Point(folder / _name(assigned), assigned, texts, config))
    _require_none(wrong)
    _require_none(_doubles(points))
    _check_folders(points)
    return points


def _parse_all(sweeps: Iterable[str]) -> list[tuple[str, list[Any]]]:
    wrong: list[str] = []
    axes: dict[str, list[Any]] = {}
    for text in sweeps:
        try:
            key, values = _parse(text)
        except ConfigError as error:
            wrong.extend(error.mistakes)
            continue
        if key in axes:
            wrong.append(f"{COMMAND_LINE}: --sweep {key}: given twice; write all values in one, {key}=1,2")
        axes[key] = values
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MAX_POINTS:
        wrong.append(f"{COMMAND_LINE}: --sweep: makes {count:,} points; no more than {MAX_POINTS:,} are made")
    _require_none(wrong)
    return list(axes.items())


def _parse(text: str) -> tuple[str, list[Any]]:
    """Splits `key=value,value`; a comma within brackets or quotes belongs to the value."""
    key, equals, listed = text.partition("=")
    if not equals or not all(key.split(".")):
        example = "such as optimizer.learning_rate=1e-3,3e-3 or seed=0..2"
        raise ConfigError([f"{COMMAND_LINE}: --sweep {text}: not of the form key=value,value, {example}"])
    try:
        items = yaml_reading.read_value(f"[{listed}]")
    except yaml_reading.ERRORS as error:
        problem = errors.explain_yaml(error)
        raise ConfigError([f"{COMMAND_LINE}: --sweep {key}: broken YAML: {problem}"]) from None
    values = [value for item in cast(list[Any], items) for value in _expand(key, item)]
    if not values:
        raise ConfigError([f"{COMMAND_LINE}: --sweep {key}: no values"])
    return key, values


def _expand(key: str, item: Any) -> Iterable[Any]:
    """Gives the whole numbers of a range, or the value itself."""
    if not isinstance(item, str) or (match := _RANGE.fullmatch(item)) is None:
        return [item]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MAX_POINTS:
        problem = f"{item} is no range upwards of at most {MAX_POINTS:,} numbers"
        raise ConfigError([f"{COMMAND_LINE}: --sweep {key}: {problem}"])
    return range(first, last + 1)


def _name(values: dict[str, Any]) -> str:
    """Gives a folder's name that says what is varied, the same whenever it is made."""
    exact = ",".join(f"{key}={_show(value)}" for key, value in values.items())
    safe = _UNSAFE.sub("_", exact)
    if safe == exact and len(safe) <= _LONGEST_NAME:
        return safe
    # What was replaced or cut off is in the digest, so that no two values share a folder.
    return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


def _show(value: Any) -> str:
    """Shows a value as one would write it: text bare unless it would read as something else."""
    if isinstance(value, str):
        try:
            if yaml_reading.read_value(value) == value:
                return value
        except yaml_reading.ERRORS:
            pass  # Text that no YAML is, such as "{", stands in quotes.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _doubles(points: Sequence[Point]) -> Iterator[str]:
    known: dict[str, Point] = {}
    for point in points:
        same = known.setdefault(config_file.dump(point.config), point)
        if same is not point:
            yield f"{COMMAND_LINE}: --sweep: {point.name} is the same run as {same.name}; take one out"


def _require_none(wrong: Iterable[str]) -> None:
    lines = list(wrong)
    if lines:
        raise ConfigError(lines)


def _check_folders(points: Iterable[Point]) -> None:
    lines: list[str] = []
    for point in points:
        try:
            run_folder.holds(point.path, point.config)
        except UnreadableFolderError:  # No other point's affair: it says so when it is trained.
            continue
        except RunFolderError as error:
            lines.append(str(error))
    if lines:
        raise RunFolderError("\n".join(lines))


def describe(points: Sequence[Point]) -> str:
    """Lists the points, each with what is known of it."""
    return "\n".join(f"{point.path}  {_state(point)}" for point in points)


def _state(point: Point) -> str:
    if point.results():
        return "finished"
    if run_folder.is_taken(point.path):
        return "another process trains it"
    return "begun" if (point.path / "config.yaml").exists() else "new"


class Worker(Protocol):
    """What trains a point."""

    def ended(self) -> bool:
        """Tells whether it is over, without waiting."""
        ...

    def stop(self, number: signal.Signals) -> None:
        """Asks it to save and end."""
        ...

    def verdict(self) -> str:
        """Says how it ended, once it is over: "stopped" after a signal, else why it failed."""
        ...


class Sweep:
    """Trains the points that are not finished, a few at a time.

    Args:
        points: what to train.
        start: starts the worker of a point.
        jobs: how many points are trained at a time.

    Attributes:
        signal: what this process was asked to end by, None so far.
        unfinished: points that failed, or were stopped.
    """

    def __init__(self, points: Sequence[Point], start: Callable[[Point], Worker], *, jobs: int):
        self.signal: signal.Signals | None = None
        self.unfinished: list[Point] = []
        self._start, self._jobs = start, jobs
        self._waiting = [point for point in points if not point.results()]
        self._running: dict[Path, tuple[Point, Worker, int]] = {}
        self._told: set[Path] = set()
        self._handlers = Handlers(self._pass_on)

    def __enter__(self) -> Self:
        self._handlers.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handlers.restore()

    def run(self) -> None:
        """Trains until every point has ended, or was stopped by a signal to this process."""
        while self._running or (self._waiting and not self.signal):
            for point, worker, begun in list(self._running.values()):
                if worker.ended():
                    del self._running[point.path]
                    self._judge(point, worker, begun)
            self._fill()
            time.sleep(_INTERVAL)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        """Hands a signal to every worker, and a second one too, which ends a point without saving."""
        self.signal = self.signal or signal.Signals(number)
        for _point, worker, _begun in self._running.values():
            worker.stop(signal.Signals(number))

    def _fill(self) -> None:
        """Starts what there is room for, leaving points that other processes train for later."""
        for point in list(self._waiting):
            if self.signal or len(self._running) >= self._jobs:
                return
            if run_folder.is_taken(point.path):
                self._tell_once(point)
                continue
            self._waiting.remove(point)
            if point.results():  # Another process has finished it.
                lines.text(_finished_line(point))
                continue
            try:
                self._begin(point)
            except OSError as error:
                self.unfinished.append(point)
                lines.text(f"{point.name}: cannot be begun: {error}")

    def _begin(self, point: Point) -> None:
        point.path.mkdir(parents=True, exist_ok=True)
        begun = point.log.stat().st_size if point.log.exists() else 0
        lines.text(f"{'continues' if begun else 'begins'} {point.name}")
        worker = self._start(point)
        self._running[point.path] = point, worker, begun
        # A signal that came between the start and the line before found nobody to pass it on to.
        if self.signal:
            worker.stop(self.signal)

    def _tell_once(self, point: Point) -> None:
        if point.path not in self._told:
            self._told.add(point.path)
            lines.text(f"waits for {point.name}, which another process trains")

    def _judge(self, point: Point, worker: Worker, begun: int) -> None:
        if point.results():
            lines.text(_finished_line(point))
        elif run_folder.is_taken(point.path):  # Another process was faster.
            self._waiting.append(point)
        else:
            verdict = worker.verdict()
            self.unfinished.append(point)
            lines.text(f"{point.name}: {verdict}")
            if verdict != "stopped":
                lines.text(_tail(point.log, begun))


def _finished_line(point: Point) -> str:
    found = point.results()
    told = "" if found is None else "  ".join(f"{tag} {value:.4g}" for tag, value in found.main())
    return f"finished {point.name}  {told}"


def _tail(log: Path, begun: int) -> str:
    """Gives the last lines of what was written since, indented, under the file's name."""
    try:
        with files.open_regular(log, "rb") as file:
            file.seek(max(begun, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_TAIL:]
    except OSError as error:
        lines = [f"cannot be read: {error}"]
    return "\n".join([f"  the end of {log}:", *(f"    {line}" for line in lines)])
