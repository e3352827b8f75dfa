"""Tables of lines, and the machine they were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.measure import Line, Spread

_PACKAGES = (
    "jax",
    "numpy",
    "tensorboardX",
    "tensorboard",
    "torch",
    "clu",
    "tensorflow-cpu",
    "tensorflow",
    "wandb",
)
_HEADINGS = ("case", "measured", "ratio (quartiles)", "against", "target", "met")
_MET = {None: "", True: "yes", False: "NO"}


def describe_machine() -> str:
    """Return the processor, its cores, and the versions that matter."""
    packages = [f"{name} {version}" for name in _PACKAGES if (version := _version(name))]
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return f"{_processor()}, {os.cpu_count()} cores. {system}; {', '.join(packages)}."


def table(lines: Sequence[Line]) -> str:
    """Return lines as a Markdown table with columns of one width."""
    rows = [_HEADINGS, *(_cells(line) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([texts[0], rule, *texts[1:]])


def _cells(line: Line) -> tuple[str, ...]:
    if line.measured is None:
        return line.case, "absent", "", "", _target(line), _met(line)
    measured = f"{_number(line.measured.median)} {line.unit}"
    return line.case, measured, _ratio(line.ratio), line.against, _target(line), _met(line)


def _ratio(ratio: Spread | None) -> str:
    if ratio is None:
        return ""
    low, median, high = map(_number, ratio)
    return f"{median} x" if low == high else f"{median} x ({low} .. {high})"


def _target(line: Line) -> str:
    if line.target is None:
        return ""
    return f"<= {line.target:g} {'x' if line.bounds == 'ratio' else line.unit}".rstrip()


def _met(line: Line) -> str:
    """Return the verdict, with a question mark where the spread reaches over the target."""
    return _MET[line.met] + "?" * (not line.sure)


def _number(value: float) -> str:
    """Return a number with three digits or two decimals, whichever says more."""
    if value == 0 or value >= 100:
        return f"{value:.0f}"
    return f"{value:.3f}" if 0.9 <= value < 2 else f"{value:.3g}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
