"""The options of a sweep on the command line, and the commands behind them."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.config import paths, yaml_reading
from train.config.errors import COMMAND_LINE, ConfigError, did_you_mean, explain_yaml
from train.runs import folder as run_folder
from train.show import lines, tables
from train.sweep import run as sweep
from train.sweep import table as sweep_table
from train.sweep import workers
from train.sweep.plan import Point, describe, plan
from train.sweep.view import SweepLines

HELP = """\
A sweep trains the product of all values of --sweep, each point in a run folder and a process of its own, with
its output in output.log there. The same command with --workdir continues a sweep: it keeps finished points,
resumes stopped ones from their checkpoint, and tries failed ones again. A point that fails does not end the
sweep. Ctrl-C and SIGTERM reach the points, which save.

Every process uses all cores (and on a GPU, by default, most of its memory): with --jobs, share them out by
taskset or XLA_PYTHON_CLIENT_MEM_FRACTION.

Jobs of --submit outlive a killed sweep, and the same command finds them again; Ctrl-C cancels them."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a sweep."""
    group = parser.add_argument_group("sweeps")
    group.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="key=a,b",
        help="vary a setting over values, or whole numbers a..b; of several, the product",
    )
    group.add_argument(
        "--coordinates",
        metavar="KEY",
        help="train nothing, and compare the sizes of activations (rms) of the runs in --workdir by a "
        "setting, such as task.width",
    )
    group.add_argument(
        "--jobs", metavar="N", help="train N points at a time (default: 1, or all with --submit)"
    )
    group.add_argument(
        "--submit", metavar="WHERE", help="train points as jobs by submitit: slurm, or local to try it out"
    )
    group.add_argument(
        "--submit-with",
        action="append",
        default=[],
        metavar="key=value",
        help="resources of a job, such as slurm_partition=gpu, gpus_per_node=1, timeout_min=600 (else 1440)",
    )


def check(options: argparse.Namespace) -> bool:
    """Return whether a sweep is asked for.

    Raises:
        ConfigError: Options of a sweep stand without one, or beside options of a run.
    """
    wrong: list[str] = []
    if not options.sweep:
        given = {"--jobs": options.jobs, "--submit": options.submit, "--submit-with": options.submit_with}
        wrong = [f"{flag}: belongs to a sweep; add --sweep key=a,b" for flag, value in given.items() if value]
    elif options.coordinates:
        wrong = ["--coordinates: compares runs that are trained; leave out --sweep"]
    elif options.print_config:
        wrong = ["--print-config: shows one configuration; --dry-run lists the points of a sweep"]
    elif options.hparams:
        wrong = ["--hparams: belongs to a single run; the points of a sweep show all settings"]
    elif options.submit_with and not options.submit:
        wrong = ["--submit-with: belongs to --submit"]
    elif options.submit is not None and options.submit not in workers.CLUSTERS:
        choices = " or ".join(workers.CLUSTERS)
        near = did_you_mean(options.submit, workers.CLUSTERS)
        wrong = [f"--submit: must be {choices}, got {options.submit}{near}"]
    if wrong:
        raise ConfigError([f"{COMMAND_LINE}: {line}" for line in wrong])
    return bool(options.sweep)


def run(options: argparse.Namespace, file: Path, overrides: Sequence[str]) -> int:
    """Plan and train a sweep; return the exit status."""
    jobs = parse_jobs(options.jobs)
    given = options.workdir
    folder = (
        run_folder.default_path(file.stem)
        if given is None
        else paths.local(given, f"{COMMAND_LINE}: --workdir")
    )
    points = plan(file, overrides, options.sweep, folder)
    if options.dry_run:
        lines.text(describe(points))
        return 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise run_folder.RunFolderError(
            f"the folder {folder} cannot be used: {str(error).rstrip('.')}."
        ) from None
    if options.submit:
        cluster = workers.Cluster(options.submit, _parse(options.submit_with), folder / ".submitit")
        jobs = jobs or len(points)

        def start(point: Point) -> sweep.Worker:
            return cluster.start(point, command(file, overrides, point))
    else:

        def start(point: Point) -> sweep.Worker:
            return workers.Process(command(file, overrides, point), point.log)

    finished = sum(1 for point in points if point.results())
    lines.text(f"sweep {folder}: {len(points)} points, {finished} of them finished")
    running = sweep.Sweep(points, start, SweepLines(), jobs=jobs or 1)
    running.run()
    status = 128 + running.signal if running.signal else int(bool(running.unfinished))
    try:
        lines.text(f"the table with all digits: {', '.join(map(str, sweep_table.write(points, folder)))}")
    except OSError as error:
        lines.warning(f"the table of the sweep is not written: {error}.")
        status = status or 1
    show(points, folder, stopped_by=running.signal, names_folder=given is not None)
    return status


def show(
    points: Sequence[Point], folder: Path, *, stopped_by: signal.Signals | None, names_folder: bool = False
) -> None:
    """Show the points of a sweep that has ended, the best first."""
    how = f"stopped by {stopped_by.name}" if stopped_by else "not every point is finished"
    tables.ranking(
        sweep_table.of_points(points, digits=4),
        sweep_table.describe_seeds(points),
        folder,
        unfinished=how if any(point.results() is None for point in points) else "",
        longest=max(point.config.steps for point in points),
        names_folder=names_folder,
    )


def command(file: Path, overrides: Sequence[str], point: Point) -> list[str]:
    """Return the command that trains a point."""
    given = [*overrides, *point.overrides, f"--workdir={point.path.absolute()}"]
    return [sys.executable, "-m", "train", str(file), *given]


def parse_jobs(given: str | None) -> int | None:
    """Read `--jobs`.

    Raises:
        ConfigError: The value is no whole number of 1 or more.
    """
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 6 and int(given)):
        raise ConfigError([f"{COMMAND_LINE}: --jobs: must be a whole number of 1 or more, got {given}"])
    return int(given)


def _parse(settings: Sequence[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise ConfigError([f"{COMMAND_LINE}: --submit-with {text}: not of the form key=value"])
        try:
            parsed[key] = yaml_reading.read_value(value)
        except yaml_reading.ERRORS as error:
            problem = f"broken YAML: {explain_yaml(error)}"
            raise ConfigError([f"{COMMAND_LINE}: --submit-with {key}: {problem}"]) from None
    return parsed
