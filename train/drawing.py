"""Batches of a user's loader, drawn in a thread: one that stalls holds up no request to leave."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Self

import jax

from train.data import Dataset
from train.leaving import abandoned
from train.stopping import Stop, StopRequestedError
from train.user_data import Batch, Batches

POLL = 0.2
"""Seconds between two looks for a signal while a batch is waited for."""


class Drawing:
    """A dataset whose batches are drawn in a thread of its own, one at a time, each when it is asked for.

    The main thread waits meanwhile, and Python runs handlers of signals there. It leaves the wait once a
    signal has asked this process to leave, and the thread to whatever it waits for: a daemon holds up no
    exit. Nothing is drawn ahead, as a loader may refill the buffers that it handed out. The hop costs 0.1 ms
    a batch.

    Args:
        dataset: what is drawn from.
        stop: what asks this process to leave.
        is_alone: whether this process may leave by itself; the others of a run would wait for it in a step.
    """

    def __init__(self, dataset: Dataset, stop: Stop, *, is_alone: Callable[[], bool]):
        self._dataset, self._stop, self._is_alone = dataset, stop, is_alone
        self._asked: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._drawn: queue.SimpleQueue[Batch | BaseException] = queue.SimpleQueue()
        self._is_abandoned = False
        threading.Thread(target=self._draw, name="train data", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asked.put(None)

    def batch(self, seed: int, step: int) -> Batch:
        """Return the batch of a step.

        Raises:
            StopRequestedError: a signal came, and the batch did not.
        """
        if self._is_abandoned:
            self._check()
        self._asked.put((seed, step))
        with abandoned():
            drawn = self._wait()
        if isinstance(drawn, BaseException):
            self._check()  # A signal to all processes of a job ends a loader's own first.
            raise drawn
        return drawn

    def held_out(self) -> Batch:
        """Return the held-out batches, which were read when the dataset was made."""
        return self._dataset.held_out()

    def remainder(self) -> Batch:
        """Return the held-out examples that are left over, likewise."""
        return self._dataset.remainder()

    def _wait(self) -> Batch | BaseException:
        while True:
            try:
                return self._drawn.get(timeout=POLL)
            except queue.Empty:
                self._check()

    def _check(self) -> None:
        if self._stop.signal is not None and self._is_alone():
            self._is_abandoned = True
            raise StopRequestedError(self._stop.signal)

    def _draw(self) -> None:
        while (asked := self._asked.get()) is not None:
            try:
                self._drawn.put(self._dataset.batch(*asked))
            except BaseException as error:
                self._drawn.put(error)


@contextlib.contextmanager
def interruptible(dataset: Dataset, stop: Stop) -> Generator[Dataset]:
    """Return a dataset whose draws need not be waited for; arrays in memory never stall."""
    if not isinstance(dataset, Batches):
        yield dataset
        return
    with Drawing(dataset, stop, is_alone=lambda: jax.process_count() == 1) as drawing:
        yield drawing
