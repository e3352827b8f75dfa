"""The coordinate check of a sweep: how the sizes of activations grow with a setting, such as the width.

The size of an array is the root mean square of its coordinates. Under a parametrization whose
hyperparameters transfer over widths, µP, no size grows with the width while the model is trained (Yang et
al. 2022, "Tensor Programs V", appendix D.1). The growth is the exponent g of size ~ width^g, the slope of a
least-squares line through the logarithms.
"""

import csv
import io
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.config import file as config_file
from train.config import paths
from train.config.errors import COMMAND_LINE, ConfigError, did_you_mean
from train.runs import folder as run_folder
from train.runs.folder import RunFolderError
from train.show import lines, tables
from train.show.tables import Table
from train.system import files

FILE = "coordinates.csv"

_SIZE = "rms"
_GROWS = 0.25

Sizes = Mapping[int, Sequence[float]]
"""The sizes of one array by step, one for each value of the setting."""


@dataclass(frozen=True)
class Coordinates:
    """The sizes of the runs of a sweep.

    Attributes:
        key: the setting that varies, a number.
        values: its values, in ascending order.
        sizes: the sizes by tag, at each step that all runs have.
    """

    key: str
    values: Sequence[float]
    sizes: Mapping[str, Sizes]

    def growth(self, tag: str, step: int) -> float:
        """Return the exponent of a size; NaN if a size is 0 or not finite."""
        sizes = self.sizes[tag][step]
        if not all(size > 0 and math.isfinite(size) for size in sizes):
            return math.nan
        x, y = [math.log(value) for value in self.values], [math.log(size) for size in sizes]
        x = [value - math.fsum(x) / len(x) for value in x]
        return math.fsum(a * b for a, b in zip(x, y, strict=True)) / math.fsum(a * a for a in x)

    def growing(self) -> Iterator[str]:
        """Yield the tags whose size grows at the last step, or is not finite there."""
        for tag, sizes in self.sizes.items():
            if not self.growth(tag, max(sizes)) <= _GROWS:
                yield tag


def run(key: str, workdir: str | None) -> int:
    """Show the check of a sweep's folder, and write all its sizes there; return the exit status.

    Raises:
        ConfigError: The folder is not named, or the setting is none.
        RunFolderError: The folder has no runs to compare.
    """
    if workdir is None:
        raise ConfigError([f"{COMMAND_LINE}: --coordinates: compares the runs of a sweep; add --workdir DIR"])
    folder = paths.local(workdir, f"{COMMAND_LINE}: --workdir")
    found = read(folder, key)
    tables.show(table(found))
    growing = list(found.growing())
    if growing:
        lines.text(f"with {key} at the last step grow{'s' * (len(growing) == 1)}: {', '.join(growing)}")
    else:
        lines.text(f"no size grows with {key} at the last step (growth above {_GROWS})")
    try:
        files.write(folder / FILE, text(found))
    except OSError as error:
        lines.warning(f"the sizes are not written: {error}.")
        return 1
    lines.text(f"the sizes at all steps: {folder / FILE}")
    return 0


def read(folder: Path, key: str) -> Coordinates:
    """Read the sizes of the runs of a folder; of runs with one value, the geometric mean.

    Raises:
        ConfigError: The setting is none.
        RunFolderError: Fewer than two values of the setting have runs, or no size is in all of them.
    """
    runs: dict[float, list[Path]] = defaultdict(list)
    for path in _folders(folder):
        config = run_folder.read_config(path)
        if config is not None:
            runs[_value(config_file.flatten(config.model_dump(mode="json")), key)].append(path)
    if len(runs) < 2:
        raise RunFolderError(
            f"the folder {folder} has runs with {len(runs)} values of {key}, and a comparison takes two or "
            f"more. Train them: python -m train ... --sweep {key}=64,128,256 --workdir {folder}."
        )
    values = sorted(runs)
    sizes = [_mean_of_runs(runs[value]) for value in values]
    return Coordinates(key, values, _common(sizes, folder))


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise RunFolderError(f"the folder {folder} cannot be read: {error}.") from None


def _value(flat: Mapping[str, object], key: str) -> float:
    if key not in flat:
        raise ConfigError(
            [f"{COMMAND_LINE}: --coordinates: {key} is no setting{did_you_mean(key, list(flat))}"]
        )
    value = flat[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError([f"{COMMAND_LINE}: --coordinates: {key} must be a number above 0, and is {value}"])
    return float(value)


def _mean_of_runs(folders: Sequence[Path]) -> dict[str, dict[int, float]]:
    """Return the geometric means of the sizes of runs, by tag and step."""
    logs: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in folders:
        for tag, by_step in _sizes_of(path).items():
            for step, size in by_step.items():
                logs[tag][step].append(math.log(size) if size > 0 else -math.inf if size == 0 else math.nan)
    return {
        tag: {
            step: math.exp(math.fsum(each) / len(each)) if all(map(math.isfinite, each)) else math.nan
            for step, each in by_step.items()
            if len(each) == len(folders)
        }
        for tag, by_step in logs.items()
    }


def _sizes_of(path: Path) -> dict[str, dict[int, float]]:
    import sowlog  # noqa: PLC0415 - it imports JAX, which takes seconds

    try:
        scalars = sowlog.read(path).scalars
    except FileNotFoundError:
        return {}
    return {
        tag: dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
        for tag, series in scalars.items()
        if _is_size(tag)
    }


def _is_size(tag: str) -> bool:
    """Return whether a tag is of an rms, of a layer or of all."""
    return next((part for part in reversed(tag.split("/")) if not part.isdecimal()), "") == _SIZE


def _common(sizes: Sequence[Mapping[str, Mapping[int, float]]], folder: Path) -> dict[str, Sizes]:
    common: dict[str, Sizes] = {}
    for tag in sizes[0]:
        by_value = [each.get(tag, {}) for each in sizes]
        steps = sorted(set(by_value[0]).intersection(*by_value[1:]))
        if steps:
            common[tag] = {step: [each[step] for each in by_value] for step in steps}
    if not common:
        raise RunFolderError(
            f"the runs of {folder} have no size in common at any step, a tag that ends in {_SIZE}: train "
            f"them with watch.statistics=[{_SIZE}]."
        )
    return common


def table(found: Coordinates) -> Table:
    """Return a row of each size: at the last step, and its growth at the first step and the last."""
    first, last = (edge(edge(sizes) for sizes in found.sizes.values()) for edge in (min, max))
    titles = ["", *(f"{found.key}={value:g}" for value in found.values), f"growth at {first}", f"at {last}"]
    rows: list[list[str]] = []
    for tag, sizes in found.sizes.items():
        growths = (found.growth(tag, edge(sizes)) for edge in (min, max))
        rows.append([tag, *(f"{size:.4g}" for size in sizes[max(sizes)]), *(f"{g:+.2f}" for g in growths)])
    return Table(titles, 1, rows)


def text(found: Coordinates) -> str:
    """Return the sizes at all steps with their growths, as CSV."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(["tag", "step", *(f"{found.key}={value:g}" for value in found.values), "growth"])
    for tag, sizes in found.sizes.items():
        for step, each in sizes.items():
            writer.writerow([tag, step, *map(repr, each), repr(found.growth(tag, step))])
    return made.getvalue()
