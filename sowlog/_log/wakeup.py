"""Waits for another thread, which any thread may end and Ctrl-C may interrupt."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable


class Wakeup:
    """An event that wakes one thread and is reset by the wait.

    `threading.Event` and `threading.Condition` are written in Python, and a KeyboardInterrupt inside of them
    can leave their lock held. `queue.SimpleQueue` is written in C, and its `put` is reentrant.

    A waiting thread resets the event first, then checks its condition, then waits: an event that is set
    after the check ends the wait.
    """

    def __init__(self) -> None:
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Wake the waiting thread, or else make its next wait return at once."""
        # One token is enough, so a thread that hangs collects no more.
        if self._tokens.empty():
            self._tokens.put(None)

    def reset(self) -> None:
        """Forget that the event was set."""
        while not self._tokens.empty():
            self.wait(0)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the event is set, and reset it; return False if `seconds` passed before."""
        # Beyond it the system has no such time, and the error would end the thread.
        timeout = None if seconds is None else min(seconds, threading.TIMEOUT_MAX)
        with contextlib.suppress(queue.Empty):
            self._tokens.get(timeout=timeout)
            return True
        return False


class Waiters:
    """The threads that wait for the progress of another thread."""

    def __init__(self) -> None:
        self._wakeups: dict[Wakeup, Callable[[], bool]] = {}

    def wake(self) -> None:
        """Wake each thread whose condition holds."""
        # A thread that wakes for nothing, as for each batch before a flush, costs two switches of threads.
        for wakeup, is_reached in tuple(self._wakeups.items()):
            if is_reached():
                wakeup.set()

    def wait(self, is_reached: Callable[[], bool], progress: Callable[[], object], patience: float) -> bool:
        """Wait until a condition holds; return False if it does not after `patience` s without progress.

        Args:
            is_reached: the condition, which `wake` checks on its own thread.
            progress: returns another value after each progress, with or without a `wake`.
            patience: in seconds.
        """
        wakeup = Wakeup()
        self._wakeups[wakeup] = is_reached
        try:
            while not is_reached():
                before = progress()
                if not wakeup.wait(patience) and progress() == before and not is_reached():
                    return False
            return True
        finally:
            del self._wakeups[wakeup]
