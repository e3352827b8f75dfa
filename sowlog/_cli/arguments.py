"""The options of the command line."""

from __future__ import annotations

import argparse
from typing import Any

# A day, in seconds.
_LONGEST = 86400.0
ALL_STEPS = -(1 << 63), (1 << 63) - 1
"""The lowest and the highest step of any run."""
_EPILOG = """\
exit status: 0 done; 1 `check` found damage or an expectation that does not hold; 2 the request cannot be
met (an unknown option, run or tag, a missing package, a file that cannot be written); 130 Ctrl-C.

RUN is an event file or a file of JSON lines (.jsonl), the folder of a run (its event files, or without one
its metrics.jsonl), or a folder of runs. GLOB matches whole tags: * within a part,
** any parts. With --json a command prints one line of JSON, described in its help; NaN and infinities are
the strings "NaN", "Infinity" and "-Infinity"."""

_SHOW = """\
JSON, of one run: {"run", "hparams": {name: value}, "tags": [{"tag", "points", "first_step", "last_step",
"last", "min", "max", "mean", "nonfinite", "first_nonfinite", "gaps", "doubled", "back"}], "others":
[{"tag", "kind", "points", "last_step"}], "first_nonfinite": {"step", "tags", "report"} or null, "damage":
[text]}. min, max and mean are of finite values; nonfinite counts the others, and first_nonfinite is the
step of the first. gaps counts places at which steps are missing, doubled points whose step has another,
back points behind a higher step.
Of several runs: {"runs": [{"run", "tags", "points", "last_step", "nonfinite", "last": {tag: value},
"damage": [text]}]}; last has the tags of --tag."""

_CHECK = """\
JSON: {"files": [{"file", "bytes", "records", "damage": text or null, "repaired": path or null,
"salvaged": records from behind the damage in the copy, or null}], "expectations": [{"expectation", "run",
"step", "value", "holds"}], "ok": bool}. An expectation is TAG<NUMBER, with one of < <= > >= == !=, of the
last value; NaN meets none."""

_EXPORT = """\
The columns are run (of several runs), tag, step, wall_time (seconds since the epoch) and value, with a
row for each scalar. JSON lines have an object for each step, in the form that sowlog.writers.JsonLines
writes and sowlog.read reads: {"step", "time", "scalars": {tag: value}, "nonfinite": {tag: name}}, and of
several runs "run". NaN and infinities are null in scalars, with their names in nonfinite.
JSON: {"file", "rows", "runs", "tags"}."""


_COMPARE = """\
last, min and max are of each run: the final value, and the best one in either direction. Runs with equal
hyperparameters but for seeds are a group, or those with equal values of each --by; its mean and sample
standard deviation are shown if a group has several runs. Two runs part at the first step at which a value
that both have differs in a bit.
JSON: {"runs": [name], "differences": {setting: {run: value}}, "groups": [{"settings": {name: value},
"runs": [name]}], "tags": [{"tag", "runs": {run: {"last", "min", "max", "last_step"}}, "groups":
[{"settings", "count", "last_mean", "last_std", "min_mean", "min_std", "max_mean", "max_std"}]}],
"parting": {"step", "tags"} or null}."""


_TAIL = """\
A line for each step, with the scalars that came. A run that was resumed is shown again from its new steps on.
JSON: for each step one line {"step", "wall_time", "values": {tag: value}}."""


_PLOT = """\
A panel for each tag with a curve for each run; of runs that differ in their seeds alone, or have equal
values of each --by, the mean and a band of one standard deviation. Four tags or more that differ in an
index, as those of layers, are a heat map; that of a band's runs is their mean. Without -o the picture is
drawn in the terminal.
JSON: {"file": path or null, "panels": [{"title", "kind": "lines" or "heat map", "curves": [label]}]}."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="sowlog",
        description="Show, draw, follow, check, compare and export runs from event files of any program, or "
        "JSON lines.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    show = _command(commands, "show", "tags with statistics, curves and health", _SHOW)
    show.add_argument("runs", nargs="+", metavar="RUN", help="a run, several, or a folder of runs")
    _add_tags(show)
    check = _command(commands, "check", "checksums, damage, and expected values", _CHECK)
    check.add_argument("runs", nargs="+", metavar="RUN", help="a run, several, or a folder of runs")
    check.add_argument(
        "--expect", action="append", default=[], metavar="TAG>NUMBER", help="a condition of the last value"
    )
    check.add_argument(
        "--repair",
        metavar="FOLDER",
        help="write a copy of each file with its whole records into a new folder",
    )
    export = _command(commands, "export", "scalars as CSV, Parquet or JSON lines", _EXPORT)
    export.add_argument("runs", nargs="+", metavar="RUN", help="a run, several, or a folder of runs")
    export.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="its suffix is .csv, .parquet or .jsonl"
    )
    _add_tags(export)
    compare = _command(commands, "compare", "final and best values, over seeds, and differences", _COMPARE)
    compare.add_argument("runs", nargs="+", metavar="RUN", help="runs, or a folder of runs")
    compare.add_argument(
        "--by", action="append", metavar="config.KEY", help="a hyperparameter whose values make the groups"
    )
    _add_tags(compare)
    tail = _command(commands, "tail", "the last steps of a run, and those that come", _TAIL)
    tail.add_argument("run", metavar="RUN", help="a run")
    tail.add_argument("-n", "--steps", type=_count, default=10, metavar="N", help="the number of steps; 10")
    tail.add_argument("-f", "--follow", action="store_true", help="wait for more, until Ctrl-C")
    tail.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between two looks at the files; 1"
    )
    _add_tags(tail)
    plot = _command(commands, "plot", "curves, bands over seeds, heat maps of families", _PLOT)
    plot.add_argument("runs", nargs="+", metavar="RUN", help="runs, or a folder of runs")
    plot.add_argument("-o", "--output", metavar="FILE", help="a picture; its suffix is .png, .svg or .pdf")
    plot.add_argument(
        "--smooth", type=_weight, default=0.0, metavar="WEIGHT", help="of TensorBoard's average, 0 to below 1"
    )
    plot.add_argument(
        "--by", action="append", metavar="config.KEY", help="a hyperparameter whose values make the bands"
    )
    plot.add_argument(
        "--steps",
        type=_bounds,
        default=ALL_STEPS,
        metavar="A..B",
        help="from step A to step B; A.. has no end",
    )
    _add_tags(plot)
    return parser


def _weight(text: str) -> float:
    weight = float(text)
    if not 0 <= weight < 1:
        raise ValueError(text)
    return weight


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _bounds(text: str) -> tuple[int, int]:
    first, dots, last = text.partition("..")
    low, high = int(first) if first else ALL_STEPS[0], int(last) if last else ALL_STEPS[1]
    if not dots or not ALL_STEPS[0] <= low <= high <= ALL_STEPS[1]:
        raise ValueError(text)
    return low, high


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(text)
    return seconds


# argparse names these in the error of a value that is none.
_count.__name__, _seconds.__name__, _weight.__name__ = "count", "number of seconds", "weight"
_bounds.__name__ = "range of steps, as 100..200,"


def _command(commands: Any, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("--json", action="store_true", help="print one line of JSON")
    return command


def _add_tags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--tag",
        action="append",
        metavar="GLOB",
        help="the tags, of several options those of each; by default all",
    )
