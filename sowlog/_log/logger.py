"""The logger: step and metrics in, records out, with the training thread free at once."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Self

import jax
import jax.core
import numpy as np
from numpy.typing import NDArray

from sowlog._events.png import require_encoder
from sowlog._log.background import Background
from sowlog._log.delivery import Delivery
from sowlog._log.hparams import check_hparams
from sowlog._log.images import check_image
from sowlog._log.item import Item, allow_transfers, start_copy
from sowlog._log.metrics import prepare
from sowlog._log.pending import OnFull, check_bounds
from sowlog._reduce.values import shown
from sowlog.writers import Writer
from sowlog.writers._arguments import check_count, check_resume, check_writers
from sowlog.writers.record import Ending
from sowlog.writers.tensorboard import TensorBoardWriter

_QUEUE_SIZE = 1024
# What an event file can hold.
_MIN_STEP, _MAX_STEP = -(2**63), 2**63 - 1


class Logger:
    """Writes the metrics of each step without making training wait.

    `log(step, metrics)` starts the copy off the device, queues it and returns; a thread of the logger's
    own waits for the values and writes them. What a killed process loses is what is still queued: at most
    `queue_size` steps and the one being written.

    KeyboardInterrupt may come at any place: all that was logged is written, and the logger can be closed. A
    signal handler that logs, flushes or closes should only set a flag for the training loop: where it
    interrupts a call of the same logger on its own thread, a flush or a close may raise RuntimeError.

    Args:
        logdir: the folder of this run, on this machine; made if it is not there, `~` expanded.
        writers: where records go; a TensorBoardWriter on `logdir` if not given.
        every: log only the steps that are a multiple of it; the others cost nothing.
        queue_size: how many steps may wait for the writers, and how many are kept for one that stalls.
        on_full: what `log` does when so many wait: "block" until there is room, "drop_oldest" of them, or
            raise an "error". What is dropped is counted in the scalar `sowlog/dropped`, and `close` warns.
        resume_from: the first step that will be logged when a run continues. Its series then show
            these steps once: what an earlier, interrupted process logged at and after it is superseded. Of
            several loggers in one folder give it to each, and make all before the first is closed: one
            that comes later hides what the others logged anew, and its close brings a LossWarning. Without
            it, steps that the folder holds already bring a LossWarning, since TensorBoard hides one of the
            two.

    Raises:
        OSError: if the run's file cannot be made.
        ValueError: for `every`, `queue_size` or `on_full` out of range, for a `logdir` such as
            `gs://bucket/run`, and for `resume_from` with `writers` of your own, which take it themselves.

    Example:
        >>> import tempfile, sowlog
        >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
        ...     for step in range(3):
        ...         log(step, {"loss": 1.0 / (step + 1)})

        With writers of one's own, here one that keeps the records:

        >>> import sowlog.testing
        >>> memory = sowlog.testing.MemoryWriter()
        >>> with sowlog.Logger("unused", writers=[memory]) as log:
        ...     log(0, {"loss": 1.0})
        ...     log
        <Logger to MemoryWriter, open>
        >>> memory.records
        [<Record at step 0: loss=1>]
    """

    def __init__(
        self,
        logdir: str | PathLike[str],
        *,
        writers: Sequence[Writer] | None = None,
        every: int = 1,
        queue_size: int = _QUEUE_SIZE,
        on_full: OnFull = "block",
        resume_from: int | None = None,
    ) -> None:
        self._place = str(logdir)
        # All arguments first: a file, once begun, shows in TensorBoard, and a restart in it hides points.
        self._every = check_count(every, "every", "it must be 1 step or more")
        check_bounds(queue_size, on_full)
        resume_from = check_resume(resume_from)
        own = None
        if writers is None:
            writers = [own := TensorBoardWriter(logdir, resume_from=resume_from)]
        elif resume_from is not None:
            raise ValueError(
                "resume_from was given together with writers: give it to the writer, as in "
                f"Logger(logdir, writers=[TensorBoardWriter(logdir, resume_from={resume_from}), ...])."
            )
        self._has_hparams = False
        writers = check_writers(writers)
        if own is None:
            self._place = ", ".join(type(writer).__name__ for writer in writers)
        self._delivery = Delivery(writers, max_pending=queue_size)
        try:
            self._background = Background(
                self._delivery.deliver,
                self._delivery.close,
                size=queue_size,
                on_full=on_full,
                on_drop=self._delivery.count_drop,
                context=allow_transfers,
            )
        except BaseException:
            # The system may refuse a thread.
            if own is not None:
                own.discard()
            raise
        # A logger that is dropped without close still writes all; its thread then ends by itself.
        weakref.finalize(self, self._background.end_soon).atexit = False

    def __call__(self, step: int, metrics: Any) -> None:
        """Log the metrics of one step.

        Args:
            step: a Python or NumPy integer within int64.
            metrics: what `sowlog.pack` returned in the step, or any nested dict of states, scalars and
                arrays. Its device arrays must not be donated afterwards. A name should stay scalar or
                histogram: a tag that is both is written as such, and TensorBoard shows the kind that came
                first.

        Raises:
            WriterError: if a writer failed at an earlier step. This step is queued all the same.
            QueueFullError: if the queue is full and `on_full` is "error".
            TimeoutError: if it is full, and device or disk hang.
            TypeError: if the step is no integer, or lives on a device; or a metric is no real number, array
                or state, or is traced: inside jit, return what `sowlog.pack` returns and log it outside.
            ValueError: if it is beyond int64; or a metric has no name, the name of another, or is too large.
            RuntimeError: after `close`, and for an array that was donated before the call.

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
        if type(step) is not int or not _MIN_STEP <= step <= _MAX_STEP:
            step = _checked_step(step)
        if step % self._every:
            self._background.check()
            return
        packed, scalars = prepare(metrics)
        # The buffer of a packed tree that was fetched is NumPy's.
        buffer: Any = packed and packed.buffer
        if isinstance(buffer, jax.Array):
            start_copy(buffer)
        self._background.put(Item(step, wall_time, packed, scalars))

    def image(self, step: int, tag: str, image: jax.Array | NDArray[Any]) -> None:
        """Log an image, or a batch of images, of one step.

        As for metrics, the copy off the device is started and queued; a thread of the logger's own waits
        for it and encodes it as PNG, with Pillow: `pip install 'sowlog[images]'`. Images of 32 MiB, or those
        of one call, may wait for that; beyond it `on_full` decides, as it does for a full queue.

        Args:
            step: as for `log`, and under the same `every`.
            tag: its tag; those of a batch are `tag/00`, `tag/01` ...
            image: shape [H, W], [H, W, C] or, as a batch, [N, H, W, C], where C is 1 (grey), 3 (RGB) or
                4 (RGB and opacity). uint8, or floating-point numbers from 0 to 1, beyond which they are cut
                off; bool is 0 and 1. A device array must not be donated afterwards.

        Raises:
            ModuleNotFoundError: if Pillow is not installed.
            ValueError: if it has another shape, or no tag.
            TypeError: if it is no array, or of another dtype.
            Exception: all else as for `log`.

        Example:
            >>> import tempfile, jax.numpy as jnp, sowlog
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.image(0, "ramp", jnp.linspace(0, 1, 64).reshape(8, 8))
            ...     log.image(0, "samples", jnp.zeros((4, 8, 8, 3)))
        """
        wall_time = time.time()
        require_encoder()
        step = _checked_step(step)
        pixels = check_image(tag, image)
        if step % self._every:
            self._background.check()
            return
        if isinstance(pixels.array, jax.Array):
            start_copy(pixels.array)
        self._background.put(Item(step, wall_time, pixels=pixels))

    def hparams(self, values: Mapping[str, Any], metrics: Sequence[str] = ()) -> None:
        """Tell what this run was started with, for the table of runs in TensorBoard's HParams tab.

        It goes into the run's own event file, never dropped or refused however full the queue, and a run is a
        row as soon as it began. How it ended is written at `close`: a success, or a failure if an exception
        left the `with` block. After Ctrl-C or `sys.exit` no ending is written, since such a run may go on.
        TensorBoard keeps the first hyperparameters and the first ending of a folder, so log those of a
        resumed run again, unchanged.

        Args:
            values: settings by name, in a dict or another mapping, such as a ConfigDict. A nested mapping
                makes dotted names. Lists, None, NaN and infinity are shown as text, and so are dtypes, paths,
                functions and other objects that have a text of their own.
            metrics: tags of scalars that this run logs, of which the table shows the last point; all scalars
                if none are given. TensorBoard takes the columns of one run for all, so give each run of a
                comparison the same names.

        Raises:
            TypeError: if a name or a value is of no such type.
            ValueError: if there are no values, or two have one name.
            RuntimeError: at a second call, or after `close`.
            WriterError: if a writer failed at an earlier step. The hyperparameters are queued all the same.

        Example:
            >>> import tempfile, sowlog
            >>> with sowlog.Logger(tempfile.mkdtemp()) as log:
            ...     log.hparams({"seed": 0, "optimizer": {"learning_rate": 1e-3}}, metrics=["eval/loss"])
            ...     log(100, {"eval": {"loss": 0.25}})
        """
        hparams = check_hparams(values, metrics)
        self._background.require_open()
        if self._has_hparams:
            raise RuntimeError(
                "log.hparams was called a second time, and TensorBoard shows only the first: "
                "give all hyperparameters of a run in one call."
            )
        # As put raises an earlier step's error, these are queued all the same.
        self._has_hparams = True
        self._background.put(Item(0, time.time(), hparams=hparams), is_kept=True)

    def flush(self) -> None:
        """Return when all that was logged before is on disk.

        Raises:
            WriterError: if some of it was lost; the message says how much.
            TimeoutError: if device or disk hang.

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
        """Write all that was logged, and close the writers; closing again does nothing.

        Args:
            ending: how a run that told its hparams ended, "success" or "failure"; None tells nothing, of a
                run that is to go on.

        Raises:
            WriterError: if some was lost since the last flush; the message says how much.
            TimeoutError: if device or disk hang.

        Example:
            >>> import tempfile, sowlog
            >>> log = sowlog.Logger(tempfile.mkdtemp())
            >>> log.hparams({"learning_rate": 10.0})
            >>> log(0, {"loss": float("nan")})
            >>> log.close(ending="failure")
        """
        if self._has_hparams and ending is not None:
            self._delivery.end_with(Item(0, time.time(), ending=ending))
        self._background.end()

    def __repr__(self) -> str:
        return f"<Logger to {self._place}, {'open' if self._background.is_open else 'closed'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Ctrl-C and sys.exit are no failures of the run, which may go on from its checkpoint.
        interrupted = kind is not None and not issubclass(kind, Exception)
        try:
            self.close(ending=None if interrupted else "success" if error is None else "failure")
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"And sowlog could not write all that was logged: {failure}")


def _checked_step(step: object) -> int:
    if isinstance(step, jax.core.Tracer):
        raise TypeError(
            "the step is traced, so it has no value yet: log runs on the host, outside of jit, grad, vmap "
            "and scan. Return sowlog.pack(metrics) from the transformed function, and write "
            "log(step, packed) where it is called."
        )
    if isinstance(step, jax.Array):
        raise TypeError(
            "the step is a jax.Array, and reading it would make training wait for the device: count on the "
            "host, `for step, batch in enumerate(batches)`, or log(int(step), metrics) where waiting is fine."
        )
    if isinstance(step, bool) or not isinstance(step, int | np.integer):
        raise TypeError(
            f"the step is {shown(step)}, a {type(step).__name__}; it must be an integer: log(step, metrics)."
        )
    if not _MIN_STEP <= step <= _MAX_STEP:
        raise ValueError(f"the step is {shown(step)}; an event file holds steps of int64, up to {_MAX_STEP}.")
    return int(step)
