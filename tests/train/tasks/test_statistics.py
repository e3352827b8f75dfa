"""The program with statistics is the program without them."""

import typing
from typing import Any

import jax
import numpy as np
import pytest

import sowlog
from sowlog.testing import count_traces
from tests.support.light_compilation import compiled_fully
from tests.train.running import CONFIGS, TINY_DIGITS, TINY_GRU, TINY_MOE
from train import data, optimizer, step, tasks
from train.config import file as config_file
from train.config.own import OwnTask
from train.config.tasks import TaskOptions
from train.parallel import devices

pytestmark = pytest.mark.long

STEPS = 50
# Settings of a small task; one that is not here is trained as its file has it.
SMALL = {
    "digits": TINY_DIGITS,
    "digits_nnx": TINY_DIGITS,
    "gru": TINY_GRU,
    "moe_lm": (*TINY_MOE, "task.layers=1", "task.bias_rate=0.01"),
    "vae": ("task.hidden=[4]", "task.latents=2", "data.batch_size=8"),
    "vqvae": ("task.width=4", "task.codes=8", "data.batch_size=8"),
}
TASKS = [
    name
    for kind in typing.get_args(TaskOptions)
    if (options := typing.get_args(kind)[0]) is not OwnTask
    for name in typing.get_args(options.model_fields["name"].annotation)
]


def load(task: str) -> Any:
    return config_file.load(CONFIGS / f"{task}.yaml", [*SMALL.get(task, ()), f"steps={STEPS}"])


@pytest.mark.parametrize("name", TASKS)
def test_a_training_with_statistics_equals_one_without(name, monkeypatch) -> None:
    """After 50 steps: variables and optimizer bit for bit, and as many traces. Both sow the losses."""
    # With less optimization, XLA rounds in another way beside a statistic.
    with compiled_fully():
        _assert_equal_without_statistics(load(name), monkeypatch)


def _assert_equal_without_statistics(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = data.load(config.data)
    rule, schedule = optimizer.build(config.optimizer, steps=STEPS)
    start = step.make_init(tasks.build(config.task), rule, config)(dataset.batch(0, 0))

    def train(make: Any) -> tuple[Any, int, Any]:
        task = tasks.build(config.task)
        task.forward = count_traces(task.forward)
        train_step = make(task, rule, schedule, config)
        state = jax.tree.map(lambda leaf: leaf.copy(), start)
        for at in range(STEPS):
            state, summary = train_step(state, devices.cut(dataset.batch(0, at), config.microbatches))
        return state, task.forward.traces, summary

    with_statistics, traces, summary = train(step.make_train_step)
    monkeypatch.setattr(sowlog, "sow", lambda *args, **kwargs: False)
    without, traces_without, sown = train(_make_bare_step)
    assert len(sown) < len(summary.packed.layout.scalars)
    assert traces == traces_without == 1
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(without), strict=True)
    ]
    assert any(changed)
    for one, other in zip(_bits(with_statistics), _bits(without), strict=True):
        assert one == other


def _make_bare_step(task: Any, rule: Any, schedule: Any, config: Any) -> Any:
    """Return a step that computes the next state alone, and returns the names of its losses."""
    update = step.make_update(task, rule, schedule, config)
    names: list[str] = []

    def bare(state: Any, batch: Any) -> Any:
        state, metrics = update(state, batch)
        names[:] = sowlog.pack(metrics).layout.scalars
        return state

    jitted = jax.jit(bare, donate_argnums=0)
    return lambda state, batch: (jitted(state, batch), names)


def _bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
