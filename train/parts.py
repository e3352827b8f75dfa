"""The one place that builds the parts of a run: task, batches, step, evaluation and state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax

from train import evaluation, optimizer, step, tasks
from train.config.experiment import Config
from train.data import Dataset
from train.parallel.devices import Devices
from train.step import Summary, TrainState, TrainStep
from train.tasks import Batch, Task


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
    """

    task: Task
    batch: Callable[[int], Batch]
    train_step: TrainStep
    evaluate: Callable[[TrainState], Summary]
    state: TrainState
    at: int
    result_tags: tuple[str, ...]


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
    return Parts(task, batch, train_step, evaluate, state, at, result_tags)


def _placed(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
