"""The coordinate check of a sweep: the growth of the sizes of activations with a setting, such as the width.

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
from train.config.errors import COMMAND_LINE, ConfigError, did_you_mean, one_line, sentence
from train.runs import folder as run_folder
from train.runs.folder import RunFolderError, UnreadableFolderError
from train.show import lines, tables
from train.show.tables import Table
from train.system import files

FILE = "coordinates.csv"

_SIZE = "rms"
# The scalars of a family of sizes that `fold` writes.
_FOLDED = ("p50", "p90", "max")
_GROWS = 0.25
# Tags that a line names.
_NAMED = 5

Log = Mapping[str, Mapping[int, float]]
"""The sizes of a run by tag and step."""

Sizes = Mapping[int, Sequence[float]]
"""The sizes of one array by step, one for each value of the setting."""


@dataclass(frozen=True)
class Coordinates:
    """The sizes of the runs of a sweep.

    Attributes:
        key: the setting that varies, a number.
        values: its values, in ascending order.
        sizes: the sizes by tag, at each step that all runs have.
        left_out: a line for each run, for the tags and for the steps that are left out.
    """

    key: str
    values: Sequence[float]
    sizes: Mapping[str, Sizes]
    left_out: Sequence[str] = ()

    def growth(self, tag: str, step: int) -> float:
        """Return the exponent of a size; NaN if a size is 0 or not finite."""
        sizes = self.sizes[tag][step]
        if not all(size > 0 and math.isfinite(size) for size in sizes):
            return math.nan
        x, y = [math.log(value) for value in self.values], [math.log(size) for size in sizes]
        x = [value - math.fsum(x) / len(x) for value in x]
        return math.fsum(a * b for a, b in zip(x, y, strict=True)) / math.fsum(a * a for a in x)

    def growing(self) -> list[str]:
        """Return the tags whose size grows at the last step."""
        return [tag for tag, growth in self._last().items() if growth > _GROWS]

    def unknown(self) -> list[str]:
        """Return the tags without a growth at the last step, as a size is 0 or not finite."""
        return [tag for tag, growth in self._last().items() if math.isnan(growth)]

    def _last(self) -> dict[str, float]:
        return {tag: self.growth(tag, max(sizes)) for tag, sizes in self.sizes.items()}


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
    for line in found.left_out:
        lines.warning(line)
    tables.show(table(found))
    growing, unknown = found.growing(), found.unknown()
    if growing:
        lines.text(f"with {key} at the last step grow{'s' * (len(growing) == 1)}: {', '.join(growing)}")
    else:
        lines.text(f"no size grows with {key} at the last step (growth above {_GROWS})")
    if unknown:
        lines.text(f"without a growth there, as a size is 0 or not finite: {', '.join(unknown)}")
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
    left_out: list[str] = []
    runs = _runs_by_value(folder, key, left_out)
    if len(runs) < 2:
        raise _nothing_to_compare(
            f"the folder {folder} has runs with {len(runs)} values of {key}, and a comparison takes two or "
            f"more. Train them: python -m train ... --sweep {key}=64,128,256 --workdir {folder}.",
            left_out,
        )
    sized = {
        value: [_sizes_of(path, left_out) for path in folders] for value, folders in sorted(runs.items())
    }
    means = {value: _mean_of_runs(known) for value, each in sized.items() if (known := [*filter(None, each)])}
    common = _common([*means.values()]) if len(means) > 1 else {}
    if not common:
        raise _nothing_to_compare(
            f"the runs of {folder} have no size in common at any step, a tag that ends in {_SIZE}: train "
            f"them with watch.statistics=[{_SIZE}].",
            left_out,
        )
    logs = [log for each in sized.values() for log in each]
    left_out += _missed(logs, common)
    return Coordinates(key, [*means], common, left_out)


def _nothing_to_compare(reason: str, left_out: Sequence[str]) -> RunFolderError:
    return RunFolderError("\n".join((reason, *map(sentence, left_out))))


def _runs_by_value(folder: Path, key: str, left_out: list[str]) -> dict[float, list[Path]]:
    """Return the run folders by their value of a setting; note those without it."""
    settings: dict[Path, Mapping[str, object]] = {}
    for path in _folders(folder):
        try:
            config = run_folder.read_config(path)
        except UnreadableFolderError as error:
            left_out.append(f"{path} is left out: {one_line(str(error))}")
            continue
        if config is not None:
            settings[path] = config_file.flatten(config.model_dump(mode="json"))
    names = {name: None for flat in settings.values() for name in flat}
    if names and key not in names:
        raise ConfigError(
            [f"{COMMAND_LINE}: --coordinates: {key} is no setting{did_you_mean(key, [*names])}"]
        )
    left_out += [f"{path} is left out: it has no {key}" for path, flat in settings.items() if key not in flat]
    runs: dict[float, list[Path]] = defaultdict(list)
    for path, flat in settings.items():
        if key in flat:
            runs[_value(flat[key], key, path)].append(path)
    return runs


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise RunFolderError(f"the folder {folder} cannot be read: {error}.") from None


def _value(value: object, key: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(
            [f"{COMMAND_LINE}: --coordinates: {key} must be a number above 0, and is {value} in {path}"]
        )
    return float(value)


def _mean_of_runs(logs: Sequence[Log]) -> Log:
    """Return the geometric means of the sizes of runs, by tag and step that all of them have."""
    return {
        tag: {
            step: _mean([log[tag][step] for log in logs])
            for step in sorted(set(logs[0][tag]).intersection(*(log[tag] for log in logs)))
        }
        for tag in logs[0]
        if all(tag in log for log in logs)
    }


def _mean(sizes: Sequence[float]) -> float:
    """Return the geometric mean; of sizes that are all 0 it is 0, and NaN without a logarithm else."""
    if all(size > 0 and math.isfinite(size) for size in sizes):
        return math.exp(math.fsum(map(math.log, sizes)) / len(sizes))
    return 0.0 if not any(sizes) else math.nan


def _sizes_of(path: Path, left_out: list[str]) -> Log:
    """Return the sizes of a run by tag and step; note damage, and a run without any."""
    import sowlog  # noqa: PLC0415 - of this command alone

    try:
        read = sowlog.read(path)
    except FileNotFoundError:
        left_out.append(f"{path} is left out: it has no event file")
        return {}
    left_out += [f"{path} is read up to a damage: {damage}" for damage in read.damage]
    sizes = {
        tag: dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
        for tag, series in read.scalars.items()
        if _is_size(tag)
    }
    if not sizes:
        left_out.append(f"{path} is left out: it has no size, a tag that ends in {_SIZE}")
    return sizes


def _is_size(tag: str) -> bool:
    """Return whether a tag is of an rms, of a layer or of all, or of the folded ones of a family."""
    *before, last = [part for part in tag.split("/") if not part.isdecimal()] or [""]
    return last == _SIZE or (last in _FOLDED and before[-1:] == [_SIZE])


def _common(sizes: Sequence[Log]) -> dict[str, Sizes]:
    common: dict[str, Sizes] = {}
    for tag in sizes[0]:
        by_value = [each.get(tag, {}) for each in sizes]
        steps = sorted(set(by_value[0]).intersection(*by_value[1:]))
        if steps:
            common[tag] = {step: [each[step] for each in by_value] for step in steps}
    return common


def _missed(logs: Sequence[Log], common: Mapping[str, Sizes]) -> Iterator[str]:
    """Yield a line for the tags that some runs lack, and for the steps."""
    tags = sorted({tag for log in logs for tag in log} - common.keys())
    if tags:
        more = f" and {len(tags) - _NAMED} more" if len(tags) > _NAMED else ""
        yield f"not at a step of all runs, and left out: {', '.join(tags[:_NAMED])}{more}"
    last = max(max(sizes) for sizes in common.values())
    longest = max(max(by_step) for log in logs for tag, by_step in log.items() if tag in common)
    if longest > last:
        yield f"some runs have steps up to {longest}, and all of them up to {last}, where they are compared"


def table(found: Coordinates) -> Table:
    """Return a row of each size: at the last step, and its growth at the first step and the last."""
    first, last = (
        str(steps.pop()) if len(steps := {edge(sizes) for sizes in found.sizes.values()}) == 1 else name
        for edge, name in ((min, "its first step"), (max, "its last"))
    )
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
