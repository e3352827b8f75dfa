"""Scalars as JSON lines, in the form of `sowlog.writers.JsonLines`, which `sowlog.read` reads back."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np

from sowlog._events import frames
from sowlog._events.json_form import nonfinite_name, null_piece, scalar_piece

# Lines that are written at once.
_LINES = 1 << 12


def write_json_lines(file: BinaryIO, names: tuple[str, ...], curves: frames.Curves) -> None:
    """Write a line for each step of each run.

    Args:
        file: the file.
        names: the names of a curve's key: "run" if there are several, and "tag".
        curves: the curves.
    """
    runs: dict[str, dict[str, frames.Curve]] = defaultdict(dict)
    for (*run, tag), curve in curves.items():
        runs["".join(run)][tag] = curve
    for run, of_run in runs.items():
        head = f',"run":{json.dumps(run)}' if len(names) > 1 else ""
        held: list[str] = []
        for line in _lines(of_run, head):
            held.append(line)
            if len(held) == _LINES:
                file.write("".join(held).encode("ascii"))
                held.clear()
        file.write("".join(held).encode("ascii"))


class _Group:
    """Curves with points at the same steps and times."""

    def __init__(self, curves: Mapping[str, frames.Curve]) -> None:
        first = next(iter(curves.values()))
        self.tags = tuple(curves)
        self.pieces = tuple(map(scalar_piece, curves))
        self.steps, self.times = first.steps.tolist(), first.wall_times.tolist()
        self._values = np.stack([curve.values for curve in curves.values()], axis=1)

    def values(self, row: int) -> list[float]:
        return self._values[row].tolist()

    def head(self, number: int, row: int) -> tuple[float, int, int, int]:
        """Return the place of a row among those of all groups."""
        time = self.times[row]
        return -math.inf if math.isnan(time) else time, self.steps[row], number, row


def _groups(curves: Mapping[str, frames.Curve]) -> list[_Group]:
    found: dict[bytes, dict[str, frames.Curve]] = defaultdict(dict)
    for tag, curve in curves.items():
        if len(curve.steps):
            digest = hashlib.blake2b(curve.steps.tobytes())
            digest.update(curve.wall_times.tobytes())
            found[digest.digest()][tag] = curve
    return list(map(_Group, found.values()))


def _lines(curves: Mapping[str, frames.Curve], head: str) -> Iterator[str]:
    """Yield the lines of a run by time; the points of a tag keep their order, whatever their times."""
    groups = _groups(curves)
    places = [group.head(number, 0) for number, group in enumerate(groups)]
    heapq.heapify(places)
    while places:
        time, step, _, _ = places[0]
        rows: list[tuple[int, int]] = []
        while places and places[0][:2] == (time, step):
            rows.append(heapq.heappop(places)[2:])
        pieces: list[str] = []
        tags: list[str] = []
        values: list[float] = []
        for number, row in rows:
            group = groups[number]
            pieces += group.pieces
            tags += group.tags
            values += group.values(row)
            if row + 1 < len(group.steps):
                heapq.heappush(places, group.head(number, row + 1))
        shown = repr(time) if math.isfinite(time) else "null"
        yield f'{{"step":{step},"time":{shown}{head},{_scalars(pieces, tags, values)}}}\n'


def _scalars(pieces: list[str], tags: list[str], values: list[float]) -> str:
    rows = list(zip(pieces, values, strict=True))
    texts = (piece % value if math.isfinite(value) else null_piece(piece) for piece, value in rows)
    scalars = f'"scalars":{{{",".join(texts)}}}'
    named = {tag: name for tag, name in zip(tags, map(nonfinite_name, values), strict=True) if name}
    if not named:
        return scalars
    return f'{scalars},"nonfinite":{json.dumps(named, separators=(",", ":"))}'
