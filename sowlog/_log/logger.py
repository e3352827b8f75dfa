"""The logger: step and metrics in, records out, without a wait of the training thread."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Self

import numpy as np

from sowlog._events.png import has_encoder
from sowlog._log.alarms import Alarms
from sowlog._log.alerting import Alerting
from sowlog._log.background import Background
from sowlog._log.delivery import Delivery
from sowlog._log.folding import Folding
from sowlog._log.item import Item, allow_transfers, start_copy
from sowlog._log.kinds import TagKinds
from sowlog._log.media import Media
from sowlog._log.metrics import prepare
from sowlog._log.nonfinite import OnNonfinite, check_on_nonfinite
from sowlog._log.of_run import OfRun
from sowlog._log.pending import OnFull, check_bounds
from sowlog._log.plots import Plots
from sowlog._log.stacks import Stacks
from sowlog._log.tag_budget import TagBudget
from sowlog._tree.globs import check_globs
from sowlog.writers import Writer
from sowlog.writers._arguments import MAX_STEP, MIN_STEP, check_count, check_step, check_writers
from sowlog.writers.record import Ending
from sowlog.writers.tensorboard import TensorBoard

_QUEUE_SIZE = 1024
_HEAT_MAP_EVERY = 1000
_TAG_BUDGET = 1000


class Logger(Stacks, Media, Plots, OfRun, Alerting):
    """Writes the metrics of each step without making training wait.

    `log(step, metrics)` starts the copy off the device, queues it and returns; the writer thread of the
    logger waits for the values and writes them. A killed process loses the queued steps: at most `queue_size`
    and the one being written.

    KeyboardInterrupt may be raised at any place: all logged steps are written, and the logger can be closed.
    A signal handler should set a flag, and the training loop flush or close: a flush or a close in a handler
    that interrupts another call of the same logger may raise RuntimeError.

    Args:
        logdir: the folder of this run, on this machine; created if it does not exist, with `~` expanded.
        writers: the writers of the records; by default `writers.TensorBoard` on `logdir`.
        every: log only the steps that are a multiple of it; the others cost nothing.
        queue_size: the number of steps that the queue holds, and of steps kept for a stalled writer.
        on_full: the rule for a full queue: "block" until there is room, "drop_oldest", or raise an "error".
            The scalar `sowlog/dropped` counts dropped steps, and `close` warns of them.
        resume_from: the first step that will be logged when a run continues. Each step is then shown once:
            the points that an earlier, interrupted process logged at and after it are superseded. Pass it to
            each of several loggers in one folder, and make all of them before the first is closed: a later
            one hides the new points of the others, and issues a LossWarning when it is closed. Without
            `resume_from`, a step that the folder already holds brings a LossWarning, since TensorBoard hides
            one of the two points.
        on_nonfinite: the rule for a value that becomes NaN or infinite: "warn" with a NonfiniteWarning,
            "raise" a NonfiniteError, "ignore" it, or a function, called on the logger's thread with a
            `NonfiniteOrigin`: the first such value in the order of execution, with its place and the ranges
            of its neighbors before. TensorBoard's Text tab shows the same. After one report there is no other
            until its values are finite again.
        fold: globs of the tags of families, as `"blocks/**"`: values that are stacked over layers, heads or
            experts, and tags that are equal but for a number, as `layers_0/x` and `layers_1/x`. Of several
            numbers that with the largest family counts. In place of n scalars a record has, of
            `blocks/entropy/00` ..., `blocks/entropy/p50`, `/p90` and `/max` over the layers, and in `/worst`
            the index of the largest value (the row of a heat map if several axes are stacked). NaN counts as
            the largest, then infinity, and absent values are left out. `on_nonfinite` and alerts see all
            layers, and so does a writer in `Record.unfolded`. A family is folded from the first record that
            has two of its layers. One whose new tags are in use, in whatever call, is not folded or no longer
            folded, with a TagWarning.
        heat_map_every: the number of records of a folded family between two images of it, `/layers`: a row
            for each layer, from 0 at the top (of more than 512 layers for several), and a column for each
            record or, in long runs, for several; NaN and infinity are red. One is written by `close` as well.
            Without Pillow (`pip install 'sowlog[images]'`) there is none.
        tag_budget: the number of scalar tags, as they are written, beyond which one TagWarning names the
            families to fold; None for no limit.

    Raises:
        OSError: The event file cannot be created.
        TypeError: `fold` has another type, or a number is not an integer.
        ValueError: A number, a glob, `on_full` or `on_nonfinite` is out of range, `logdir` is no local
            folder (as `gs://bucket/run`), or `resume_from` is passed with `writers`, which take it
            themselves.

    Example:
        >>> import tempfile, sowlog
        >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
        ...     for step in range(3):
        ...         log(step, {"loss": 1.0 / (step + 1)})

        With a writer that keeps the records in memory:

        >>> import sowlog.testing
        >>> memory = sowlog.testing.MemoryWriter()
        >>> with sowlog.Logger("unused", writers=[memory]) as log:
        ...     log(0, {"loss": 1.0})
        ...     log
        <Logger to MemoryWriter, open>
        >>> memory.records
        [<Record at step 0: loss=1>]

        A family of layers as four scalars and a heat map:

        >>> memory = sowlog.testing.MemoryWriter()
        >>> with sowlog.Logger("unused", writers=[memory], fold="blocks/**") as log:
        ...     log(0, {"blocks": {"entropy": [0.5, 2.0, 1.0]}})
        >>> print(memory.records[0])
        <Record at step 0: blocks/entropy/p50=1, blocks/entropy/p90=2, blocks/entropy/max=2, ...=1>
    """

    def __init__(  # noqa: PLR0913 - the options of a run
        self,
        logdir: str | PathLike[str],
        *,
        writers: Sequence[Writer] | None = None,
        every: int = 1,
        queue_size: int = _QUEUE_SIZE,
        on_full: OnFull = "block",
        resume_from: int | None = None,
        on_nonfinite: OnNonfinite = "warn",
        fold: str | Iterable[str] = (),
        heat_map_every: int = _HEAT_MAP_EVERY,
        tag_budget: int | None = _TAG_BUDGET,
    ) -> None:
        # A new event file shows in TensorBoard, and its restart hides points: arguments are checked first.
        every = check_count(every, "every", "it must be 1 step or more")
        check_bounds(queue_size, on_full)
        check_on_nonfinite(on_nonfinite)
        folding, budget = _check_tags(fold, heat_map_every, tag_budget)
        own = None
        if writers is None:
            own = TensorBoard(logdir, resume_from=resume_from)
            writers, self._place = [own], str(logdir)
        else:
            writers = check_writers(writers, resume_from)
            self._place = ", ".join(type(writer).__name__ for writer in writers)
        self._alarms = Alarms()
        self._delivery = Delivery(
            writers,
            self._alarms,
            max_pending=queue_size,
            on_nonfinite=on_nonfinite,
            folding=folding,
            budget=budget,
        )
        try:
            background = Background(
                self._delivery.deliver,
                self._delivery.close,
                size=queue_size,
                on_full=on_full,
                on_drop=self._delivery.count_drop,
                context=allow_transfers,
                on_idle=self._delivery.watch_time,
            )
        except BaseException:
            # The system may refuse to start a thread.
            if own is not None:
                own.discard()
            raise
        super().__init__(every, TagKinds(), background)
        # A logger that is collected without a close still writes its queue, and its thread ends after that.
        weakref.finalize(self, self._background.end_soon).atexit = False

    def __call__(self, step: int, metrics: Any) -> None:
        """Log the metrics of one step.

        Args:
            step: a Python or NumPy integer within int64.
            metrics: the result of `sowlog.pack` in the step, or any nested dict of states, scalars and
                arrays. Its device arrays must not be donated afterwards. A tag should stay a scalar or a
                histogram: of a tag that is both, TensorBoard shows the kind that came first.

        Raises:
            WriterError: A writer failed at an earlier step. This step is queued nevertheless.
            NonfiniteError: A value became NaN or infinite at an earlier step, and `on_nonfinite` is "raise".
            QueueFullError: The queue is full and `on_full` is "error".
            TimeoutError: The queue is full, and the device or the disk hangs.
            TypeError: The step is not an integer, or is on a device; or a metric is not a real number,
                array or state, or is traced: inside jit, return `sowlog.pack(metrics)` and log it outside.
            ValueError: The step is beyond int64; or a metric has no name, a name used twice, the tag of an
                image, a text or a PR curve, or too many elements.
            RuntimeError: The logger is closed, or an array was donated before the call.

        Example:
            >>> import jax, sowlog, sowlog.testing
            >>> train_step = jax.jit(lambda x: sowlog.pack({"loss": x * x}))
            >>> memory = sowlog.testing.MemoryWriter()
            >>> with sowlog.Logger("unused", writers=[memory]) as log:
            ...     log(0, train_step(0.5))
            ...     log(1, {"eval": {"loss": 0.125}, "learning_rate": 0.1})
            >>> memory.records
            [<Record at step 0: loss=0.25>, <Record at step 1: eval/loss=0.125, learning_rate=0.1>]
        """
        wall_time = time.time()
        if type(step) is not int or not MIN_STEP <= step <= MAX_STEP:
            step = check_step(step)
        if step % self._every:
            self._background.check()
            return
        packed, scalars = prepare(metrics)
        self._kinds.note_metrics(packed, scalars)
        # A packed tree from jax.device_get has a NumPy buffer.
        if packed is not None and not isinstance(packed.buffer, np.ndarray):
            start_copy(packed.buffer)
        self._background.put(Item(step, wall_time, packed, scalars))

    def flush(self) -> None:
        """Wait until all records logged before are on disk.

        Raises:
            WriterError: Records are lost or late; `lost` and `late` have the numbers.
            TimeoutError: The device or the disk hangs.

        Example:
            >>> import tempfile, sowlog
            >>> logdir = tempfile.mkdtemp()
            >>> with sowlog.Logger(logdir) as log:
            ...     log(0, {"loss": 0.5})
            ...     log.flush()
            ...     sowlog.read(logdir).scalars["loss"].steps
            array([0])
        """
        self._background.call(self._delivery.flush)

    def close(self, *, ending: Ending | None = "success") -> None:
        """Write all logged records, and close the writers; a second call does nothing.

        Args:
            ending: the ending written for a run with hyperparameters, "success" or "failure"; None writes no
                ending, for a run that will continue.

        Raises:
            WriterError: Records were lost since the last flush; `lost` has the number.
            TimeoutError: The device or the disk hangs.

        Example:
            >>> import tempfile, sowlog
            >>> log = sowlog.Logger(tempfile.mkdtemp())
            >>> log.hparams({"learning_rate": 10.0})
            >>> log(0, {"loss": 1e9})
            >>> log.close(ending="failure")
        """
        has_ending = self._has_hparams and ending is not None
        self._delivery.end_with(Item(0, time.time(), ending=ending) if has_ending else None)
        self._background.end()

    def __repr__(self) -> str:
        return f"<Logger to {self._place}, {'open' if self._background.is_open else 'closed'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A run may continue from its checkpoint after Ctrl-C and sys.exit, so neither is a failure.
        interrupted = kind is not None and not issubclass(kind, Exception)
        try:
            self.close(ending=None if interrupted else "success" if error is None else "failure")
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"In addition, sowlog could not write all logged records: {failure}")


def _check_tags(fold: Any, heat_map_every: Any, tag_budget: Any) -> tuple[Folding, TagBudget]:
    """Return the folding and the budget of a logger, its arguments checked."""
    globs = check_globs("fold of Logger", fold)
    every = check_count(heat_map_every, "heat_map_every", "it must be 1 record or more")
    limit = None if tag_budget is None else check_count(tag_budget, "tag_budget", "it must be 1 tag or more")
    return Folding(globs, heat_map_every=every if has_encoder() else None), TagBudget(limit)
