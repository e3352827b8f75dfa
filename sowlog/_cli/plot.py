"""`sowlog plot`: curves of runs, bands over seeds, heat maps of families, in a file or the terminal."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sowlog._cli.arguments import ALL_STEPS
from sowlog._cli.canvas import draw_curves, draw_heat_maps, marked
from sowlog._cli.compare import differences_of, group_runs
from sowlog._cli.errors import UsageError
from sowlog._cli.figures import Band, HeatMap, Line, Panel, write_figure
from sowlog._cli.report import Report, counted
from sowlog._cli.selecting import choose, read_runs
from sowlog._events.reading import Run
from sowlog._printable import printable
from sowlog._tree.families import families_of

SUFFIXES = (".png", ".svg", ".pdf")
_MOST = 60
# Families of so many tags are a heat map; fewer are curves.
_FAMILY = 4


class _Curve(NamedTuple):
    steps: NDArray[np.int64]
    values: NDArray[np.float64]


def run(options: Namespace) -> Report:
    """Draw the chosen tags of the runs."""
    output = None if options.output is None else Path(options.output)
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise UsageError(f"-o {output} has no suffix of a picture: one of {', '.join(SUFFIXES)}.")
    runs = read_runs(options.runs)
    tags = choose(sorted({tag for one in runs.values() for tag in one.scalars}), options.tag)
    panels = list(_panels(runs, tags, options))
    if not panels:
        raise UsageError(f"{', '.join(runs)} has no scalars to draw{_between(options.steps)}.")
    if len(panels) > _MOST:
        raise UsageError(
            f"{len(panels)} tags are more than the {_MOST} that a picture holds: choose by --tag."
        )
    if output is not None:
        try:
            write_figure(panels, output)
        except OSError as error:
            raise UsageError(f"{output} cannot be written: {error.strerror or error}.") from error
        except ModuleNotFoundError as error:
            raise UsageError(str(error)) from error
    data = {
        "file": None if output is None else str(output),
        "panels": [
            {"title": panel.title, "kind": panel.kind, "curves": [each.label for each in panel.lines]}
            for panel in panels
        ],
    }
    return Report(
        0, data, lambda: [f"{output}: {counted(len(panels), 'panel')}"] if output else _terminal(panels)
    )


def _panels(runs: Mapping[str, Run], tags: Sequence[str], options: Namespace) -> Iterator[Panel]:
    families = [family for family in families_of(tags) if len(family.positions) >= _FAMILY]
    folded = {tags[position] for family in families for position in family.positions}
    groups = group_runs(runs, differences_of(runs), options.by)
    labels = _labels(runs)
    for tag in tags:
        if tag in folded:
            continue
        lines: list[Line] = []
        for group in groups:
            curves = {name: _curve(runs[name], tag, options.steps) for name in group.runs}
            curves = {name: curve for name, curve in curves.items() if len(curve.steps)}
            if len(curves) > 1:
                lines.append(_mean_line(list(curves.values()), group.label(), options.smooth))
            else:
                lines += [_line(curve, labels[name], options.smooth) for name, curve in curves.items()]
        if lines:
            yield Panel(tag, lines=lines)
    for family in families:
        own = [tags[position] for position in family.positions]
        maps: dict[str, HeatMap] = {}
        for group in groups:
            of_group = {labels[name]: _heat_map(runs[name], own, options.steps) for name in group.runs}
            of_group = {label: each for label, each in of_group.items() if len(each.steps)}
            mean = mean_heat_map(list(of_group.values()))
            maps |= of_group if mean is None else {f"{group.label()} ({len(of_group)} runs)": mean}
        limits = limits_of(maps.values())
        for label, heat_map in maps.items():
            title = family.glob if len(runs) == 1 else f"{family.glob} of {label}"
            yield Panel(title, heat_map=heat_map._replace(limits=limits), family=family.glob)


def _between(bounds: tuple[int, int]) -> str:
    return "" if bounds == ALL_STEPS else f" from step {bounds[0]} to {bounds[1]}"


def _curve(run: Run, tag: str, bounds: tuple[int, int]) -> _Curve:
    """Return the series of a tag by rising steps within bounds; of a doubled step the last value counts."""
    series = run.scalars.get(tag)
    if series is None:
        return _Curve(np.empty(0, np.int64), np.empty(0))
    steps, index = np.unique(series.steps[::-1], return_index=True)
    part = slice(np.searchsorted(steps, bounds[0]), np.searchsorted(steps, bounds[1], "right"))
    return _Curve(steps[part], series.values[::-1][index[part]].astype(np.float64))


def _line(curve: _Curve, label: str, smooth: float) -> Line:
    return Line(label, curve.steps, smoothed(curve.values, smooth), curve.values if smooth else None, None)


def _mean_line(curves: Sequence[_Curve], label: str, smooth: float) -> Line:
    """Return the mean of runs at the steps that all have, with a band of one standard deviation."""
    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps, assume_unique=True)
    rows = np.stack([smoothed(curve.values, smooth)[np.searchsorted(curve.steps, steps)] for curve in curves])
    mean, std = rows.mean(axis=0), rows.std(axis=0, ddof=1)
    return Line(f"{label} ({len(curves)} runs)", steps, mean, None, Band(mean - std, mean + std))


def smoothed(values: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """Return the moving average of TensorBoard: exponential, without the bias of its start at 0.

    A value that is not finite stays as it is, and does not enter the average.
    """
    if not weight:
        return values
    average, total, result = 0.0, 0.0, values.copy()
    for place in np.flatnonzero(np.isfinite(values)).tolist():
        average = average * weight + (1 - weight) * float(values[place])
        total = total * weight + (1 - weight)
        result[place] = average / total
    return result


def _heat_map(run: Run, tags: Sequence[str], bounds: tuple[int, int]) -> HeatMap:
    """Return the values of each member at all steps; NaN where one has none."""
    curves = [_curve(run, tag, bounds) for tag in tags]
    steps = np.unique(np.concatenate([curve.steps for curve in curves]))
    rows = np.full((len(curves), len(steps)), np.nan)
    for row, curve in zip(rows, curves, strict=True):
        row[np.searchsorted(steps, curve.steps)] = curve.values
    return HeatMap(steps, rows)


def mean_heat_map(maps: Sequence[HeatMap]) -> HeatMap | None:
    """Return the mean of runs at the steps that all have; None for one run, or without such steps."""
    if len(maps) < 2:
        return None
    steps = functools.reduce(np.intersect1d, [each.steps for each in maps])
    rows = [each.rows[:, np.searchsorted(each.steps, steps)] for each in maps]
    return HeatMap(steps, np.mean(rows, axis=0)) if len(steps) else None


def limits_of(maps: Iterable[HeatMap]) -> tuple[float, float]:
    """Return the least and the largest finite value, so that all maps of a family have the same colours."""
    rows = [each.rows.ravel() for each in maps]
    values = np.concatenate([np.empty(0), *rows])
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def _labels(runs: Mapping[str, Run]) -> dict[str, str]:
    """Return the names of runs below the folder that they have in common; of one run its own."""
    paths = {name: Path(name).expanduser().absolute() for name in runs}
    if len(paths) == 1:
        return {name: path.name for name, path in paths.items()}
    common = os.path.commonpath(list(paths.values()))
    return {name: str(path.relative_to(common)) for name, path in paths.items()}


def _terminal(panels: Sequence[Panel]) -> list[str]:
    width = max(shutil.get_terminal_size((100, 24)).columns, 40)
    lines: list[str] = []
    for family, group in itertools.groupby(panels, key=lambda panel: panel.family):
        together = list(group)
        if family:
            maps = [(each.heat_map.steps, each.heat_map.rows) for each in together if each.heat_map]
            texts = draw_heat_maps(maps, width, sys.stdout.encoding)
        else:
            texts = [_curves_text(each.lines, width) for each in together]
        for panel, text in zip(together, texts, strict=True):
            lines += [printable(panel.title), *text, ""]
    return lines[:-1]


def _curves_text(lines: Sequence[Line], width: int) -> list[str]:
    drawn = draw_curves([(line.steps, line.values) for line in lines], width, sys.stdout.encoding)
    legend = "  ".join(map(printable, marked([line.label for line in lines])))
    return [*drawn, legend] if len(lines) > 1 else drawn
