"""Stopping on request: a signal is noted, and the loop leaves when its step is done."""

import signal
import time
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds in which a second signal is the same request, as of a cluster that tells a job and its processes.
SAME = 1.0


class Stop:
    """Notes the first SIGINT or SIGTERM while it is entered; a later one acts as it always does.

    It is this process that was asked; `agreement.Agreement` decides about the run.

    Attributes:
        signal: what came, None so far.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._noted = 0.0
        self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._noted = signal.Signals(number), now
        elif now - self._noted > SAME:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
