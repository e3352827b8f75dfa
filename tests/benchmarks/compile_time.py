"""The compile time that packing adds to a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import sowlog
from tests.benchmarks.measure import Line, Size, cost_of, interleave, spread_of
from tests.benchmarks.steps import initial_state, tags_of

_AGAINST = "returning them unpacked"
_ELEMENTS = 32

Metrics = Callable[[jax.Array, int], Mapping[str, Any]]


def measure_compile_time(size: Size) -> list[Line]:
    """Measure CPU seconds of tracing, lowering and compiling, less those of the step without metrics.

    CPU seconds, as XLA compiles on several threads and other programs disturb the clock.
    """
    count = max(size.counts)
    rounds = min(size.rounds, 2)
    return [
        *_compare("scalars", count, rounds, _scalars, _scalars, 1.5),
        *_compare(f"sown means of {_ELEMENTS}", count, rounds, _states, _means, 1.3),
    ]


def _compare(
    what: str, count: int, rounds: int, packed: Metrics, unpacked: Metrics, target: float
) -> list[Line]:
    runs = {
        "bare": lambda: _compile(lambda _: ()),
        "packed": lambda: _compile(lambda state: sowlog.pack(packed(state, count))),
        "unpacked": lambda: _compile(lambda state: unpacked(state, count)),
    }
    runs["bare"]()
    figures = interleave(runs, rounds)
    added = [packed - bare for packed, bare in zip(figures["packed"], figures["bare"], strict=True)]
    base = [unpacked - bare for unpacked, bare in zip(figures["unpacked"], figures["bare"], strict=True)]
    ratio = spread_of([ours / theirs for ours, theirs in zip(added, base, strict=True)])
    return [
        Line(f"{count} {what}, packed", spread_of(added), "s", ratio, _AGAINST, target),
        Line(f"{count} {what}, unpacked", spread_of(base), "s"),
    ]


def _compile(metrics: Callable[[jax.Array], Any]) -> float:
    def step(state: jax.Array) -> tuple[jax.Array, Any]:
        state = jnp.tanh(state @ state)
        return state, metrics(state)

    return cost_of(lambda: jax.jit(step).lower(initial_state()).compile()).cpu


def _rows(state: jax.Array, count: int) -> dict[str, jax.Array]:
    per_row = state.shape[1] // _ELEMENTS
    blocks = state.reshape(state.shape[0], per_row, _ELEMENTS)
    return {tag: blocks[i // per_row, i % per_row] for i, tag in enumerate(tags_of(count))}


def _scalars(state: jax.Array, count: int) -> Mapping[str, Any]:
    return {tag: row[0] for tag, row in _rows(state, count).items()}


def _states(state: jax.Array, count: int) -> Mapping[str, Any]:
    return {tag: sowlog.mean.of(row) for tag, row in _rows(state, count).items()}


def _means(state: jax.Array, count: int) -> Mapping[str, Any]:
    return {tag: jnp.mean(row) for tag, row in _rows(state, count).items()}
