"""An event for one waiting thread, safe to set from any thread and to interrupt by Ctrl-C."""

from __future__ import annotations

import contextlib
import queue


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
        with contextlib.suppress(queue.Empty):
            self._tokens.get(timeout=seconds)
            return True
        return False
