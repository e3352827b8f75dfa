"""Runs as tables of a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sowlog import _html

_Scalars = Mapping[str, Any]
"""Steps and values by tag."""


def run_html(title: str, scalars: _Scalars, others: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the scalars of a run with their curves, and the tags of other kinds.

    Args:
        title: the run's repr.
        scalars: steps and values by tag.
        others: the points of each tag that are no scalars, by kind.
    """
    rows = (
        (tag, *_extremes(scalars[tag][1]), scalars[tag][0][-1], _html.curves([scalars[tag]]))
        for tag in _html.shallow_first(sorted(scalars))
    )
    heads = ("tag", "last", "min", "max", "last step", "")
    parts = [_html.table(title, heads, rows, total=len(scalars))]
    for kind, points in others.items():
        if points:
            of_kind = ((tag, len(each)) for tag, each in sorted(points.items()))
            parts.append(_html.table(kind, ("tag", "points"), of_kind, total=len(points)))
    return "".join(parts)


def runs_html(title: str, runs: Mapping[str, _Scalars]) -> str:
    """Return a table of runs, and one of the tags with the curves of the first runs in one chart.

    Args:
        title: the repr of the runs.
        runs: the scalars of each run.
    """
    shown = dict(list(runs.items())[: len(_html.COLOURS)])
    tags = _html.shallow_first(sorted({tag for scalars in runs.values() for tag in scalars}))
    of_runs = (
        (_html.swatch(index) if name in shown else "", name, len(scalars), _last_step(scalars))
        for index, (name, scalars) in enumerate(runs.items())
    )
    of_tags = (
        (tag, sum(tag in scalars for scalars in runs.values()), _html.curves(_lines(tag, shown)))
        for tag in tags
    )
    first = "curves" if len(shown) == len(runs) else f"curves of the first {len(shown)} runs"
    return "".join(
        (
            _html.table(title, ("", "run", "scalar tags", "last step"), of_runs, total=len(runs)),
            _html.table(first, ("tag", "runs", ""), of_tags, total=len(tags)),
        )
    )


def _lines(tag: str, runs: Mapping[str, _Scalars]) -> list[Any]:
    empty = np.empty(0, np.int64), np.empty(0, np.float32)
    return [scalars.get(tag, empty) for scalars in runs.values()]


def _extremes(values: Any) -> tuple[str, str, str]:
    known = values[~np.isnan(values)]
    low, high = (_html.number(each) for each in (known.min(), known.max())) if len(known) else ("nan", "nan")
    return _html.number(values[-1]), low, high


def _last_step(scalars: _Scalars) -> str:
    return str(max((int(steps[-1]) for steps, _ in scalars.values()), default=""))
