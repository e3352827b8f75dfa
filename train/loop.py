"""The training loop.

Whatever is logged at step s belongs to the model after s updates: the metrics of the update that follows, and
an evaluation before it. A checkpoint of step s is taken up at s, so each point of a run that was stopped
is logged as if it had not been.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import optax

import sowlog
from train import optimizer, step, tasks
from train.checkpoint import Checkpoints
from train.config import Config
from train.data import Dataset
from train.run_folder import RunFolder
from train.step import TrainState
from train.stopping import Stop
from train.tasks import Batch, Task


class View(Protocol):
    """Who watches a run. Its values are on their way: to read one at once would make the device wait."""

    def trained(self, step: int, values: dict[str, jax.Array]) -> None:
        """Learns the values of the update made at a step."""
        ...

    def evaluated(self, step: int, values: dict[str, jax.Array]) -> None:
        """Learns the values of an evaluation."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: number of updates that its last checkpoint holds.
        trained: values of the last update by tag; empty if this process made none.
        evaluated: values of the evaluation after the last step; empty if it was stopped before.
        updates: number of updates that this process made.
        compiling: seconds until the first of them was done, nearly all of them compilation.
        training: seconds of all the others, with the evaluations and checkpoints between them.
    """

    step: int
    trained: dict[str, float]
    evaluated: dict[str, float]
    updates: int
    compiling: float
    training: float


class Trainer:
    """A run: the compiled functions, and the state that they move on.

    Args:
        config: the experiment.
        dataset: what it learns from.
        checkpoints: where its state is kept, and taken up from if one is there.
    """

    def __init__(self, config: Config, dataset: Dataset, checkpoints: Checkpoints):
        self.task: Task = tasks.build(config.task)
        rule, schedule = optimizer.build(config.optimizer, steps=config.steps)
        self._train_step = step.make_train_step(self.task, rule, schedule, seed=config.seed)
        self._evaluate = step.make_evaluate(self.task)
        self._dataset, self._seed, self._checkpoints = dataset, config.seed, checkpoints
        self._held_out = jax.device_put(dataset.held_out())
        self.state, self.step = self._begin(rule)

    def _begin(self, rule: optax.GradientTransformation) -> tuple[TrainState, int]:
        init = step.make_init(self.task, rule, seed=self._seed)
        batch = self._batch(0)
        saved = self._checkpoints.latest()
        if saved is None:
            return init(batch), 0
        return self._checkpoints.restore(saved, jax.eval_shape(init, batch)), saved

    def _batch(self, at: int) -> Batch:
        return jax.device_put(self._dataset.batch(self._seed, at))

    def update(self) -> step.Report:
        """Makes one update; returns while the device works on it."""
        self.state, report = self._train_step(self.state, self._batch(self.step))
        self.step += 1
        return report

    def evaluate(self) -> step.Report:
        """Evaluates the state on the held-out data; returns while the device works on it."""
        return self._evaluate(self.state.variables, self._held_out)

    def save(self, log: sowlog.Logger) -> None:
        """Saves the state once all that was logged before it is on disk: a resumed run misses nothing."""
        log.flush()
        with jax.transfer_guard("allow"):
            self._checkpoints.save(self.step, self.state)


def train(
    config: Config, dataset: Dataset, folder: RunFolder, view: View, stop: Stop, *, argv: Sequence[str] = ()
) -> Outcome:
    """Trains until the last step or a signal, and saves.

    Args:
        config: the experiment.
        dataset: what it learns from.
        folder: where it is kept. If its run has a checkpoint, it goes on from there.
        view: is told what happens.
        stop: ends the loop after the step in which a signal comes.
        argv: the arguments that the program was given, for the record.
    """
    with Checkpoints(folder.checkpoints, keep=config.checkpoint.keep) as checkpoints:
        trainer = Trainer(config, dataset, checkpoints)
        devices = [device.device_kind for device in jax.devices()]
        folder.write_meta(seed=config.seed, argv=argv, devices=devices, step=trainer.step)
        first = trainer.step if folder.is_continued else None
        with sowlog.Logger(folder.path, resume_from=first) as log, jax.transfer_guard("disallow"):
            return _run(config, trainer, log, view, stop)


def _run(config: Config, trainer: Trainer, log: sowlog.Logger, view: View, stop: Stop) -> Outcome:
    first, begun = trainer.step, time.perf_counter()
    trained, evaluated, compiling = {}, {}, 0.0
    while trainer.step < config.steps and not stop.signal:
        at = trainer.step
        if at % config.eval.every == 0:
            report = trainer.evaluate()
            log(at, report.packed)
            view.evaluated(at, report.shown)
        report = trainer.update()
        log(at, report.packed)
        view.trained(at, report.shown)
        trained = report.shown
        if at == first:
            jax.block_until_ready(trained)
            compiling = time.perf_counter() - begun
        if trainer.step % config.checkpoint.every == 0:
            trainer.save(log)
    jax.block_until_ready(trainer.state)
    training = time.perf_counter() - begun - compiling
    if not stop.signal:
        report = trainer.evaluate()
        log(trainer.step, report.packed)
        evaluated = report.shown
        view.evaluated(trainer.step, evaluated)
    trainer.save(log)
    return Outcome(trainer.step, _read(trained), _read(evaluated), trainer.step - first, compiling, training)


def _read(values: dict[str, jax.Array]) -> dict[str, float]:
    return {tag: float(value) for tag, value in jax.device_get(values).items()}
