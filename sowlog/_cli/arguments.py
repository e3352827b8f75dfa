"""The options of the command line."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

# A day, in seconds.
_LONGEST = 86400.0
ALL_STEPS = -(1 << 63), (1 << 63) - 1
"""The lowest and the highest step of any run."""
_KINDS = "scalars", "histograms", "texts", "hparams", "pr_curves", "images"
_EPILOG = """\
exit status: 0 done; 1 `check` found damage or an expectation that does not hold; 2 the request cannot be
met (an unknown option, run or tag, a missing package, a file that cannot be written); 130 Ctrl-C.

RUN is an event file, a file of JSON lines (.jsonl), the folder of a run (its event files, or if there
are none its metrics.jsonl), or a folder of runs. GLOB matches whole tags, and a tag has parts, as
eval/loss: * is any text within a part, ** any number of parts. With --json a command prints one line of
JSON, described in the help of the command; NaN and infinities are the strings "NaN", "Infinity" and
"-Infinity"."""

_SHOW = """\
JSON, of one run: {"run", "hparams": {name: value}, "tags": [{"tag", "points", "first_step", "last_step",
"last", "min", "max", "mean", "nonfinite", "first_nonfinite", "gaps", "doubled", "back"}], "others":
[{"tag", "kind", "points", "last_step"}], "first_nonfinite": {"step", "tags", "report"} or null,
"damage": [text]}. min, max and mean are of finite values; nonfinite counts the others, and
first_nonfinite is the step of the first. gaps counts places at which steps are missing, doubled points
whose step has another, back points behind a higher step.

Of several runs: {"runs": [{"run", "tags", "points", "last_step", "nonfinite", "last": {tag: value},
"damage": [text]}]}; last has the tags of --tag."""

_CHECK = """\
JSON: {"files": [{"file", "bytes", "records", "damage": text or null, "repaired": path or null,
"salvaged": number of records in the copy that are behind the damage, or null, "images": number of image
files of JSON lines in the copy, or null, "missing_images": [path]}], "expectations": [{"expectation",
"run", "step", "value", "holds"}], "ok": bool}.

An expectation compares the last value of a tag with a number, by one of < <= > >= == !=, as in
--expect 'eval/accuracy>0.97'. NaN meets none. The quotes keep the shell from reading > as a redirection."""

_EXPORT = """\
CSV and Parquet have a row for each value of one kind, and the columns run (of several runs), tag, step,
wall_time (seconds since the epoch), and value; with --kind histograms left, right and count of each bucket,
with --kind texts text; with --kind hparams the columns are run, name and value. JSON lines have an object
for each step, in the form that sowlog.writers.JsonLines writes and sowlog.read reads: {"step", "time",
"scalars": {tag: value}, "nonfinite": {tag: name}, "histograms", "pr_curves", "texts", "hparams", "images"},
and of several runs "run"; images are files in a folder beside it. NaN and infinities are null in scalars,
with their names in nonfinite.

JSON: {"file", "rows", "runs", "tags", "left_out": [text]}; rows is the number of values in JSON lines, and
left_out names the values that the file does not hold."""


_COMPARE = """\
For each tag and run: the last value, the smallest and the largest. Runs whose hyperparameters differ in
the seed alone are a group; with --by, runs with equal values of those hyperparameters. A group of
several runs has the mean and the sample standard deviation over its runs. Two runs part at the first
step at which a value that both have differs in a bit.

JSON: {"runs": [name], "differences": {setting: {run: value}}, "groups": [{"settings": {name: value},
"runs": [name]}], "tags": [{"tag", "runs": {run: {"last", "min", "max", "last_step"}}, "groups":
[{"settings", "count", "last_mean", "last_std", "min_mean", "min_std", "max_mean", "max_std"}]}],
"parting": {"step", "tags"} or null}."""


_TAIL = """\
A line for each step, with its scalars. With -f, new steps are added as they are written; the steps that
a resumed run writes again are shown again.

JSON: for each step one line {"step", "time", "scalars": {tag: value}, "nonfinite": {tag: name}}, in the form
that sowlog.writers.JsonLines writes and sowlog.read reads. NaN and infinities are null in scalars, with their
names in nonfinite."""


_PLOT = """\
A panel for each tag with a curve for each run. Runs that differ in the seed alone, or with --by have
equal values of those hyperparameters, are one curve: their mean, with a band of one standard deviation.
Four tags or more that differ in an index alone, as those of layers, are one heat map; that of a band's
runs is their mean. Without -o the picture is drawn in the terminal.

JSON: {"file": path or null, "panels": [{"title", "kind": "lines" or "heat map", "curves": [label]}]}."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="sowlog",
        description="Show, draw, follow, check, compare and export runs from event files of any program, or "
        "JSON lines.",
        epilog=_EPILOG,
        formatter_class=_Paragraphs,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", required=True)
    show = _command(commands, "show", "tags with statistics, curves and health", _SHOW)
    show.add_argument("runs", nargs="+", metavar="RUN", help="a run, several, or a folder of runs")
    _add_tags(show)
    check = _command(commands, "check", "checksums, damage, and expected values", _CHECK)
    check.add_argument("runs", nargs="+", metavar="RUN", help="a run, several, or a folder of runs")
    check.add_argument(
        "--expect",
        action="append",
        default=[],
        metavar="TAG>NUMBER",
        help="an expected range of the last value, for CI; several are possible",
    )
    check.add_argument(
        "--repair",
        metavar="FOLDER",
        help="write a copy of each file, with its undamaged records alone, into this new folder",
    )
    export = _command(commands, "export", "values as CSV, Parquet or JSON lines", _EXPORT)
    export.add_argument("runs", nargs="+", metavar="RUN", help="a run, several, or a folder of runs")
    export.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="the file; its suffix, .csv, .parquet or .jsonl, is the format",
    )
    export.add_argument(
        "--kind",
        action="append",
        choices=_KINDS,
        metavar="KIND",
        help=f"the values that are written, one of {', '.join(_KINDS)}; several are possible in JSON lines "
        "(default: scalars, or all that JSON lines hold)",
    )
    _add_tags(export)
    compare = _command(commands, "compare", "final and best values, over seeds, and differences", _COMPARE)
    compare.add_argument("runs", nargs="+", metavar="RUN", help="runs, or a folder of runs")
    compare.add_argument(
        "--by", action="append", metavar="config.KEY", help="group runs by the values of a hyperparameter"
    )
    _add_tags(compare)
    tail = _command(commands, "tail", "the last steps of a run, and new ones as they are written", _TAIL)
    tail.add_argument(
        "run", metavar="RUN", help="an event file, a file of JSON lines, or the folder of one run"
    )
    tail.add_argument(
        "-n", "--steps", type=_count, default=10, metavar="N", help="number of steps (default 10)"
    )
    tail.add_argument("-f", "--follow", action="store_true", help="wait for new steps, until Ctrl-C")
    tail.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="SECONDS", help="poll interval (default 1)"
    )
    _add_tags(tail)
    plot = _command(commands, "plot", "curves, bands over seeds, heat maps of families", _PLOT)
    plot.add_argument("runs", nargs="+", metavar="RUN", help="runs, or a folder of runs")
    plot.add_argument(
        "-o", "--output", metavar="FILE", help="the picture; its suffix, .png, .svg or .pdf, is the format"
    )
    plot.add_argument(
        "--smooth",
        type=_weight,
        default=0.0,
        metavar="WEIGHT",
        help="weight of TensorBoard's moving average, from 0 to below 1",
    )
    plot.add_argument(
        "--by", action="append", metavar="config.KEY", help="group runs by the values of a hyperparameter"
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


class _Paragraphs(argparse.HelpFormatter):
    """Help whose paragraphs are filled to the width of the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # A break at a hyphen would cut --tag in two.
        filled = (
            textwrap.fill(
                " ".join(paragraph.split()),
                width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_on_hyphens=False,
            )
            for paragraph in text.split("\n\n")
        )
        return "\n\n".join(filled)


class _Version(argparse.Action):
    """The option that prints the version, which is looked up only then."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version  # noqa: PLC0415 - no other command needs it

        sys.stdout.write(f"sowlog {version('sowlog')}\n")
        parser.exit()


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
        formatter_class=_Paragraphs,
        allow_abbrev=False,
    )
    command.add_argument("--json", action="store_true", help="print one line of JSON")
    return command


def _add_tags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--tag",
        action="append",
        metavar="GLOB",
        help="take the tags that match alone; several are possible (default: all tags)",
    )
