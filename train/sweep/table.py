"""The table of a sweep: its points, the best first, and their spread over seeds."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from train.runs.results import Results
from train.show.tables import Table
from train.sweep.plan import Point
from train.system import files

FILE, SEEDS_FILE = "sweep.csv", "seeds.csv"
SEED = "seed"
_UNFINISHED = "not finished"


def of_points(points: Sequence[Point], *, digits: int | None = None) -> Table:
    """Return a row of each point: its place, the varied settings, and its results.

    Args:
        points: all points of a sweep.
        digits: significant digits of a number; None for all that it has.
    """
    found = {point.path: point.results() for point in points}
    best = sorted(points, key=lambda point: _rank(found[point.path]))
    tags = _tags(found.values())
    rows: list[list[str]] = []
    for place, point in enumerate(best, 1):
        results = found[point.path]
        settings = [str(value) for value in point.values.values()]
        if results is None:
            rows.append(["", *settings, _UNFINISHED])
        else:
            rows.append([str(place), *settings, *(_show(results.held_out.get(tag), digits) for tag in tags)])
    return Table(["", *points[0].values, *tags], 1 + len(points[0].values), rows)


def of_seeds(points: Sequence[Point], *, digits: int | None = None) -> Table | None:
    """Return a row of each choice of the other settings: mean and standard deviation over its finished seeds.

    None if no seeds were varied. The deviation is that of a sample; of one seed there is none.
    """
    if SEED not in points[0].values:
        return None
    groups: dict[tuple[str, ...], list[Results]] = {}
    for point in points:
        settings = tuple(str(value) for key, value in point.values.items() if key != SEED)
        group = groups.setdefault(settings, [])
        if (results := point.results()) is not None:
            group.append(results)
    tags = _tags(results for group in groups.values() for results in group)
    rows: list[tuple[float, list[str]]] = []
    for settings, group in groups.items():
        cells = [*settings, str(len(group))]
        for tag in tags:
            values = [value for results in group if (value := results.held_out.get(tag)) is not None]
            mean = statistics.fmean(values) if len(values) == len(group) and values else None
            cells += [_show(mean, digits), _show(_deviation(values) if mean is not None else None, digits)]
        ranks = [results.rank() for results in group]
        rows.append((statistics.fmean(ranks) if ranks else math.inf, cells))
    varied = [key for key in points[0].values if key != SEED]
    titles = [*varied, "seeds", *(title for tag in tags for title in (tag, f"± {tag}"))]
    return Table(titles, len(varied) + 1, [cells for _, cells in sorted(rows, key=lambda row: row[0])])


def describe_seeds(points: Sequence[Point]) -> Iterator[str]:
    """Yield a line of each choice of the other settings: the main result over its seeds, the best first."""
    table = of_seeds(points, digits=4)
    if table is None or len(table.titles) == table.settings:
        return
    for row in table.rows:
        *settings, count = row[: table.settings]
        mean, deviation = row[table.settings : table.settings + 2]
        chosen = "".join(f"  {key}={value}" for key, value in zip(table.titles, settings, strict=False))
        if mean and deviation:
            yield f"over {count} seeds{chosen}  {table.titles[table.settings]} {mean} ± {deviation}"


def write(points: Sequence[Point], folder: Path) -> list[Path]:
    """Write the tables into the sweep's folder, all digits of their numbers, and return the files.

    Raises:
        OSError: A table cannot be written.
    """
    written: list[Path] = []
    for name, table in ((FILE, of_points(points)), (SEEDS_FILE, of_seeds(points))):
        if table is not None:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([table.titles, *table.rows])
            files.write(folder / name, text.getvalue())
            written.append(folder / name)
    return written


def _tags(found: Iterable[Results | None]) -> list[str]:
    return list(dict.fromkeys(tag for results in found if results for tag in results.held_out))


def _rank(results: Results | None) -> tuple[bool, float]:
    """Return the place of a run's results: before those that are worse, and before none at all."""
    return results is None, math.inf if results is None else results.rank()


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _show(value: float | None, digits: int | None) -> str:
    if value is None:
        return ""
    return repr(value) if digits is None else f"{value:.{digits}g}"
