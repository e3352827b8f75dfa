"""The time that metrics flushed at every step add to a step."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import sowlog
from tests.benchmarks.measure import Cost, Line, Size, cost_of, interleave, paired_ratio, spread_of
from tests.benchmarks.peers import PEERS, Peer, Sowlog, absent, installed, missing
from tests.benchmarks.steps import initial_state, make_step, repeats_for

_AGAINST = "the step without metrics"
_NONFINITE = 1.01


# Steps go up from one repetition to the next, as those of a run do.
_numbers = itertools.count()


class SowlogLayers(Sowlog):
    """sowlog, with metrics as a scan over layers leaves them."""

    title = "sowlog, means over scanned layers"
    form = "layers"


class _NotLooking(Sowlog):
    """sowlog, without the look at each record for values that became NaN or infinite."""

    title = 'on_nonfinite="ignore"'

    def __init__(self, folder: Path) -> None:
        self.log = sowlog.Logger(folder, on_nonfinite="ignore")
        self.flush, self.close = self.log.flush, self.log.close


class _Figures(NamedTuple):
    """One repetition: milliseconds a step, and its wall and CPU time relative to the bare steps around it."""

    milliseconds: float
    wall_ratio: float
    cpu_ratio: float


def measure_host_bound(size: Size) -> list[Line]:
    """Measure where XLA and Python share one core: whatever logging computes is taken from the step."""
    return _measure(size, {(100, 1.0): 1.05, (100, 10.0): 1.03}, with_cpu=True)


def measure_device_busy(size: Size) -> list[Line]:
    """Measure where the step computes on a core of its own and the host is free, as with an accelerator."""
    return _measure(size, {(100, 1.0): 1.05, (100, 10.0): 1.03, (1000, 1.0): 1.05}, with_cpu=False)


def measure_nonfinite(size: Size) -> list[Line]:
    """Measure the look for values that became NaN or infinite, where it takes its time from the step."""
    lines: list[Line] = []
    for ms, count in itertools.product(size.step_ms, size.counts):
        with ExitStack() as stack:
            peers = [_open(stack, peer) for peer in (Sowlog, _NotLooking)]
            repeats = repeats_for(ms)
            chunks = [_chunk(peer, peer.form, count, repeats) for peer in peers]
            steps = max(2, int(size.chunk_s / chunks[0](2).wall))
            runs = {
                peer.title: functools.partial(chunk, steps) for peer, chunk in zip(peers, chunks, strict=True)
            }
            figures = interleave(runs, size.rounds)
        looking, ignoring = figures.values()
        for name, at in (("", 0), (", CPU time", 1)):
            ours, base = ([figure[at] * 1000 for figure in each] for each in (looking, ignoring))
            case = f"{count} scalars, {ms:g} ms step{name}"
            lines.append(
                Line(case, spread_of(ours), "ms", paired_ratio(ours, base), _NotLooking.title, _NONFINITE)
            )
    return lines


def _measure(size: Size, targets: dict[tuple[int, float], float], *, with_cpu: bool) -> list[Line]:
    lines: list[Line] = []
    repeats = {ms: repeats_for(ms) for ms in size.step_ms}
    for count in (0, *size.counts):
        ours = (Sowlog, SowlogLayers) if count else (Sowlog,)
        theirs = PEERS if count else ()
        with ExitStack() as stack:
            opened = [_open(stack, peer) for peer in (*ours, *installed(theirs))]
            for ms in size.step_ms:
                case = f"{count} scalars, {ms:g} ms step"
                lines += _case_lines(
                    size, opened, count, repeats[ms], case, targets.get((count, ms)), with_cpu=with_cpu
                )
                lines += [Line(f"{case}: {peer.title} (no {missing(peer)})") for peer in absent(theirs)]
    return lines


def _open(stack: ExitStack, peer: type[Peer]) -> Peer:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
    return stack.enter_context(closing(peer(folder)))


def _case_lines(
    size: Size,
    opened: list[Peer],
    count: int,
    repeats: np.int32,
    case: str,
    target: float | None,
    *,
    with_cpu: bool,
) -> list[Line]:
    seldom = {peer.title: size.peer_rounds for peer in opened if not isinstance(peer, Sowlog)}
    # The time of a peer is plain after half the time and fewer rounds.
    seconds = {peer.title: size.chunk_s / (2 if peer.title in seldom else 1) for peer in opened}
    runs = {peer.title: _repetition(peer, count, repeats, seconds[peer.title]) for peer in opened}
    lines: list[Line] = []
    for name, figures in interleave(runs, size.rounds, seldom).items():
        bound = None if name in seldom else target
        milliseconds = spread_of([figure.milliseconds for figure in figures])
        wall = spread_of([figure.wall_ratio for figure in figures])
        lines.append(Line(f"{case}: {name}", milliseconds, "ms", wall, _AGAINST, bound))
        if with_cpu and name not in seldom:
            cpu = spread_of([figure.cpu_ratio for figure in figures])
            lines.append(Line(f"{case}: {name}, CPU time", milliseconds, "ms", cpu, _AGAINST, bound))
    return lines


def _repetition(peer: Peer, count: int, repeats: np.int32, seconds: float) -> Callable[[], _Figures]:
    """Return the function that runs a stretch of training between two of the same without metrics."""
    bare_chunk = _chunk(None, "none", 0, repeats)
    chunk = _chunk(peer, peer.form, count, repeats)
    bare_chunk(1)
    chunk(1)
    steps = max(2, int(seconds / chunk(2).wall))
    half = max(2, int(seconds / bare_chunk(2).wall / 2))

    def run() -> _Figures:
        before, own, after = bare_chunk(half), chunk(steps), bare_chunk(half)
        return _Figures(
            own.wall * 1000,
            2 * own.wall / (before.wall + after.wall),
            2 * own.cpu / (before.cpu + after.cpu),
        )

    return run


def _chunk(peer: Peer | None, form: str, count: int, repeats: np.int32) -> Callable[[int], Cost]:
    """Return a function that trains some steps, waits for their records, and returns the cost of a step."""
    step = make_step(form, count)

    def train(steps: int) -> None:
        state = initial_state()
        for _ in range(steps):
            state, metrics = step(state, repeats)
            if peer is not None:
                peer.log(next(_numbers), metrics)
        jax.block_until_ready(state)
        if peer is not None:
            peer.flush()

    def run(steps: int) -> Cost:
        cost = cost_of(lambda: train(steps))
        return Cost(cost.wall / steps, cost.cpu / steps)

    return run
