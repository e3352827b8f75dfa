"""The cost of a histogram or quantiles of many values, against their mean and standard deviation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import SummaryWriter

import sowlog
from tests.benchmarks.measure import Line, Size, cost_of, interleave, paired_ratio, spread_of

_CALLS = 5
_OURS = ("histogram", "quantiles")
_BASES = ("jnp.mean and jnp.std", "sowlog.mean and sowlog.std")


def measure_distributions(size: Size) -> list[Line]:
    """Measure reducing an array of normal float32 numbers, against two ways of mean and std."""
    values = jax.random.normal(jax.random.key(0), (size.elements,))
    reducers = {name: getattr(sowlog, name, None) for name in _OURS}
    runs = {
        _BASES[0]: _timed(lambda x: (jnp.mean(x), jnp.std(x)), values),
        _BASES[1]: _timed(lambda x: (_result(sowlog.mean, x), _result(sowlog.std, x)), values),
        **{name: _timed(_result_of(reducer), values) for name, reducer in reducers.items() if reducer},
    }
    with tempfile.TemporaryDirectory() as folder, closing(SummaryWriter(folder)) as writer:
        runs["tensorboardX.add_histogram on the host"] = _add_histogram(writer, values)
        figures = interleave(runs, size.rounds)
    lines = [
        Line(
            f"{name}, {size.elements} values",
            spread_of(milliseconds),
            "ms",
            paired_ratio(milliseconds, figures[base]),
            base,
            4.0 if name in _OURS else None,
        )
        for name, milliseconds in figures.items()
        for base in _BASES
        if name != base
    ]
    return [*lines, *(Line(f"{name} (sowlog has none yet)") for name in _OURS if not reducers[name])]


def _result(reducer: sowlog.Reducer, value: jax.Array) -> Any:
    return reducer.of(value).compute()


def _result_of(reducer: sowlog.Reducer) -> Callable[[jax.Array], Any]:
    return lambda value: _result(reducer, value)


def _timed(function: Callable[[jax.Array], Any], values: jax.Array) -> Callable[[], float]:
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(values))
    return _cpu_milliseconds(lambda: jax.block_until_ready(compiled(values)))


def _add_histogram(writer: SummaryWriter, values: jax.Array) -> Callable[[], float]:
    def add() -> None:
        writer.add_histogram("values", np.asarray(values), 0)

    add()
    return _cpu_milliseconds(add)


def _cpu_milliseconds(call: Callable[[], object]) -> Callable[[], float]:
    """Return a function that measures the CPU time of a call: its undisturbed duration on one core."""

    def repeat() -> None:
        for _ in range(_CALLS):
            call()

    def measure() -> float:
        call()  # The measurement before has filled the caches with other data.
        return cost_of(repeat).cpu / _CALLS * 1000

    return measure
