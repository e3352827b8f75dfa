"""Batches of a user's loader, drawn in a thread, so that a stalled loader delays no request to leave."""

import contextlib
import signal
from collections.abc import Callable, Generator
from concurrent import futures
from types import TracebackType
from typing import Protocol, Self

from train.data import Dataset
from train.data.own import Batches, HostBatch
from train.data.thread import OneThread
from train.system.exits import LINGERING
from train.system.signals import SignalFlag, StopRequestedError

POLL = 0.2
"""Poll interval of signals during the wait for a batch, in seconds."""


class Leaving(Protocol):
    """The source of the signal by which the wait for a batch ends early."""

    def leave(self) -> signal.Signals | None:
        """Return the signal that ends the wait, None so far; polled during the wait."""
        ...

    def arrive(self) -> signal.Signals | None:
        """Return the signal that had ended the wait before the batch came, None to take the batch."""
        ...


class Alone:
    """Leave by the signal of this process, which has no other to ask."""

    def __init__(self, stop: SignalFlag):
        self._stop = stop

    def leave(self) -> signal.Signals | None:
        """Return the signal that came."""
        return self._stop.signal

    def arrive(self) -> signal.Signals | None:
        """Return None: a batch that came is trained on."""
        return None


class Drawing:
    """A dataset whose batches are drawn in a thread of its own, one at a time, each when it is asked for.

    The main thread waits meanwhile, and Python runs handlers of signals there. Its wait ends once a signal
    has asked the run to leave; the thread, a daemon, may wait on, and delays no exit. Nothing is drawn ahead,
    as a loader may refill the buffers that it handed out. The hop costs 0.1 ms a batch.

    Args:
        dataset: the source of the batches.
        leaving: the source of the signal by which a wait ends early.
        thread: the thread that draws, which ends with this object; by default a new one.
        end: the last call in it.
    """

    def __init__(
        self,
        dataset: Dataset,
        leaving: Leaving,
        *,
        thread: OneThread | None = None,
        end: Callable[[], None] = lambda: None,
    ):
        self._dataset, self._leaving = dataset, leaving
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
            futures.wait([ended], LINGERING)  # The end of a loader may take time, or hang.

    def batch(self, seed: int, step: int) -> HostBatch:
        """Return the batch of a step.

        Raises:
            StopRequestedError: A signal came before the batch.
        """
        if self._is_abandoned:
            self._raise_if(self._leaving.leave())
        drawn = self._thread.ask(lambda: self._dataset.batch(seed, step))
        while not futures.wait([drawn], POLL).done:
            self._raise_if(self._leaving.leave())
        if drawn.exception() is not None:
            # A signal to all processes of a job ends a loader's own first.
            self._raise_if(self._leaving.leave())
        self._raise_if(self._leaving.arrive())
        return drawn.result()

    def held_out(self) -> HostBatch:
        """Return the held-out batches, which were read when the dataset was made."""
        return self._dataset.held_out()

    def remainder(self) -> HostBatch:
        """Return the held-out examples that are left over, likewise."""
        return self._dataset.remainder()

    def _raise_if(self, number: signal.Signals | None) -> None:
        if number is not None:
            self._is_abandoned = True
            raise StopRequestedError(number)


@contextlib.contextmanager
def interruptible(dataset: Dataset, leaving: Leaving) -> Generator[Dataset]:
    """Return a dataset whose draws cannot delay a request to leave; arrays in memory never stall."""
    if not isinstance(dataset, Batches):
        yield dataset
        return
    with Drawing(dataset, leaving, thread=dataset.thread, end=dataset.end) as drawing:
        yield drawing
