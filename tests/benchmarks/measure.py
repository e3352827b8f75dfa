"""Measuring on a noisy machine: interleaved repetitions, paired ratios, medians with their quartiles."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import jax

Figure = TypeVar("Figure")


class Spread(NamedTuple):
    """The quartiles of repeated measurements; all three are the same for a single one."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        case: the name of the measurement.
        measured: the figure itself, None if its package is absent.
        unit: its unit.
        ratio: the figure relative to `against`.
        against: the base of the ratio.
        target: the upper bound, if this row has one.
        bounds: which of the two figures the target bounds.
    """

    case: str
    measured: Spread | None = None
    unit: str = ""
    ratio: Spread | None = None
    against: str = ""
    target: float | None = None
    bounds: Literal["ratio", "measured"] = "ratio"

    @property
    def sure(self) -> bool:
        """Whether both quartiles are on the same side of the target."""
        figure = self.ratio if self.bounds == "ratio" else self.measured
        if self.target is None or figure is None:
            return True
        return (figure.low <= self.target) == (figure.high <= self.target)

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the target; None without a target, and never True for an absent figure."""
        figure = self.ratio if self.bounds == "ratio" else self.measured
        if self.target is None:
            return None
        return figure is not None and figure.median <= self.target


@dataclass(frozen=True)
class Size:
    """How much to measure: the smallest size serves a test, which asks only whether everything runs.

    Attributes:
        rounds: interleaved repetitions of sowlog's work.
        peer_rounds: interleaved repetitions of the peers' work.
        chunk_s: seconds of training in one repetition.
        counts: numbers of scalars a step.
        step_ms: durations of a step.
        records: steps logged in one repetition where no model runs.
        elements: elements of an array that is reduced.
        memory_steps: steps logged while memory is watched.
        read_scalars: scalars in a run that is read back.
    """

    rounds: int
    peer_rounds: int
    chunk_s: float
    counts: tuple[int, ...]
    step_ms: tuple[float, ...]
    records: int
    elements: int
    memory_steps: int
    read_scalars: int


FULL = Size(
    rounds=9,
    peer_rounds=3,
    chunk_s=0.15,
    counts=(10, 100, 1000),
    step_ms=(1.0, 10.0),
    records=300,
    elements=10**6,
    memory_steps=10**6,
    read_scalars=10**6,
)
SMOKE = Size(
    rounds=1,
    peer_rounds=1,
    chunk_s=0.01,
    counts=(3,),
    step_ms=(1.0,),
    records=5,
    elements=1000,
    memory_steps=200,
    read_scalars=400,
)


class Cost(NamedTuple):
    """Seconds that something took: on the clock, and on all cores together in this process."""

    wall: float
    cpu: float


def cost_of(work: Callable[[], object]) -> Cost:
    """Run `work` once and return its cost."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def cost_of_trace(work: Callable[[], object]) -> Cost:
    """Run `work`, which traces a function that JAX then does not know, and return its cost.

    Garbage collection is off, as in `timeit`: a collection of the whole heap takes a fifth of a trace, and a
    few allocations more may start it.
    """
    jax.clear_caches()
    gc.collect()
    gc.disable()
    try:
        return cost_of(work)
    finally:
        gc.enable()


def spread_of(values: Sequence[float]) -> Spread:
    """Return the quartiles of the values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high)


def interleave(
    runs: Mapping[str, Callable[[], Figure]], rounds: int, seldom: Mapping[str, int] | None = None
) -> dict[str, list[Figure]]:
    """Call every run once a round, in an order that changes, so that a slow minute hits them all.

    Args:
        runs: the measured functions by name.
        rounds: how often.
        seldom: fewer rounds for some of the names, spread over all of them.

    Returns:
        The figures by name, which `paired_ratio` pairs by their rounds.
    """
    due = {name: _spread_over(rounds, (seldom or {}).get(name, rounds)) for name in runs}
    figures: dict[str, list[Figure]] = {name: [] for name in runs}
    order = list(runs)
    shuffler = random.Random(0)
    for done in range(rounds):
        shuffler.shuffle(order)
        for name in order:
            if done in due[name]:
                figures[name].append(runs[name]())
    return figures


def _spread_over(rounds: int, count: int) -> list[int]:
    """Return the numbers of so many rounds among all, at equal distances."""
    return [(2 * index + 1) * rounds // (2 * count) for index in range(count)]


def paired_ratio(figures: Sequence[float], base: Sequence[float]) -> Spread:
    """Return the quartiles of the ratios of figures taken in the same rounds.

    Args:
        figures: the figures of each round, or of fewer rounds that are spread over all.
        base: the figures of each round.

    Raises:
        ValueError: the base was measured in fewer rounds: the ratio would leave out figures whose median is
            printed beside it.
    """
    if len(base) < len(figures):
        raise ValueError(f"{len(figures)} figures have a base of {len(base)} rounds: measure it as often.")
    paired = [base[number] for number in _spread_over(len(base), len(figures))]
    return spread_of([figure / other for figure, other in zip(figures, paired, strict=True)])
