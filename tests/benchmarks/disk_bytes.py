"""The bytes of a scalar on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import sowlog
from tests.benchmarks.measure import Line, Size, Spread
from tests.benchmarks.peers import WRITING, Sowlog, Writing, absent, installed, missing
from tests.benchmarks.steps import tags_of

_STEPS = 20


def measure_disk_bytes(size: Size) -> list[Line]:
    """Measure the size of a run with tags of 23 characters, relative to the tags and values alone."""
    lines: list[Line] = []
    for count in size.counts:
        ours = _bytes_per_scalar(_write_sowlog, count)
        lines.append(_line(count, Sowlog.title, ours, target=35.0 if count == max(size.counts) else None))
        lines += [
            _line(count, peer.title, _bytes_per_scalar(_writer(peer), count), target=None)
            for peer in installed(WRITING)
        ]
        lines += [Line(f"{count} a step: {peer.title} (no {missing(peer)})") for peer in absent(WRITING)]
    return lines


def _line(count: int, name: str, figure: float, *, target: float | None) -> Line:
    least = len(tags_of(1)[0]) + 4
    against = f"tag and value, {least} bytes"
    ratio = figure / least
    return Line(
        f"{count} a step: {name}",
        Spread(figure, figure, figure),
        "B",
        Spread(ratio, ratio, ratio),
        against,
        target,
        "measured",
    )


def _bytes_per_scalar(write: Callable[[Path, dict[str, float]], None], count: int) -> float:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write(Path(folder), dict.fromkeys(tags_of(count), 0.123456))
        written = sum(file.stat().st_size for file in Path(folder).rglob("*") if _holds_data(file))
    return written / (count * _STEPS)


def _holds_data(file: Path) -> bool:
    # W&B writes the names of the installed packages and its own log beside the data.
    return file.is_file() and not file.is_symlink() and file.suffix not in (".log", ".txt")


def _write_sowlog(folder: Path, values: dict[str, float]) -> None:
    with sowlog.Logger(folder) as log:
        for step in range(_STEPS):
            log(step, values)


def _writer(kind: type[Writing]) -> Callable[[Path, dict[str, float]], None]:
    def write(folder: Path, values: dict[str, float]) -> None:
        peer = kind(folder)
        for step in range(_STEPS):
            peer.write(step, values)
        peer.flush()
        peer.close()

    return write
