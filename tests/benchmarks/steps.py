"""The training step of the benchmarks, and where on the machine it runs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sowlog
from tests.benchmarks.measure import cost_of
from tests.benchmarks.peers import Form

_WIDTH = 256
_LAYER_METRICS = 20

Step = Callable[[jax.Array, np.int32], tuple[jax.Array, Any]]


def share_one_core() -> None:
    """Return this process one core, so that whatever logging computes is taken from the step."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jax.devices()


def separate_device() -> None:
    """Return XLA's threads a core to themselves and Python's the others, as with an accelerator.

    A thread inherits the cores of the one that starts it: XLA's pool starts on the device's core, and what
    is started afterwards, the logger's thread among it, stays off it.

    Raises:
        RuntimeError: if there is one core only.
    """
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        raise RuntimeError("one core cannot be both the device and the host: use a machine with two or more")
    device = {min(cores)}
    os.sched_setaffinity(0, device)
    jnp.zeros(1).block_until_ready()
    os.sched_setaffinity(0, cores - device)


def tags_of(count: int) -> tuple[str, ...]:
    """Return that many tags of 23 characters."""
    return tuple(f"decoder/block_{index:04d}/loss" for index in range(count))


def initial_state() -> jax.Array:
    """Return the state that a step takes and returns."""
    return jnp.ones((_WIDTH, _WIDTH))


@functools.cache
def make_step(form: Form, count: int) -> Step:
    """Return a jitted step of (state, repeats) -> (state, metrics).

    Args:
        form: the metrics of the step: "none"; "tree", a dictionary of `count` scalars; "packed", the same
            scalars sown into `sowlog.mean` and packed; "layers", `count` means over activations as a scan
            over layers leaves them, packed; "callback", nothing, for a callback takes each scalar.
        count: how many scalars.
    """

    @jax.jit
    def step(state: jax.Array, repeats: np.int32) -> tuple[jax.Array, Any]:
        weights = jnp.eye(_WIDTH)
        state = jax.lax.fori_loop(0, repeats, lambda _, x: jnp.tanh(x @ weights), state)
        return state, _metrics(form, state, count)

    return step


def _metrics(form: Form, state: jax.Array, count: int) -> Any:
    if form == "none":
        return ()
    if form == "layers":
        return sowlog.pack(_layer_means(state, count))
    scalars = {tag: state[i % _WIDTH, i // _WIDTH] for i, tag in enumerate(tags_of(count))}
    if form == "packed":
        return sowlog.pack({tag: sowlog.mean.of(value) for tag, value in scalars.items()})
    if form == "callback":
        for value in scalars.values():
            jax.debug.callback(_receive, value)
        return ()
    return scalars


def _receive(value: np.ndarray) -> None:
    float(value)


def _layer_means(state: jax.Array, count: int) -> dict[str, Any]:
    metrics = min(_LAYER_METRICS, count)
    layers, features = count // metrics, _WIDTH // metrics
    return {
        f"decoder/blocks/metric_{i:02d}": jax.vmap(sowlog.mean.of)(
            state[:layers, i * features : (i + 1) * features]
        )
        for i in range(metrics)
    }


def repeats_for(milliseconds: float) -> np.int32:
    """Return how often the step without metrics repeats its layer to last that long here."""
    step, state, trial = make_step("none", 0), initial_state(), np.int32(30)

    def run() -> None:
        jax.block_until_ready(step(state, trial))

    run()
    fastest = min(cost_of(run).wall for _ in range(5))
    return np.int32(max(1, round(milliseconds / 1000 * int(trial) / fastest)))
