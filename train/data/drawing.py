"""Batches of a user's loader, drawn in a thread: one that stalls holds up no request to leave."""

import contextlib
from collections.abc import Callable, Generator
from concurrent import futures
from types import TracebackType
from typing import Self

import jax

from train.data import Dataset
from train.data.own import Batches, HostBatch
from train.data.thread import OneThread
from train.system.exits import LINGERING
from train.system.signals import SignalFlag, StopRequestedError

POLL = 0.2
"""Seconds between two looks for a signal while a batch is waited for."""


class Drawing:
    """A dataset whose batches are drawn in a thread of its own, one at a time, each when it is asked for.

    The main thread waits meanwhile, and Python runs handlers of signals there. It leaves the wait once a
    signal has asked this process to leave, and the thread to whatever it waits for: a daemon holds up no
    exit. Nothing is drawn ahead, as a loader may refill the buffers that it handed out. The hop costs 0.1 ms
    a batch.

    Args:
        dataset: the source of the batches.
        stop: what asks this process to leave.
        is_alone: whether this process may leave by itself; the others of a run would wait for it in a step.
        thread: the thread that draws, which ends with this; by default a new one.
        end: the last that is called in it.
    """

    def __init__(
        self,
        dataset: Dataset,
        stop: SignalFlag,
        *,
        is_alone: Callable[[], bool],
        thread: OneThread | None = None,
        end: Callable[[], None] = lambda: None,
    ):
        self._dataset, self._stop, self._is_alone = dataset, stop, is_alone
        self._thread, self._end = thread or OneThread(), end
        self._is_abandoned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self._thread.ask(self._end)
        self._thread.close()
        if not self._is_abandoned:
            futures.wait([ended], LINGERING)  # What a loader does at its end may take time, or hang.

    def batch(self, seed: int, step: int) -> HostBatch:
        """Return the batch of a step.

        Raises:
            StopRequestedError: a signal came, and the batch did not.
        """
        if self._is_abandoned:
            self._check()
        drawn = self._thread.ask(lambda: self._dataset.batch(seed, step))
        while not futures.wait([drawn], POLL).done:
            self._check()
        if drawn.exception() is not None:
            self._check()  # A signal to all processes of a job ends a loader's own first.
        return drawn.result()

    def held_out(self) -> HostBatch:
        """Return the held-out batches, which were read when the dataset was made."""
        return self._dataset.held_out()

    def remainder(self) -> HostBatch:
        """Return the held-out examples that are left over, likewise."""
        return self._dataset.remainder()

    def _check(self) -> None:
        if self._stop.signal is not None and self._is_alone():
            self._is_abandoned = True
            raise StopRequestedError(self._stop.signal)


@contextlib.contextmanager
def interruptible(dataset: Dataset, stop: SignalFlag) -> Generator[Dataset]:
    """Return a dataset whose draws need not be waited for; arrays in memory never stall."""
    if not isinstance(dataset, Batches):
        yield dataset
        return
    with Drawing(
        dataset,
        stop,
        is_alone=lambda: jax.process_count() == 1,
        thread=dataset.thread,
        end=dataset.end,
    ) as drawing:
        yield drawing
