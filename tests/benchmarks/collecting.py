"""The cost of collecting in the program's step of the MoE transformer, and of a flush over replicas."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sowlog
from tests.benchmarks.measure import Line, Size, cost_of, cost_of_trace, interleave, paired_ratio, spread_of
from train import optimizer, step, tasks
from train.config import file as config_file

_AGAINST = "the same step, its statistics not sown"
_CONFIG = Path(__file__).parents[2] / "configs" / "moe_lm.yaml"
_STEPS = 10
_BLOCKS = "watch.modules=[blocks]"
_PARTS = 'watch.modules=[blocks, "blocks/*"]'
_WATCH = ("watch.statistics=[rms, nonfinite]", "watch.of=[outputs, grads]")
# The modules, the steps from statistics to statistics, the first step that is run, and the target.
_WATCHED = {
    "every block watched each step": (_BLOCKS, 1, 0, 1.03),
    f"every block watched every {_STEPS}th": (_BLOCKS, _STEPS, 0, 1.01),
    "every block watched but off": (_BLOCKS, 10**6, 1, 1.005),
    "every block and its parts watched but off": (_PARTS, 10**6, 1, None),
}
_SMALL = ("task.layers=1", "task.width=8", "task.heads=2", "task.experts=2", "task.expert_width=8")


def two_devices() -> None:
    """Return a process two virtual devices; before JAX looks for them."""
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"


def measure_collecting(size: Size) -> list[Line]:
    """Measure CPU seconds of tracing, lowering and compiling the step, and of running it."""
    init, train_step, batch = _program(() if size.rounds > 1 else _SMALL)
    state = init(batch)
    rounds = min(size.rounds, 7)
    compiled: dict[str, Any] = {}

    def lower() -> float:
        return cost_of_trace(lambda: train_step().lower(state, batch)).cpu

    def compile(name: str) -> float:
        def work() -> None:
            compiled[name] = train_step().lower(state, batch).compile()

        return cost_of_trace(work).cpu

    lowering = interleave({"metrics": lower, "bare": _silently(lower)}, size.rounds)
    compiling = interleave(
        {"metrics": lambda: compile("metrics"), "bare": _silently(lambda: compile("bare"))}, rounds
    )
    running = interleave(
        {name: functools.partial(_run, function, init, batch) for name, function in compiled.items()}, rounds
    )
    scalars = len(jax.eval_shape(train_step(), state, batch)[1].packed.layout.scalars)
    return [
        _line(f"trace and lower, {scalars} scalars", lowering, 1.15),
        _line(f"trace and compile, {scalars} scalars", compiling, 1.1),
        _line(f"{_STEPS} steps, {scalars} scalars", running, None),
        *_watching(size, compiled["metrics"]),
        _collectives(copies=max(size.counts) // 50 + 1),
    ]


def _watching(size: Size, unwatched: Any) -> list[Line]:
    """Run the step with outputs and gradients of blocks watched at a cadence."""
    is_full = size.rounds > 1
    overrides = () if is_full else _SMALL
    cases = dict(itertools.islice(_WATCHED.items(), None if is_full else 1))
    runs: dict[str, Callable[[], float]] = {}
    for case, (modules, every, first, _) in cases.items():
        init, train_step, batch = _program((*overrides, *_WATCH, modules, f"watch.every={every}"))
        watched = train_step().lower(init(batch), batch).compile()
        runs[f"metrics {case}"] = functools.partial(_run, watched, init, batch, first)
        runs[f"bare {case}"] = functools.partial(_run, unwatched, init, batch, first)
    figures = interleave(runs, 2 * size.rounds)
    lines: list[Line] = []
    for case, (*_, target) in cases.items():
        of_case = {name: figures[f"{name} {case}"] for name in ("metrics", "bare")}
        line = _line(f"{_STEPS} steps, outputs and gradients of {case}", of_case, target)
        lines.append(dataclasses.replace(line, against="the same step, not watched"))
    return lines


def _program(overrides: tuple[str, ...]) -> tuple[Callable[[Any], Any], Callable[[], Any], Any]:
    config = config_file.load(_CONFIG, list(overrides))
    task = tasks.build(config.task)
    rule, schedule = optimizer.build(config.optimizer, steps=config.steps)
    batch = {"tokens": jnp.zeros((32, 65), jnp.uint8)}
    make = functools.partial(step.make_train_step, task, rule, schedule, config)
    return step.make_init(task, rule, config), make, batch


@contextlib.contextmanager
def _silence() -> Generator[None]:
    sow, sowlog.sow = sowlog.sow, lambda *_, **__: False
    try:
        yield
    finally:
        sowlog.sow = sow


def _silently(function: Callable[[], Any]) -> Callable[[], Any]:
    def silent() -> Any:
        with _silence():
            return function()

    return silent


def _run(compiled: Any, init: Callable[[Any], Any], batch: Any, first: int = 0) -> float:
    state = jax.block_until_ready(init(batch)._replace(step=jnp.int32(first)))

    def run() -> None:
        last = state
        for _ in range(_STEPS):
            last, report = compiled(last, batch)
        jax.block_until_ready((last, report))

    return cost_of(run).cpu


def _line(case: str, figures: dict[str, list[float]], target: float | None) -> Line:
    ratio = paired_ratio(figures["metrics"], figures["bare"])
    return Line(case, spread_of(figures["metrics"]), "s", ratio, _AGAINST, target)


def _collectives(*, copies: int) -> Line:
    """Count the collectives of a flush over two replicas, in the compiled program."""
    reducers = [value for value in vars(sowlog).values() if isinstance(value, sowlog.Reducer)] * copies

    def flush(x: jax.Array) -> Any:
        metrics = {str(index): reducer.of(x) for index, reducer in enumerate(reducers)}
        return sowlog.pack(sowlog.all_reduce(metrics, "replicas"))

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("replicas",))
    spec = jax.sharding.PartitionSpec
    mapped = jax.shard_map(flush, mesh=mesh, in_specs=spec("replicas"), out_specs=spec())
    text = jax.jit(mapped).lower(jnp.ones(8)).compile().as_text()
    count = spread_of([float(text.count(" all-reduce("))])
    return Line(f"collectives of a flush, {len(reducers)} metrics", count, target=3, bounds="measured")
