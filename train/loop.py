"""The training loop: batch, step, log, save, and every so often an evaluation.

The values logged at step s belong to the model after s updates: the metrics of the next update, and an
evaluation before it. A run resumes from a checkpoint of step s at step s, so a stopped and resumed run logs
the points of an uninterrupted one.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jax

from sowlog.writers import Writer
from train import data, evaluation
from train.config.errors import RunWarning
from train.config.experiment import Config
from train.config.schedule import with_end
from train.data import Dataset
from train.data.drawing import interruptible
from train.parallel.agreement import Agreement
from train.parallel.devices import Devices
from train.parts import Parts, assemble
from train.rates.compilations import Compilations
from train.rates.meter import Meter
from train.runs import tabs
from train.runs.alerts import Alerts
from train.runs.checkpoint import Checkpoints
from train.runs.folder import RunFolder, SharedFolder, usable
from train.runs.log import open_log
from train.runs.outcome import Outcome
from train.runs.profiling import Profiler
from train.runs.saving import Saver
from train.step import Summary
from train.stop_rules import EarlyStopping, FiniteCheck
from train.system.signals import SignalFlag, StopRequestedError
from train.tasks import Batch

Values = dict[str, jax.Array]


def train(
    config: Config,
    dataset: Dataset,
    folder: RunFolder | SharedFolder,
    show: Callable[[Sequence[str]], Sequence[Writer]],
    stop: SignalFlag,
    *,
    devices: Sequence[Any] | None = None,
    argv: Sequence[str] = (),
    hparams: Mapping[str, Any] = MappingProxyType({}),
) -> Outcome:
    """Train until the last step, a signal or a stop rule, and save.

    Args:
        config: the experiment.
        dataset: the training and held-out batches.
        folder: the run folder. A run with a checkpoint resumes from it. Of several processes, only the one
            with the `RunFolder` writes more than its part of the checkpoints.
        show: returns the writers that show the run, from the tags of its results, the most important first.
            Of several processes, only the one with the `RunFolder` shows it.
        stop: the flag of a signal, which ends the loop after the running step or during the wait for a
            batch; of several processes, a few steps later or once all wait for the same batch.
        devices: JAX's devices to run on; by default all devices of all processes.
        argv: the arguments of the program, kept in the run folder.
        hparams: settings for TensorBoard's HParams tab, which compares runs by them.

    Raises:
        StopRequestedError: A signal came before the first batch: nothing was trained.
    """
    config, on = with_end(config, folder.decay_steps), Devices(config.sharding, devices)
    with usable(folder.path):
        checkpoints = Checkpoints(folder.checkpoints, keep=config.checkpoint.keep)
    agreement = Agreement(stop, on)
    with checkpoints, Compilations() as compiled, interruptible(dataset, agreement) as batches:
        parts = assemble(config, batches, checkpoints, on)
        meter = Meter(config.rates, parts.work, devices=on.all, local=on.local, compilations=compiled)
        start = None
        if isinstance(folder, RunFolder):
            digest = data.digest(batches, config.seed)
            start = folder.write_meta(
                seed=config.seed, argv=argv, devices=on.kinds(), step=parts.at, data=digest
            )
        logged = open_log(config, folder, parts.at, shown=lambda: show(parts.result_tags))
        with logged as (log, profiler), jax.transfer_guard("disallow"):
            if hparams:
                log.hparams(hparams)
            alerts = Alerts(stop)
            if isinstance(folder, RunFolder):
                alerts.watch(log, config.alerts)
            saver = Saver(log, checkpoints, every=config.checkpoint.every, steps=config.steps)
            if start and not parts.at:
                saver.describe(config, start)
            outcome = Loop(config, parts, saver, agreement, profiler, meter).run()
            saver.close(None if outcome.stopped_by else "failure" if outcome.diverged else "success")
            alert = alerts.ended_by if outcome.stopped_by else ""
            return replace(outcome, alert=alert, failures=tuple(saver.failures))


class Loop:
    """The loop over the steps.

    Args:
        config: the experiment.
        parts: the compiled functions, the batches and the state.
        saver: the logger of the metrics, and the checkpoints of the states.
        agreement: the signals of all processes.
        profiler: the profiler of some of the steps.
        meter: the meter of its rates.
    """

    def __init__(
        self,
        config: Config,
        parts: Parts,
        saver: Saver,
        agreement: Agreement,
        profiler: Profiler,
        meter: Meter,
    ):
        self.state, self.step = parts.state, parts.at
        self._config, self._parts, self._saver = config, parts, saver
        self._agreement, self._profiler, self._meter = agreement, profiler, meter
        self._finite = FiniteCheck(is_on=config.stop_on_nan)
        self._early = EarlyStopping(config.early_stop)
        self._trained: Values = {}
        self._evaluated: tuple[int, Values] = -1, {}

    def run(self) -> Outcome:
        """Train until the end."""
        config, ended, compiling, begun = self._config, "", 0.0, time.perf_counter()
        while self.step < config.steps and not self._agreement.ask(self.step):
            # After a checkpoint of the same step, which a resumed run takes up here.
            if self.step % config.eval.every == 0:
                values = self._evaluate()
                patience = self._early.observe(self.state.patience, values)
                self.state = self.state._replace(patience=patience)
                if self._early.is_exhausted(patience):
                    ended = self._early.describe()
                    break
            self._profiler.before(self.step)
            try:
                with self._meter.data:
                    batch = self._next_batch()
            except StopRequestedError:  # No batch came: the state is that of the step before.
                break
            self.state, summary = self._parts.train_step(self.state, batch)
            self._log(summary)
            if not compiling:
                self._meter.prepare(self.step, config.steps)
                jax.block_until_ready(summary.shown)
                compiling = time.perf_counter() - begun
                self._meter.begin(self.step)
            self.step += 1
            if self._finite.failed is not None:
                break
            if self.step % config.checkpoint.every == 0 and not self._save_if_finite():
                break
        jax.block_until_ready(self.state)
        training = time.perf_counter() - begun - compiling
        self._finish()
        return self._outcome(ended, compiling=compiling, training=training)

    def _next_batch(self) -> Batch:
        """Return the batch of the next update; data that fails costs none of the updates before it."""
        try:
            return self._parts.batch(self.step)
        except StopRequestedError:
            raise
        except Exception:
            # Of several processes, the others may have their batch and would not save.
            if jax.process_count() == 1 and self._save_if_finite():
                warnings.warn(
                    f"the data has no batch for step {self.step}. The last checkpoint is of "
                    f"step {self._saver.saved()}: mend the data, and the same command with this --workdir "
                    "goes on.",
                    RunWarning,
                    stacklevel=2,
                )
            raise

    def _log(self, summary: Summary) -> None:
        """Log an update; its values are read once the device has computed them."""
        with self._meter.logger:
            self._saver.log(self.step, summary.packed)
        if rates := self._meter.measure(self.step):
            self._saver.log(self.step, rates)
        if self.step == 0:
            tags, results = summary.packed.layout.scalars, self._parts.result_tags
            self._saver.log_charts(tabs.charts(tags, results, fold=self._config.fold))
        self._trained = summary.shown
        self._finite.note(self.step, summary.finite)
        self._profiler.after(self.step, summary.shown)

    def _evaluate(self) -> Values:
        """Evaluate the state on the held-out data and log it; return while the device computes."""
        summary = self._parts.evaluate(self.state)
        self._saver.log(self.step, summary.packed, images=summary.images)
        self._saver.log_confusion(self.step, summary.confusion)
        self._evaluated = self.step, summary.shown
        return summary.shown

    def _save_if_finite(self) -> bool:
        """Save, unless a step was not finite; return whether all were.

        Training cannot recover from a state that is not finite. A checkpoint waits for the device anyway, so
        the check costs no further wait.
        """
        self._finite.settle()
        if self._finite.failed is None:
            self._saver.save(self.step, self.state)
        return self._finite.failed is None

    def _finish(self) -> None:
        """Evaluate the last state, unless a signal ends the run, and save it."""
        self._finite.settle()
        if self._finite.failed is not None:
            return
        if not self._agreement.settle(self.step) and self._evaluated[0] != self.step:
            self._evaluate()
        self._saver.save(self.step, self.state, is_last=True)

    def _outcome(self, ended: str, *, compiling: float, training: float) -> Outcome:
        at, latest = self._evaluated[0], self._read(self._evaluated[1])
        return Outcome(
            step=self._saver.saved(),
            reached=self.step,
            trained=self._read(self._trained),
            evaluated=latest if at == self.step else {},
            updates=self.step - self._parts.at,
            compiling=compiling,
            training=training,
            ended_early=self._finite.describe() or ended,
            diverged=self._finite.failed is not None,
            stopped_by=self._agreement.signal,
            latest=latest,
            latest_step=at,
        )

    def _read(self, values: Values) -> dict[str, float]:
        numbers = jax.device_get(values)
        return {tag: float(numbers[tag]) for tag in evaluation.ranked(self._parts.task, numbers)}
