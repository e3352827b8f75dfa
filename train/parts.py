"""The one place that builds the parts of a run: task, batches, step, evaluation and state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax

import sowlog
from train import evaluation, optimizer, step, tasks
from train.config.experiment import Config
from train.data import Dataset, examples
from train.data.examples import HostBatch
from train.parallel.devices import Devices
from train.rates import flops
from train.rates.meter import Work
from train.step import Summary, TrainState, TrainStep
from train.tasks import Batch, Task, Variables


@dataclass(frozen=True)
class Parts:
    """The parts of a run, compiled for its devices.

    Attributes:
        task: the model with its loss.
        batch: the function from a step to its batch, whose copy to the devices has begun.
        train_step: the jitted training step, to which the state is donated.
        evaluate: the function from a state to the summary on all held-out data.
        state: the first state, new or of a checkpoint.
        at: the step of that state.
        result_tags: tags of the task's results, the most important first.
        work: the work of a training step.
    """

    task: Task
    batch: Callable[[int], Batch]
    train_step: TrainStep
    evaluate: Callable[[TrainState], Summary]
    state: TrainState
    at: int
    result_tags: tuple[str, ...]
    work: Work


class Restores(Protocol):
    """The source of a run's first state."""

    def restore(self, like: TrainState) -> tuple[TrainState, int] | None:
        """Return a state as `like`, of shapes with shardings, and its step; None for a new state."""
        ...


def assemble(config: Config, dataset: Dataset, checkpoints: Restores, devices: Devices) -> Parts:
    """Build the parts of a run from its configuration.

    Args:
        config: the experiment.
        dataset: the training and held-out batches.
        checkpoints: the checkpoints of the run; one of them, if there is any, has the first state.
        devices: the mesh of the run.

    Raises:
        ConfigError: The batches do not spread evenly over the devices, no evaluation has a metric that the
            task or early stopping names, or no module is as `watch` names it.
    """
    task = tasks.build(config.task)
    rule, schedule = optimizer.build(config.optimizer, steps=config.steps)
    first = dataset.batch(config.seed, 0)
    placed = devices.place_batch(first, microbatches=config.microbatches)
    held_out = [devices.place_held_out(part) for part in (dataset.held_out(), dataset.remainder())]

    shapes = jax.eval_shape(step.make_init(task, rule, config), first)
    shardings = devices.shardings(shapes)
    train_step = step.make_train_step(task, rule, schedule, config, shardings=(shardings, devices.everywhere))
    if config.watch is not None:
        jax.eval_shape(train_step, shapes, placed)
    measure = evaluation.make_evaluate(task, config, sharding=devices.everywhere)
    summary = jax.eval_shape(measure, evaluation.evaluated(shapes), *held_out)
    result_tags = evaluation.check_results(config, task, summary.packed.layout.scalars)

    def batch(at: int) -> Batch:
        return devices.place_batch(dataset.batch(config.seed, at), microbatches=config.microbatches)

    def evaluate(state: TrainState) -> Summary:
        return measure(evaluation.evaluated(state), *held_out)

    init = step.make_init(task, rule, config, shardings=shardings)
    restored = checkpoints.restore(jax.tree.map(_placed, shapes, shardings))
    state, at = restored or (init(first), 0)
    work = _work(task, config, shapes.variables, first)
    return Parts(task, batch, train_step, evaluate, state, at, result_tags, work)


def _work(task: Task, config: Config, variables: Variables, batch: HostBatch) -> Work:
    parts = config.microbatches
    part = {
        name: jax.ShapeDtypeStruct(
            (array.shape[0] // parts, *array.shape[1:]) if array.ndim else (), array.dtype
        )
        for name, array in batch.items()
    }

    def objective(params: Any, variables: Variables, batch: Batch) -> jax.Array:
        passed = step.run_forward(task, config, {**variables, "params": params}, batch, jax.random.key(0))
        return passed.loss + sowlog.total_loss(passed.updates, expect=task.losses)

    def count_flops() -> float:
        return parts * flops.of_gradient(objective, variables["params"], variables, part)

    return Work(examples.length(batch), _tokens(batch), count_flops)


def _tokens(batch: HostBatch) -> int:
    """Return the number of predicted tokens of a batch with `tokens` [B, T + 1]; 0 without such an array."""
    tokens = batch.get("tokens")
    return tokens.shape[0] * (tokens.shape[1] - 1) if tokens is not None and tokens.ndim == 2 else 0


def _placed(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
