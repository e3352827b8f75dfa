"""`sowlog compare`: final and best values of runs, over seeds, with the differences of their settings."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sowlog._cli.curves import Statistics, statistics_of
from sowlog._cli.errors import UsageError
from sowlog._cli.report import Report, Setting, number, setting
from sowlog._cli.selecting import choose, read_runs
from sowlog._cli.tables import TextTable
from sowlog._events.reading import Run, Series
from sowlog._printable import printable
from sowlog._tree.nearest import nearest

_NUMBERS = ("last", "min", "max")


class Group(NamedTuple):
    """Runs with equal settings.

    Attributes:
        settings: the settings by name that distinguish it from the others.
        runs: the names of the runs.
    """

    settings: dict[str, Setting]
    runs: list[str]

    def label(self) -> str:
        """Return the settings as text."""
        return label_of(self.settings)


def run(options: Namespace) -> Report:
    """Return the comparison of two runs or more."""
    runs = read_runs(options.runs)
    if len(runs) < 2:
        raise UsageError(f"there is one run, {next(iter(runs))}: name another one, or a folder of runs.")
    tags = choose(sorted({tag for one in runs.values() for tag in one.scalars}), options.tag)
    differences = differences_of(runs)
    groups = group_runs(runs, differences, options.by)
    found = {
        tag: {name: statistics_of(*one.scalars[tag]) for name, one in runs.items() if tag in one.scalars}
        for tag in tags
    }
    data = {
        "runs": list(runs),
        "differences": differences,
        "groups": [group._asdict() for group in groups],
        "tags": [
            {
                "tag": tag,
                "runs": {name: _numbers(of_run) for name, of_run in of_tag.items()},
                "groups": [_summary(group, of_tag) for group in groups],
            }
            for tag, of_tag in found.items()
        ],
        "parting": _parting(runs, tags) if len(runs) == 2 else None,
    }
    return Report(0, data, lambda: _describe(data, groups))


def label_of(settings: Mapping[str, Setting]) -> str:
    """Return settings as text."""
    return ", ".join(f"{key}={setting(value)}" for key, value in settings.items()) or "all"


def differences_of(runs: Mapping[str, Run]) -> dict[str, dict[str, Setting]]:
    """Return the hyperparameters that are not the same in all runs: by name, the value of each run."""
    names = sorted({name for one in runs.values() for name in one.hparams})
    values = {name: {key: one.hparams.get(name) for key, one in runs.items()} for name in names}
    return {name: of_runs for name, of_runs in values.items() if len(set(map(repr, of_runs.values()))) > 1}


def group_runs(
    runs: Mapping[str, Run], differences: Mapping[str, Mapping[str, Setting]], by: Sequence[str] | None
) -> list[Group]:
    """Return the runs that have equal settings: those of `by`, or all but seeds.

    Raises:
        UsageError: No run has a setting of this name.
    """
    known = sorted({name for one in runs.values() for name in one.hparams})
    chosen = [key.removeprefix("config.") for key in by or ()]
    for name in chosen:
        if name not in known:
            raise UsageError(f"no run has the setting {name} for --by: {nearest(name, known)}")
    names = chosen or [name for name in differences if name.rpartition(".")[2] != "seed"]
    members: dict[str, Group] = {}
    for run_name, one in runs.items():
        settings = {name: one.hparams.get(name) for name in names}
        members.setdefault(repr(settings), Group(settings, [])).runs.append(run_name)
    return list(members.values())


def _numbers(found: Statistics) -> dict[str, Any]:
    return {**{name: getattr(found, name) for name in _NUMBERS}, "last_step": found.last_step}


def _summary(group: Group, found: Mapping[str, Statistics]) -> dict[str, Any]:
    """Return mean and standard deviation of the runs of a group that have the tag."""
    own = [found[name] for name in group.runs if name in found]
    summary: dict[str, Any] = {"settings": group.settings, "count": len(own)}
    for name in _NUMBERS:
        values = [value for each in own if (value := getattr(each, name)) is not None]
        summary[f"{name}_mean"] = float(np.mean(values)) if values else None
        summary[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return summary


def _parting(runs: Mapping[str, Run], tags: Iterable[str]) -> dict[str, Any] | None:
    """Return the first step at which two runs have another value, and the tags that have it."""
    first, second = runs.values()
    steps: dict[str, int] = {}
    for tag in tags:
        if tag in first.scalars and tag in second.scalars:
            step = _parts_at(first.scalars[tag], second.scalars[tag])
            if step is not None:
                steps[tag] = step
    if not steps:
        return None
    step = min(steps.values())
    return {"step": step, "tags": [tag for tag in steps if steps[tag] == step]}


def _parts_at(first: Series, second: Series) -> int | None:
    """Return the first step that both have with other bits; of a doubled step the last value counts."""
    one, other = _last_bits(first), _last_bits(second)
    return min((step for step in one.keys() & other.keys() if one[step] != other[step]), default=None)


def _last_bits(series: Series) -> dict[int, int]:
    """Return the bits of the last value of each step."""
    return dict(zip(series.steps.tolist(), series.values.view(np.uint32).tolist(), strict=True))


def _describe(data: Mapping[str, Any], groups: Sequence[Group]) -> list[str | TextTable]:
    short = _short_names(data["runs"])
    parts: list[str | TextTable] = []
    if data["differences"]:
        parts.append(_table_of_differences(data["differences"], short))
    rows = [
        [
            printable(of_tag["tag"]),
            short[name],
            *(number(found[key]) for key in _NUMBERS),
            str(found["last_step"]),
        ]
        for of_tag in data["tags"]
        for name, found in of_tag["runs"].items()
    ]
    heads = ["tag", "run", ">last", ">min", ">max", ">last step"]
    parts.append(TextTable(heads, rows, optional=["last step", "max", "min"]))
    if any(len(group.runs) > 1 for group in groups):
        parts.append(_table_of_groups(data))
    if len(short) == 2:
        parting = data["parting"]
        tags = "" if parting is None else ", ".join(map(printable, parting["tags"][:5]))
        parts.append(
            "the runs have equal values at all steps that both have"
            if parting is None
            else f"the runs part at step {parting['step']}: {tags}"
        )
    return parts


def _table_of_differences(
    differences: Mapping[str, Mapping[str, Setting]], short: Mapping[str, str]
) -> TextTable:
    """Return the settings of the runs, with a column for each setting, or for each of fewer runs."""
    rows = [
        ["run", *map(printable, differences)],
        *([short[name], *(setting(values[name]) for values in differences.values())] for name in short),
    ]
    if len(short) < len(differences):
        rows = [list(column) for column in zip(*rows, strict=True)]
        rows[0][0] = "setting"
    return TextTable(rows[0], rows[1:])


def _table_of_groups(data: Mapping[str, Any]) -> TextTable:
    rows = [
        [
            printable(of_tag["tag"]),
            label_of(group["settings"]),
            str(group["count"]),
            *(_spread(group[f"{name}_mean"], group[f"{name}_std"]) for name in _NUMBERS),
        ]
        for of_tag in data["tags"]
        for group in of_tag["groups"]
    ]
    heads = ["tag", "settings", ">runs", ">last", ">min", ">max"]
    return TextTable(heads, rows, optional=["runs", "max", "min"])


def _spread(mean: float | None, std: float | None) -> str:
    return number(mean) if std is None else f"{number(mean)} ± {number(std)}"


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Return the names of runs below the folder that they have in common."""
    paths = {name: Path(name).expanduser().absolute() for name in names}
    common = os.path.commonpath(list(paths.values()))
    return {name: printable(str(path.relative_to(common))) for name, path in paths.items()}
