"""Random compositions of transforms sow what plain Python loops of the same meaning sow.

`make fuzz` has 20 000 of them; SOWLOG_SEED repeats a run.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st

import sowlog
from sowlog._tree.tags import leaves_by_tag
from tests.support.interpreting import evaluate
from tests.support.programs import Dual, Entry, Log, Program, programs

# Each of these many groups is a test, so that processes share them.
GROUPS = 4
# Objects that tests/conftest.py freezes are no referrers to the garbage collector, which older versions of
# Hypothesis ask whether a generator of random numbers is kept.
pytestmark = pytest.mark.filterwarnings("ignore:It looks like `register_random`")
CASES = int(os.environ.get("SOWLOG_FUZZ", "40"))
COMPILED = max(2, CASES // 1000)
SEED = int(os.environ.get("SOWLOG_SEED", secrets.randbelow(2**32)))


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


def _objective(program: Program) -> Callable[[Any], Any]:
    """Return the function to the sum of the losses, with the result and the sown states beside it.

    Its second argument is the cadence: a flag for all statistics, or none.
    """

    def objective(x: Any, *due: Any) -> Any:
        y, updates = sowlog.collect(program.run, due=due[0] if due else None)(x)
        return sowlog.total_loss(updates), (y, updates)

    return objective


def _forward(program: Program) -> Callable[[Any], Any]:
    """Return the same with the gradient of that sum, where JAX has it."""
    objective = _objective(program)
    if not program.reverse:
        return objective

    def forward(x: Any, *due: Any) -> Any:
        (total, aux), gradient = jax.value_and_grad(objective, has_aux=True)(x, *due)
        return total, (*aux, gradient)

    return forward


def _assert_meant(program: Program, x: Any, results: Any, *, is_due: bool = True) -> None:
    """The results, the states, the losses and the gradient are those of the program in plain Python.

    All statistics are absent where they are not due.
    """
    log = Log()
    meant = program.plain(Dual(np.asarray(x, float), np.ones(2)), log)
    metrics = [entry for entry in log.entries if is_due and entry.kind != "loss"]
    losses = [entry for entry in log.entries if entry.kind == "loss"]
    total, (y, updates, *gradients) = results
    np.testing.assert_array_equal(y, meant.value)
    _assert_metrics(updates["metrics"], metrics)
    _assert_losses(updates["losses"], losses)
    wanted = sum(entry.share * np.sum(entry.value.value**2) / 2 for entry in losses)
    np.testing.assert_allclose(total, wanted, rtol=2e-6)
    for gradient in gradients:
        slope = sum((entry.share * entry.value.value * entry.value.slope for entry in losses), np.zeros(2))
        np.testing.assert_allclose(gradient, slope, rtol=2e-5, atol=1e-5)


def _input(start: int) -> np.ndarray:
    return np.array([start, start + 1], np.float32)


def _settings(cases: int) -> settings:
    return settings(max_examples=cases, print_blob=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_random_program_sows_what_it_means(group: int) -> None:
    """Its values, losses and gradient, traced by JAX and evaluated in NumPy."""

    @_settings(-(-CASES // GROUPS))
    @seed(SEED + group)
    @given(programs(), st.integers(0, 5), st.sampled_from([(), (True,), (False,)]))
    def check(program: Program, start: int, due: tuple[bool, ...]) -> None:
        note(program.text)
        arguments = (_input(start), *map(np.asarray, due))
        jaxpr, shapes = jax.make_jaxpr(_forward(program), return_shape=True)(*arguments)
        results = jax.tree.unflatten(jax.tree.structure(shapes), evaluate(jaxpr, *arguments))
        _assert_meant(program, arguments[0], results, is_due=all(due))

    print(f"SOWLOG_SEED={SEED}")  # shown if it fails
    check()


@pytest.fixture
def _uncached() -> Iterator[None]:
    """Write no random program to the cache of compilations on disk."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)
    jax.clear_caches()


@pytest.mark.usefixtures("_uncached")
@_settings(COMPILED)
@given(programs(), st.integers(0, 5))
def test_a_random_program_is_compiled_to_what_it_means(program: Program, start: int) -> None:
    """The same by XLA, eager and under jit; and its result is that without collect."""
    note(program.text)
    x = jnp.asarray(_input(start))
    np.testing.assert_array_equal(jax.jit(program.run)(x), program.plain(Dual(x, x), Log()).value)
    for run in (_objective(program), jax.jit(_forward(program))):
        _assert_meant(program, x, run(x))
