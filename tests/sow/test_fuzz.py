"""Random compositions of transforms sow what plain Python loops of the same meaning sow."""

import functools
import itertools
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import sowlog
from sowlog._tree.tags import leaves_by_tag
from tests.support.programs import Dual, Entry, Log, Program, programs

CASES = int(os.environ.get("SOWLOG_FUZZ", "5"))


def _value_of(kind: str, entries: list[Entry]) -> Any:
    values = np.stack([entry.value.value for entry in entries])
    if kind == "histogram":
        return float(values.size), values.sum(), values.max()
    return {"sum": np.sum, "mean": np.mean, "max": np.max, "last": lambda x: x[-1, -1]}[kind](values)


def _assert_metrics(metrics: Any, entries: list[Entry]) -> None:
    """Each state has the value of the entries under its tag and steps, and was seen only if there are any."""
    states = dict(leaves_by_tag(metrics))
    groups: dict[tuple[str, tuple[int, ...]], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.tag, entry.steps), []).append(entry)
    for tag, state in states.items():
        seen, computed = np.asarray(state.seen), state.compute()
        for steps in np.ndindex(seen.shape):
            of_tag = groups.pop((tag, steps), [])
            assert bool(seen[steps] > 0) == bool(of_tag), (tag, steps)
            if not of_tag:
                continue
            wanted = _value_of(of_tag[0].kind, of_tag)
            if of_tag[0].kind == "histogram":
                ours = computed.counts[steps].sum(), computed.sum[steps], computed.max[steps]
            else:
                ours = computed[steps]
            np.testing.assert_allclose(ours, wanted, rtol=2e-6, atol=1e-6, err_msg=f"{tag} {steps}")
    assert not groups, "lost"


def _assert_losses(losses: Any, entries: list[Entry]) -> None:
    totals: dict[str, float] = {}
    for entry in entries:
        totals[entry.tag] = totals.get(entry.tag, 0.0) + entry.share * np.sum(entry.value.value**2)
    computed = sowlog.compute(losses)
    assert set(totals) <= set(computed)
    for tag, value in computed.items():
        wanted = totals.get(tag.removesuffix("/weighted"), 0.0)
        wanted = wanted / 2 if tag.endswith("/weighted") else wanted
        np.testing.assert_allclose(value, wanted, rtol=2e-6, atol=1e-6, err_msg=tag)


@pytest.fixture(autouse=True)
def _uncached() -> Iterator[None]:
    """Write no random program to the cache of compilations on disk."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)


@functools.cache
def _count() -> Iterator[int]:
    return itertools.count(1)


def check(program: Program, start: float) -> None:
    x = jnp.array([start, start + 1])
    log = Log()
    result = program.plain(Dual(np.asarray(x, float), np.ones(2)), log)
    metrics = [entry for entry in log.entries if entry.kind != "loss"]
    losses = [entry for entry in log.entries if entry.kind == "loss"]
    without = jax.jit(program.run)(x)
    np.testing.assert_array_equal(without, result.value)

    def objective(x: Any) -> Any:
        y, updates = sowlog.collect(program.run)(x)
        return sowlog.total_loss(updates), (y, updates)

    forward = objective
    if program.reverse:

        def forward(x: Any) -> Any:
            (total, aux), gradient = jax.value_and_grad(objective, has_aux=True)(x)
            return total, (*aux, gradient)

    for run in (objective, jax.jit(forward)):
        total, (y, updates, *gradients) = run(x)
        np.testing.assert_array_equal(y, without)
        _assert_metrics(updates["metrics"], metrics)
        _assert_losses(updates["losses"], losses)
        wanted = sum(entry.share * np.sum(entry.value.value**2) / 2 for entry in losses)
        np.testing.assert_allclose(total, wanted, rtol=2e-6)
        for gradient in gradients:
            slope = sum(
                (entry.share * entry.value.value * entry.value.slope for entry in losses), np.zeros(2)
            )
            np.testing.assert_allclose(gradient, slope, rtol=2e-5, atol=1e-5)


@settings(max_examples=CASES, print_blob=True, suppress_health_check=list(HealthCheck))
@given(programs(), st.integers(0, 5))
def test_a_random_program_sows_what_it_means(program: Program, start: int) -> None:
    """Its values, losses and gradients, eager and under jit and grad; and its result is unchanged."""
    note(program.text)
    check(program, float(start))
    if next(_count()) % 100 == 0:
        jax.clear_caches()  # compiled programs would fill the memory of a long run
