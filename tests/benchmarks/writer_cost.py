"""The CPU time of writing, and its ratio to the minimum of the file format."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import jax
import numpy as np
from crc32c import crc32c

import sowlog
from sowlog.writers import JsonLines, TensorBoard, Writer
from tests.benchmarks.measure import Line, Size, cost_of, interleave, paired_ratio, spread_of
from tests.benchmarks.peers import WRITING, Sowlog, Writing, absent, installed, missing
from tests.benchmarks.steps import tags_of

_FLOOR = "CRC and write of the same bytes"
_JSON_LINES = "sowlog, writers.JsonLines"
_TARGETS = {10: 0.7, 100: 0.1, 1000: 0.025}


# Steps go up from one repetition to the next, as those of a run do.
_numbers = itertools.count()


def measure_writer_cost(size: Size) -> list[Line]:
    """Measure the CPU time of all threads for values that are there already, per scalar."""
    lines: list[Line] = []
    for count in size.counts:
        with ExitStack() as stack:
            runs = {
                Sowlog.title: _sowlog(_UnsyncedWriter, stack, count, size),
                _JSON_LINES: _sowlog(_UnsyncedLines, stack, count, size),
                _FLOOR: _floor(stack, count, size),
                **{peer.title: _peer(stack, peer, count, size) for peer in installed(WRITING)},
            }
            seldom = {peer.title: size.peer_rounds for peer in WRITING}
            figures = interleave(runs, size.rounds, seldom)
        lines += _lines(count, figures)
        lines += [Line(f"{count} a step: {peer.title} (no {missing(peer)})") for peer in absent(WRITING)]
    return lines


def _lines(count: int, figures: dict[str, list[float]]) -> list[Line]:
    lines: list[Line] = []
    for name, values in figures.items():
        against = _FLOOR if name == Sowlog.title else Sowlog.title
        ratio = paired_ratio(values, figures[against])
        target = _TARGETS.get(count) if name == Sowlog.title else None
        lines.append(
            Line(f"{count} a step: {name}", spread_of(values), "us", ratio, against, target, "measured")
        )
    return lines


class _UnsyncedWriter(TensorBoard):
    """sowlog's writer without the sync of its flush, which is no part of a step."""

    def flush(self) -> None:
        """Do nothing: `write` has handed all over to the operating system."""


class _UnsyncedLines(JsonLines):
    """The same of JSON lines."""

    def flush(self) -> None:
        """Do nothing."""


def _folder(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))


def _per_scalar(write: Callable[[], object], steps: int, count: int) -> Callable[[], float]:
    """Return a function that measures the CPU microseconds per scalar of writing that many steps."""
    write()
    return lambda: cost_of(write).cpu / (steps * count) * 1e6


def _sowlog(make: Callable[[Path], Writer], stack: ExitStack, count: int, size: Size) -> Callable[[], float]:
    folder = _folder(stack)
    log = stack.enter_context(sowlog.Logger(folder, writers=[make(folder)]))
    pack = jax.jit(lambda values: sowlog.pack(dict(zip(tags_of(count), values, strict=True))))
    packed = [pack(np.full(count, i, np.float32)) for i in range(min(8, size.records))]
    jax.block_until_ready(packed)

    def write() -> None:
        for index in range(size.records):
            log(next(_numbers), packed[index % len(packed)])
        log.flush()

    return _per_scalar(write, size.records, count)


def _floor(stack: ExitStack, count: int, size: Size) -> Callable[[], float]:
    """Return the same for bytes that need no more than their checksum."""
    # 10 bytes of field keys and lengths, the tag and the value; time, step and framing once.
    record = bytes(count * (10 + len(tags_of(1)[0])) + 34)
    file = stack.enter_context((_folder(stack) / "floor").open("wb", buffering=0))

    def write() -> None:
        for _ in range(size.records):
            crc32c(record)
            file.write(record)

    return _per_scalar(write, size.records, count)


def _peer(stack: ExitStack, kind: type[Writing], count: int, size: Size) -> Callable[[], float]:
    peer = stack.enter_context(closing(kind(_folder(stack))))
    values = dict.fromkeys(tags_of(count), 0.5)
    # A peer needs up to 0.25 ms a scalar.
    steps = max(1, min(size.records, 5000 // count, 20))

    def write() -> None:
        for _ in range(steps):
            peer.write(next(_numbers), values)
        peer.flush()

    return _per_scalar(write, steps, count)
