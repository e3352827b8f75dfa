"""The training loop.

Whatever is logged at step s belongs to the model after s updates: the metrics of the update that follows, and
an evaluation before it. A checkpoint of step s is taken up at s, so each point of a run that was stopped
is logged as if it had not been.
"""

import fnmatch
import functools
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

import jax
import optax

import sowlog
from train import data, evaluation, optimizer, step, tasks
from train.config.errors import ConfigError, RunWarning, did_you_mean
from train.config.experiment import Config, EarlyStopOptions
from train.config.schedule import with_end
from train.data import Dataset
from train.data.drawing import interruptible
from train.parallel.agreement import Agreement
from train.parallel.devices import Devices
from train.runs import profiling
from train.runs.checkpoint import Checkpoints
from train.runs.folder import RunFolder, SharedFolder, usable
from train.runs.outcome import Outcome
from train.runs.profiling import Profiler
from train.runs.saving import Saver
from train.step import TrainState
from train.stop_rules import FiniteCheck, Waiting
from train.system.signals import Stop, StopRequestedError
from train.tasks import Batch, Task


class View(Protocol):
    """Who watches a run. Its values are on their way: to read one at once would make the device wait."""

    def trained(self, step: int, values: dict[str, jax.Array]) -> None:
        """Learns the values of the update made at a step."""
        ...

    def evaluated(self, step: int, values: dict[str, jax.Array]) -> None:
        """Learns the values of an evaluation."""
        ...


class Trainer:
    """A run: the compiled functions, and the state that they move on.

    Args:
        config: the experiment.
        dataset: what it learns from.
        checkpoints: where its state is kept, and taken up from if one is there.
        devices: what it runs on.

    Raises:
        ConfigError: the metric that early stopping watches is none of the evaluation's, or the batches do not
            spread evenly over the devices.
    """

    def __init__(self, config: Config, dataset: Dataset, checkpoints: Checkpoints, devices: Devices):
        self.task: Task = tasks.build(config.task)
        self._dataset, self._config, self._devices = dataset, config, devices
        rule, schedule = optimizer.build(config.optimizer, steps=config.steps)
        self.batch(0)
        self._held_out = tuple(map(devices.place_held_out, (dataset.held_out(), dataset.remainder())))
        self.state, self.step = self._begin(rule, checkpoints)
        shardings = devices.shardings(self.state), devices.everywhere
        self._train_step = step.make_train_step(self.task, rule, schedule, config, shardings=shardings)
        self._evaluate = evaluation.make_evaluate(self.task, config, sharding=devices.everywhere)
        if config.early_stop:
            self._check_watched(config.early_stop)

    def _begin(self, rule: optax.GradientTransformation, checkpoints: Checkpoints) -> tuple[TrainState, int]:
        make = functools.partial(step.make_init, self.task, rule, self._config)
        batch = self._dataset.batch(self._config.seed, 0)
        shapes = jax.eval_shape(make(), batch)
        shardings = self._devices.shardings(shapes)
        like = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        return checkpoints.restore(like) or (make(shardings=shardings)(batch), 0)

    def _check_watched(self, options: EarlyStopOptions) -> None:
        shown = jax.eval_shape(self._evaluate, self.state.variables, *self._held_out).shown
        if options.metric.removeprefix("eval/") not in shown:
            packed = jax.eval_shape(self._evaluate, self.state.variables, *self._held_out).packed
            near = did_you_mean(options.metric, packed.layout.scalars)
            raise ConfigError([f"early_stop.metric: no evaluation has {options.metric}{near}"])

    def batch(self, at: int) -> Batch:
        """Returns the batch of a step on its way to the devices."""
        batch = self._dataset.batch(self._config.seed, at)
        return self._devices.place_batch(batch, microbatches=self._config.microbatches)

    def update(self, batch: Batch) -> step.Report:
        """Makes one update; returns while the device works on it."""
        self.state, report = self._train_step(self.state, batch)
        self.step += 1
        return report

    def evaluate(self) -> step.Report:
        """Evaluates the state on the held-out data; returns while the device works on it."""
        return self._evaluate(evaluation.evaluated(self.state), *self._held_out)

    def results(self) -> list[str]:
        """Returns the tags of what an evaluation shows, the most important first."""
        shown = jax.eval_shape(self._evaluate, self.state.variables, *self._held_out).shown
        return [f"eval/{tag}" for tag in self.ranked(shown)]

    def ranked(self, tags: Iterable[str]) -> list[str]:
        """Returns tags in the order of the task's results, which a jitted function's dict has lost."""
        known = list(tags)
        return list(
            dict.fromkeys(tag for glob in (*self.task.results, "*") for tag in fnmatch.filter(known, glob))
        )


def train(
    config: Config,
    dataset: Dataset,
    folder: RunFolder | SharedFolder,
    view: View,
    stop: Stop,
    *,
    devices: Sequence[Any] | None = None,
    argv: Sequence[str] = (),
    hparams: Mapping[str, Any] = MappingProxyType({}),
) -> Outcome:
    """Trains until the last step, a signal, or what ends the run early, and saves.

    Args:
        config: the experiment.
        dataset: what it learns from.
        folder: where it is kept. If its run has a checkpoint, it goes on from there. Of several processes,
            only the one with the `RunFolder` writes more there than its part of the checkpoints.
        view: is told what happens.
        stop: ends the loop after the step in which a signal comes, or as a user's loader is waited for; of
            several processes, a few steps later, and no wait.
        devices: JAX's devices to run on; by default all devices of all processes.
        argv: the arguments that the program was given, for the record.
        hparams: settings by which the run is to be compared with others, with its results.

    Raises:
        StopRequestedError: a signal came while the first batch was waited for: nothing was trained.
    """
    on, config = Devices(config.sharding, devices), with_end(config, folder.decay_steps)
    with usable(folder.path):
        checkpoints = Checkpoints(folder.checkpoints, keep=config.checkpoint.keep)
    with checkpoints, interruptible(dataset, stop) as batches:
        trainer = Trainer(config, batches, checkpoints, on)
        profile, writers, first = None, [], None
        if isinstance(folder, RunFolder):
            digest = data.digest(batches, config.seed)
            folder.write_meta(seed=config.seed, argv=argv, devices=on.kinds(), step=trainer.step, data=digest)
            profile, writers = config.profile, None
            first = trainer.step if folder.is_continued else None
        if line := profiling.describe_missed(profile, folder.path, trainer.step):
            warnings.warn(line, RunWarning, stacklevel=2)
        with usable(folder.path):
            log = sowlog.Logger(folder.path, writers=writers, resume_from=first)
        with (
            log,
            Profiler(profile, folder.path) as profiler,
            jax.transfer_guard("disallow"),
        ):
            if hparams:
                log.hparams(hparams, trainer.results())
            saver = Saver(log, checkpoints, every=config.checkpoint.every, steps=config.steps)
            outcome = _Run(config, trainer, saver, view, Agreement(stop, on), profiler).go()
            saver.close(None if outcome.stopped_by else "failure" if outcome.diverged else "success")
            return replace(outcome, failures=tuple(saver.failures))


class _Run:
    """The loop over the steps.

    Everything that could end it is looked at between two steps; what it then finds is in its attributes.
    """

    def __init__(
        self,
        config: Config,
        trainer: Trainer,
        saver: Saver,
        view: View,
        agreement: Agreement,
        profiler: Profiler,
    ):
        self._config, self._trainer, self._saver, self._view = config, trainer, saver, view
        self._agreement, self._profiler = agreement, profiler
        self._finite = FiniteCheck(is_on=config.stop_on_nan)
        self._waiting = Waiting(config.early_stop)
        self._trained: dict[str, jax.Array] = {}
        self._evaluated: dict[str, jax.Array] = {}
        self._latest: tuple[int, dict[str, jax.Array]] = 0, {}

    def go(self) -> Outcome:
        """Trains until the end."""
        trainer, first, begun, compiling = self._trainer, self._trainer.step, time.perf_counter(), 0.0
        while trainer.step < self._config.steps and not self._agreement.is_to_stop():
            if trainer.step % self._config.eval.every == 0 and self._is_stuck():
                break
            try:
                self._update()
            except StopRequestedError:  # No batch came: the state is that of the step before.
                break
            if trainer.step == first + 1:
                jax.block_until_ready(self._trained)
                compiling = time.perf_counter() - begun
            if self._finite.failed is not None or not self._save_if_due():
                break
        jax.block_until_ready(trainer.state)
        training = time.perf_counter() - begun - compiling
        self._finish()
        return Outcome(
            self._saver.saved(),
            trainer.step,
            self._read(self._trained),
            self._read(self._evaluated),
            trainer.step - first,
            compiling,
            training,
            self._finite.reason or self._waiting.reason,
            self._finite.failed is not None,
            self._agreement.signal,
            latest=self._read(self._latest[1]),
            latest_step=self._latest[0],
        )

    def _update(self) -> None:
        at = self._trainer.step
        self._profiler.before(at)
        report = self._trainer.update(self._next_batch())
        self._saver.log(at, report.packed)
        self._view.trained(at, report.shown)
        self._trained = report.shown
        self._finite.note(at, report.finite)
        self._profiler.after(at, report.shown)

    def _next_batch(self) -> Batch:
        """Returns the batch of the next update; data that fails costs none of the updates before it."""
        try:
            return self._trainer.batch(self._trainer.step)
        except StopRequestedError:
            raise
        except Exception:
            # Of several processes, the others may have their batch and would not save.
            if jax.process_count() == 1 and self._finite.check_all():
                self._save()
                warnings.warn(
                    f"the data has no batch for step {self._trainer.step}. The last checkpoint is of step "
                    f"{self._saver.saved()}: mend the data, and the same command with this --workdir goes on",
                    RunWarning,
                    stacklevel=2,
                )
            raise

    def _evaluate(self) -> dict[str, jax.Array]:
        report = self._trainer.evaluate()
        self._saver.log(self._trainer.step, report.packed, images=report.images)
        self._view.evaluated(self._trainer.step, report.shown)
        self._latest = self._trainer.step, report.shown
        return report.shown

    def _is_stuck(self) -> bool:
        """Evaluates, and says whether the run is to end as it no longer gets better."""
        shown = self._evaluate()
        state = self._trainer.state
        self._trainer.state = state._replace(patience=self._waiting.observe(state.patience, shown))
        if self._waiting.reason:
            self._evaluated = shown
        return bool(self._waiting.reason)

    def _save_if_due(self) -> bool:
        """Saves at the steps that are due; returns whether the state was fit to be saved."""
        if self._trainer.step % self._config.checkpoint.every:
            return True
        # A checkpoint waits for the device anyway, and must not hold what training cannot recover from.
        if not self._finite.check_all():
            return False
        self._save()
        return True

    def _finish(self) -> None:
        if not self._finite.check_all():
            return
        if not self._agreement.settle() and not self._evaluated:
            self._evaluated = self._evaluate()
        self._save(is_last=True)

    def _save(self, *, is_last: bool = False) -> None:
        self._saver.save(self._trainer.step, self._trainer.state, is_last=is_last)

    def _read(self, values: dict[str, jax.Array]) -> dict[str, float]:
        numbers = jax.device_get(values)
        return {tag: float(numbers[tag]) for tag in self._trainer.ranked(numbers)}
