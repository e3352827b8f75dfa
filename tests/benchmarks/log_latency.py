"""The time of a `log` call on the training thread."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import jax

from tests.benchmarks.measure import Line, Size, interleave, paired_ratio, spread_of
from tests.benchmarks.peers import PEERS, AddScalar, DebugCallback, Peer, Sowlog, absent, installed, missing
from tests.benchmarks.steps import initial_state, make_step, repeats_for

_LOGGING = tuple(peer for peer in PEERS if peer is not DebugCallback)
_STEPS = 100


# Steps go up from one repetition to the next, as those of a run do.
_numbers = itertools.count()


def measure_log_latency(size: Size) -> list[Line]:
    """Measure `log` inside a loop of 1 ms steps, whose device has a core of its own.

    sowlog's call comes right after the step was dispatched, as in training. A peer's comes when the step is
    done, since it would wait for the device otherwise, and that is not its cost.
    """
    lines: list[Line] = []
    for count in size.counts:
        with ExitStack() as stack:
            runs = {
                peer.title: _repetition(stack, peer, count, size) for peer in (Sowlog, *installed(_LOGGING))
            }
            seldom = {name: size.peer_rounds for name in runs if name not in (Sowlog.title, AddScalar.title)}
            figures = interleave(runs, size.rounds, seldom)
        lines += _lines(count, figures)
        lines += [Line(f"{count} scalars: {peer.title} (no {missing(peer)})") for peer in absent(_LOGGING)]
    return lines


def _lines(count: int, figures: dict[str, list[float]]) -> list[Line]:
    against = AddScalar.title
    return [
        Line(
            f"{count} scalars: {name}",
            spread_of(values),
            "us",
            paired_ratio(values, figures[against]),
            against,
            15.0 if name == Sowlog.title else None,
            "measured",
        )
        for name, values in figures.items()
    ]


def _repetition(stack: ExitStack, kind: type[Peer], count: int, size: Size) -> Callable[[], float]:
    """Return a function that measures the mean microseconds of a `log` call over a stretch of training."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
    peer = stack.enter_context(closing(kind(folder)))
    step, repeats = make_step(peer.form, count), repeats_for(1.0)

    def train(steps: int) -> float:
        state, spent = initial_state(), 0.0
        for _ in range(steps):
            state, metrics = step(state, repeats)
            if not isinstance(peer, Sowlog):
                jax.block_until_ready(metrics)
            before = time.perf_counter()
            peer.log(next(_numbers), metrics)
            spent += time.perf_counter() - before
        peer.flush()
        return spent / steps * 1e6

    train(2)
    # A peer needs up to 0.1 s a call.
    steps = _STEPS if isinstance(peer, Sowlog) else 10
    return lambda: train(min(steps, size.records))
