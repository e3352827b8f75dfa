"""The points of a sweep: the product of the varied settings, checked before anything is trained."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from train.config import errors, yaml_reading
from train.config import file as config_file
from train.config.errors import COMMAND_LINE, ConfigError
from train.config.experiment import Config
from train.runs import folder as run_folder
from train.runs import results
from train.runs.folder import RunFolderError, UnreadableFolderError
from train.runs.results import Results

LOG = "output.log"


MAX_POINTS = 10_000


_RANGE = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})")


_UNSAFE = re.compile(r"[^A-Za-z0-9._=,+@\[\]-]")


_LONGEST_NAME = 150


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        path: its run folder, named after the varied settings.
        values: the varied settings, by dotted key.
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
        """Return its results; None if it is not finished."""
        found = results.read(self.path)
        return found if found is not None and found.steps == self.config.steps else None


def plan(file: Path, overrides: Sequence[str], sweeps: Sequence[str], folder: Path) -> list[Point]:
    """Return the points of a sweep, the first setting varied the slowest, all checked.

    Args:
        file: the experiment.
        overrides: settings of every point.
        sweeps: `key=value,value` each; `a..b` stands for the whole numbers from a to b.
        folder: the folder of the run folders.

    Raises:
        ConfigError: The varied settings, or the configurations that result, have errors; the message has all.
        RunFolderError: A point's folder holds another configuration.
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
            wrong |= dict.fromkeys(error.errors)
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
            wrong.extend(error.errors)
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
    """Split `key=value,value`; a comma within brackets or quotes belongs to the value."""
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
    """Return the whole numbers of a range, or the value itself."""
    if not isinstance(item, str) or (match := _RANGE.fullmatch(item)) is None:
        return [item]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MAX_POINTS:
        problem = f"{item} is no range upwards of at most {MAX_POINTS:,} numbers"
        raise ConfigError([f"{COMMAND_LINE}: --sweep {key}: {problem}"])
    return range(first, last + 1)


def _name(values: dict[str, Any]) -> str:
    """Return a folder's name, a function of the varied settings alone."""
    exact = ",".join(f"{key}={_show(value)}" for key, value in values.items())
    safe = _UNSAFE.sub("_", exact)
    if safe == exact and len(safe) <= _LONGEST_NAME:
        return safe
    # Replaced and cut off characters are in the digest, so that no two values share a folder.
    return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


def _show(value: Any) -> str:
    """Show a value as one would write it: text bare unless it would read as something else."""
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
            run_folder.check_same_config(point.path, point.config)
        except UnreadableFolderError:  # An error of that point alone, reported when it is trained.
            continue
        except RunFolderError as error:
            lines.append(str(error))
    if lines:
        raise RunFolderError("\n".join(lines))


def describe(points: Sequence[Point]) -> str:
    """List the points, each with its state."""
    return "\n".join(f"{point.path}  {_state(point)}" for point in points)


def _state(point: Point) -> str:
    if point.results():
        return "finished"
    if run_folder.is_taken(point.path):
        return "another process trains it"
    return "begun" if (point.path / "config.yaml").exists() else "new"
