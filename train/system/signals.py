"""Stopping on request: a signal is noted, and the loop saves and leaves between two steps."""

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

REQUESTS = (signal.SIGINT, signal.SIGTERM)
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals of a lost terminal, a batch system or a limit of CPU time before a kill. Each may come again and
again, and is no order to leave at once."""

SIGNALS = (*REQUESTS, *WARNINGS)
# Seconds in which a second signal is the same request, as of a cluster that signals a job and its processes.
SAME = 1.0

Handler = Callable[[int, FrameType | None], Any]


class StopRequestedError(Exception):
    """A wait ended as a signal asks this process to leave."""

    def __init__(self, number: signal.Signals):
        super().__init__(f"stopped by {number.name}")
        self.signal = number


class Handlers:
    """Handle every signal that asks this process to leave, while it is entered.

    A warning that is ignored, as under nohup, or that another library handles, stays as it is.

    Args:
        handler: called in the main thread with the number of the signal.
    """

    def __init__(self, handler: Handler):
        self._handler = handler
        warnings = [number for number in WARNINGS if signal.getsignal(number) == signal.SIG_DFL]
        self._before = {number: signal.getsignal(number) for number in (*REQUESTS, *warnings)}

    def __enter__(self) -> Self:
        for number in self._before:
            signal.signal(number, self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Let each signal act as it did before."""
        for number, handler in self._before.items():
            # None: a handler that was not installed from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class SignalFlag:
    """Note the first signal that asks this process to leave, while it is entered.

    After Ctrl-C or SIGTERM a later one of the two acts as it always does: it ends the process at once.
    Warnings such as SIGUSR1 never do. It is this process that was asked; `agreement.Agreement` decides about
    the run.

    Attributes:
        signal: the signal that came, None so far.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._requested: float | None = None
        self._handlers = Handlers(self._note)

    def __enter__(self) -> Self:
        self._handlers.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handlers.restore()

    def request(self, number: signal.Signals) -> None:
        """Ask this process to leave, as by a signal; called from any thread."""
        self.signal = self.signal or number

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)
        if number in WARNINGS:
            return
        now = time.monotonic()
        if self._requested is None:
            self._requested = now
        elif now - self._requested > SAME:
            self._handlers.restore()
            signal.raise_signal(number)
