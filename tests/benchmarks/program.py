"""The cost of the program's loop beside its steps: data, logging, evaluations and checkpoints."""

from __future__ import annotations

import functools
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from sowlog.testing import MemoryWriter
from sowlog.writers import Record
from tests.benchmarks.measure import Line, Size, cost_of, interleave, paired_ratio, spread_of
from tests.benchmarks.memory import resident_mib
from train import data, loop, optimizer, step, tasks
from train.config import file as config_file
from train.config.experiment import Config
from train.data import Dataset
from train.runs import folder as run_folder
from train.system import signals

_CONFIG = Path(__file__).parents[2] / "configs" / "moe_lm.yaml"
_SHARE = 0.95
_STEPS = 500
_AHEAD = 8
_SMALL = (
    *("task.layers=1", "task.width=8", "task.heads=2", "task.experts=2", "task.expert_width=8"),
    *("data.length=16", "data.batch_size=4", "data.eval_batches=2", "data.max_bytes=200000"),
)


class _Memory(MemoryWriter):
    """A writer that takes the process's memory after a fifth of the steps, and after the last."""

    def __init__(self, steps: int):
        super().__init__()
        self._mebibytes = dict.fromkeys((steps // 5, steps - 1), 0.0)

    @property
    def mebibytes(self) -> list[float]:
        return [*self._mebibytes.values()]

    def write(self, record: Record) -> None:
        if record.step in self._mebibytes:
            self._mebibytes[record.step] = resident_mib()


def measure_program(size: Size) -> list[Line]:
    """Measure the default run after its first step, against as many steps on one batch that is there."""
    is_full = size.rounds > 1
    steps = _STEPS if is_full else 10
    config = config_file.load(_CONFIG, [f"steps={steps}", *(() if is_full else _SMALL)])
    dataset = data.load(config.data, needs=config.task.needs)
    memory: list[list[float]] = []
    runs = {
        "loop": lambda: _loop(config, dataset, memory),
        "steps": _steps(config, dataset),
    }
    figures = interleave(runs, min(size.rounds, 5))
    milliseconds = spread_of([seconds / (steps - 1) * 1000 for seconds in figures["loop"]])
    ratio = paired_ratio(figures["loop"], figures["steps"])
    held = spread_of([last for _, last in memory])
    grown = spread_of([last / early for early, last in memory])
    return [
        Line(f"moe_lm, {steps} steps", milliseconds, "ms", ratio, "its steps alone", 1 / _SHARE),
        Line(f"memory after {steps} steps", held, "MB", grown, "after a fifth of them", 1.02),
    ]


def _loop(config: Config, dataset: Dataset, memory: list[list[float]]) -> float:
    """Run the program's loop and returns its seconds after the first step."""
    memory_of = _Memory(config.steps)
    with tempfile.TemporaryDirectory() as folder, run_folder.RunFolder(Path(folder), config) as run:
        outcome = loop.train(config, dataset, run, lambda results: [memory_of], signals.SignalFlag())
    memory.append(memory_of.mebibytes)
    return outcome.training


def _steps(config: Config, dataset: Dataset) -> Callable[[], float]:
    """Return a function that trains that many steps after the first one, and returns their seconds."""
    task = tasks.build(config.task)
    rule, schedule = optimizer.build(config.optimizer, steps=config.steps)
    init = step.make_init(task, rule, config)
    train_step = step.make_train_step(task, rule, schedule, config)
    batch = jax.device_put(dataset.batch(config.seed, 0))

    def run() -> float:
        state: Any = jax.block_until_ready(train_step(init(batch), batch)[0])
        return cost_of(functools.partial(_repeat, train_step, state, batch, config.steps - 1)).wall

    return run


def _repeat(train_step: step.TrainStep, state: Any, batch: Any, steps: int) -> None:
    """Make steps a few ahead of the device, as the loop does: further ahead, they slow each other down."""
    reports: deque[Any] = deque()
    for _ in range(steps):
        state, report = train_step(state, batch)
        reports.append(report.finite)
        if len(reports) > _AHEAD:
            jax.block_until_ready(reports.popleft())
    jax.block_until_ready(state)
