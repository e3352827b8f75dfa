"""The speed of reading a run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import sowlog
from sowlog.writers import TensorBoard
from sowlog.writers.record import Record
from tests.benchmarks.measure import Line, Size, cost_of, interleave, paired_ratio, spread_of
from tests.benchmarks.steps import tags_of
from tests.support.tensorboard_reading import tensorboard_scalars

_PEER = "TensorBoard's EventAccumulator"


def measure_reading(size: Size) -> list[Line]:
    """Measure reading a run into arrays, packed and with one scalar an event."""
    packed_tags = tags_of(max(size.counts))
    cases = {
        "packed": (packed_tags, size.read_scalars // len(packed_tags), 0.3),
        "one per event": (tags_of(1), size.read_scalars, 3.0),
    }
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        # TensorBoard imports much of itself on its first read.
        _write_run(Path(folder), tags_of(1), 1)
        tensorboard_scalars(Path(folder))
    for case, (tags, steps, target) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            _write_run(Path(folder), tags, steps)
            lines += _lines(f"{len(tags) * steps} scalars, {case}", Path(folder), target, size)
    return lines


def _write_run(folder: Path, tags: tuple[str, ...], steps: int) -> None:
    writer = TensorBoard(folder)
    for step in range(steps):
        writer.write(Record(step, 1e9 + step, tags, np.full(len(tags), step, np.float32)))
    writer.close()


def _lines(case: str, folder: Path, target: float, size: Size) -> list[Line]:
    read = getattr(sowlog, "read", None)
    runs: dict[str, Callable[[], float]] = {_PEER: _timed(tensorboard_scalars, folder)}
    if read is not None:
        runs["sowlog.read"] = _timed(lambda path: _use(read(path)), folder)
    figures = interleave(runs, min(size.rounds, 3))
    lines = [
        Line(
            f"{case}: {name}",
            spread_of(seconds),
            "s",
            paired_ratio(seconds, figures[_PEER]),
            _PEER,
            target if name != _PEER else None,
            "measured",
        )
        for name, seconds in figures.items()
    ]
    return (
        lines
        if read
        else [
            *lines,
            Line(f"{case}: sowlog.read (sowlog has none yet)", unit="s", target=target, bounds="measured"),
        ]
    )


def _timed(read: Callable[[Path], object], folder: Path) -> Callable[[], float]:
    return lambda: cost_of(lambda: read(folder)).wall


def _use(run: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return every series as arrays, should reading put that off."""
    return [(np.asarray(steps), np.asarray(values)) for steps, values in run.scalars.values()]
