"""The writing of metrics and checkpoints: training survives a failure, and the end of the run reports it."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax

import sowlog
from train.config.errors import RunWarning, one_line
from train.config.experiment import Config
from train.runs import tabs
from train.runs.checkpoint import Checkpoints, NotSavedError
from train.runs.provenance import Start
from train.runs.tabs import Charts


class Saver:
    """Logs metrics, and saves states once all earlier points are on disk: a resumed run misses no point.

    A full disk must not end a run of days. So a failed write is a warning: the logger keeps the records, and
    the next save retries records and checkpoint. All processes of a run write a checkpoint together, so with
    several processes an error ends the run.

    Args:
        log: the logger of the metrics.
        checkpoints: the checkpoints of the states.
        every: steps between two saves.
        steps: length of the run, which ends with a save.

    Attributes:
        failures: failed writes, each in a line; empty if none failed, or all are retried.
    """

    def __init__(self, log: sowlog.Logger, checkpoints: Checkpoints, *, every: int, steps: int):
        self.failures: list[str] = []
        self._log, self._checkpoints = log, checkpoints
        self._every, self._steps = every, steps

    def log(self, step: int, metrics: Any, *, images: dict[str, jax.Array] | None = None) -> None:
        """Log the metrics of a step, and images by tag: an image [H, W, C], or a grid [R, N, H, W, C]."""
        self._queue(lambda: self._log(step, metrics))
        for tag, image in (images or {}).items():
            show = self._log.grid if image.ndim == 5 else self._log.image
            self._queue(functools.partial(show, step, tag, image))

    def log_confusion(self, step: int, matrix: jax.Array | None) -> None:
        """Log the confusion matrix of an evaluation, if its task has one."""
        if matrix is not None:
            self._queue(lambda: self._log.confusion(step, "eval/confusion", matrix))

    def describe(self, config: Config, start: Start) -> None:
        """Log the configuration and the versions of a new run."""
        text, versions = tabs.configuration(config), tabs.versions(start)
        self._queue(lambda: self._log.text(0, "run/configuration", text))
        self._queue(lambda: self._log.table(0, "run/versions", versions))

    def log_charts(self, charts: Charts) -> None:
        """Log the charts of the run."""
        self._queue(lambda: self._log.layout(charts))

    def save(self, step: int, state: Any, *, is_last: bool = False) -> None:
        """Save a state, or report why it is not saved."""
        try:
            self._flush()
            with jax.transfer_guard("allow"):
                self._checkpoints.save(step, state)
        except (sowlog.WriterError, NotSavedError) as error:
            if jax.process_count() > 1:
                raise
            self._report(step, error, is_last=is_last)

    def saved(self) -> int:
        """Return the number of updates that the last checkpoint holds."""
        return self._checkpoints.newest or 0

    def close(self, ending: Any) -> None:
        """Write all that was logged, and close the logger."""
        try:
            self._log.close(ending=ending)
        except sowlog.WriterError as error:
            self.failures.append(f"{_describe(error)}.")

    def _queue(self, log: Callable[[], None]) -> None:
        try:
            log()
        except sowlog.WriterError as error:  # Of an earlier step: this one is queued.
            self._note(error)

    def _flush(self) -> None:
        try:
            self._log.flush()
        except sowlog.WriterError as error:
            self._note(error)
            # The loss is reported. This raises if records still wait: no checkpoint passes them.
            self._log.flush()

    def _note(self, error: sowlog.WriterError) -> None:
        if error.lost:
            self.failures.append(f"{_describe(error)}.")
            warnings.warn(f"{_describe(error)}.", RunWarning, stacklevel=2)

    def _report(self, step: int, error: Exception, *, is_last: bool) -> None:
        last = (
            f"the last checkpoint is of step {self.saved()}" if self.saved() else "there is no checkpoint yet"
        )
        if is_last:
            # Late records are lost when the logger closes, which reports their number and the cause.
            late = isinstance(error, sowlog.WriterError)
            cause = "not all that was logged before it could be written" if late else _describe(error)
            self.failures.append(f"step {step} is not saved: {cause}; {last}.")
            return
        due = min(step // self._every * self._every + self._every, max(self._steps, step))
        warnings.warn(
            f"step {step} is not saved: {_describe(error)}. Training goes on; {last}, and the next is tried "
            f"at {'the end' if due == step else f'step {due}'}.",
            RunWarning,
            stacklevel=2,
        )


def _describe(error: Exception) -> str:
    return one_line(" ".join([str(error), *getattr(error, "__notes__", [])])).rstrip(".")
