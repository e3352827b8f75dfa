"""`sowlog show`: the tags of a run with their statistics and health, or the runs of a folder."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from sowlog._cli.curves import Statistics, sparkline, statistics_of
from sowlog._cli.report import Report, counted, number, setting
from sowlog._cli.selecting import choose, read_runs
from sowlog._cli.tables import TextTable
from sowlog._events.reading import Run
from sowlog._printable import printable

_WIDTH = 24
# The logger's report on where a NaN began.
_ORIGIN = "sowlog/nonfinite"


def run(options: Namespace) -> Report:
    """Return the report on one run, or the table of several."""
    runs = read_runs(options.runs)
    if len(runs) == 1:
        (one,) = runs.values()
        return _one(one, options)
    return _several(runs, options)


def _one(run: Run, options: Namespace) -> Report:
    tags = choose(run.scalars, options.tag)
    found = {tag: statistics_of(*run.scalars[tag]) for tag in tags}
    others = _others(run)
    data = {
        "run": str(run.path),
        "hparams": dict(run.hparams),
        "tags": [{"tag": tag, **statistics._asdict()} for tag, statistics in found.items()],
        "others": others,
        "first_nonfinite": _first_nonfinite(run, found),
        "damage": list(map(str, run.damage)),
    }
    return Report(0, data, lambda: _describe(run, data, found))


def _others(run: Run) -> list[dict[str, Any]]:
    kinds = {
        "histograms": run.histograms,
        "images": run.images,
        "text": run.texts,
        "tensors": run.tensors,
        "pr_curves": run.pr_curves,
    }
    return [
        {"tag": tag, "kind": kind, "points": len(media), "last_step": int(media.steps[-1])}
        for kind, of_kind in kinds.items()
        for tag, media in of_kind.items()
        if len(media)
    ]


def _first_nonfinite(run: Run, found: Mapping[str, Statistics]) -> dict[str, Any] | None:
    """Return the first step with a value that is not finite, its tags, and the logger's report on it."""
    steps = {tag: each.first_nonfinite for tag, each in found.items() if each.first_nonfinite is not None}
    if not steps:
        return None
    step = min(steps.values())
    reports = run.texts[_ORIGIN].values if _ORIGIN in run.texts else []
    report = str(reports[0]).partition("\n")[0] if len(reports) else None
    return {"step": step, "tags": [tag for tag, first in steps.items() if first == step], "report": report}


def _describe(run: Run, data: Mapping[str, Any], found: Mapping[str, Statistics]) -> list[str | TextTable]:
    count = sum(each.points for each in found.values())
    steps = [
        step for each in found.values() for step in (each.first_step, each.last_step) if step is not None
    ]
    span = f", steps {min(steps)} to {max(steps)}" if steps else ""
    parts: list[str | TextTable] = [
        f"{run.path}: {counted(count, 'scalar')} of {counted(len(found), 'tag')}{span}"
    ]
    if run.hparams:
        settings = ", ".join(f"{name}={setting(value)}" for name, value in run.hparams.items())
        parts.append(f"hyperparameters: {printable(settings, most=300)}")
    parts += [f"damage: {damage}" for damage in data["damage"]]
    first = data["first_nonfinite"]
    if first:
        tags = ", ".join(map(printable, first["tags"][:5]))
        parts.append(f"first value that is not finite: step {first['step']}, {first['report'] or tags}")
    if found:
        parts.append(_table(run, found))
    if data["others"]:
        rows = [
            (printable(each["tag"]), each["kind"], str(each["points"]), str(each["last_step"]))
            for each in data["others"]
        ]
        parts.append(TextTable(["other values", "kind", ">points", ">last step"], rows))
    return parts


def _table(run: Run, found: Mapping[str, Statistics]) -> TextTable:
    heads = ["tag", ">points", ">last step", ">last", ">min", ">max", ">mean", "curve", "health"]
    return TextTable(
        heads,
        [
            (
                printable(tag),
                str(each.points),
                "" if each.last_step is None else str(each.last_step),
                *map(number, (each.last, each.min, each.max, each.mean)),
                sparkline(run.scalars[tag].values, _WIDTH, sys.stdout.encoding),
                each.health(),
            )
            for tag, each in found.items()
        ],
        optional=["points", "last step", "mean", "min", "max", "curve"],
    )


def _several(runs: Mapping[str, Run], options: Namespace) -> Report:
    rows: list[dict[str, Any]] = []
    tags = choose(sorted({tag for run in runs.values() for tag in run.scalars}), options.tag)
    shown = tags if options.tag else []
    for name, run in runs.items():
        found = {tag: statistics_of(*run.scalars[tag]) for tag in tags if tag in run.scalars}
        last_steps = [each.last_step for each in found.values() if each.last_step is not None]
        rows.append(
            {
                "run": name,
                "tags": len(found),
                "points": sum(each.points for each in found.values()),
                "last_step": max(last_steps, default=None),
                "nonfinite": sum(each.nonfinite for each in found.values()),
                "last": {tag: found[tag].last if tag in found else None for tag in shown},
                "damage": list(map(str, run.damage)),
            }
        )
    heads = ["run", ">tags", ">points", ">last step", *(f">{printable(tag)}" for tag in shown), "health"]
    optional = ["points", "tags", "last step"]
    return Report(
        0, {"runs": rows}, lambda: [TextTable(heads, [_row(row) for row in rows], optional=optional)]
    )


def _row(row: Mapping[str, Any]) -> list[str]:
    faults = [
        f"{row['nonfinite']} not finite" if row["nonfinite"] else "",
        f"{len(row['damage'])} damaged" if row["damage"] else "",
    ]
    return [
        printable(row["run"]),
        str(row["tags"]),
        str(row["points"]),
        "" if row["last_step"] is None else str(row["last_step"]),
        *map(number, row["last"].values()),
        ", ".join(filter(None, faults)),
    ]
