"""Stopping together: a signal may reach one process of a run, and none may leave the loop alone."""

import signal

import jax
import jax.numpy as jnp

from train.parallel import waits
from train.parallel.devices import Devices
from train.stop_rules import LateValues
from train.system.signals import SignalFlag

LAG = 2
"""Steps between a question and the read of its answer: one step is on the device, one is queued."""


class Agreement:
    """Ask all processes at each step whether one was signalled, and take the answer some steps later.

    The question is one number of each device, the answer their maximum: a small computation of its own
    between the steps, whose answer is the same in all processes. One process alone is not asked. While the
    batch of a step is waited for, no device can be asked, and the wait is left by `waits`.

    Args:
        stop: the signal of this process.
        devices: those of all processes.

    Attributes:
        signal: the signal that stops the run, None so far.
    """

    def __init__(self, stop: SignalFlag, devices: Devices):
        self.signal: signal.Signals | None = None
        self._stop, self._devices = stop, devices
        self._waits = waits.waits_of(stop) if jax.process_count() > 1 else None
        self._maximum = jax.jit(jnp.max, out_shardings=devices.everywhere)
        self._nothing = devices.place_per_device(0)
        self._answers = LateValues(LAG)

    def ask(self, step: int) -> signal.Signals | None:
        """Ask, and return the signal of an answer that is old enough; all processes call it at each step."""
        if self._waits is not None:
            self._waits.begin(step)
        return self._ask(step, leave=LAG)

    def settle(self, step: int) -> signal.Signals | None:
        """Ask a last time, and wait for all answers."""
        return self._ask(step, leave=0)

    def leave(self) -> signal.Signals | None:
        """Return the signal by which the wait for a batch is left; None so far."""
        return self._stop.signal if self._waits is None else self._waits.leave()

    def arrive(self) -> signal.Signals | None:
        """Return the signal by which the wait was left before this process's batch came, None if not."""
        return None if self._waits is None else self._waits.arrive()

    def _ask(self, step: int, *, leave: int) -> signal.Signals | None:
        own = self._stop.signal
        if self._waits is None:
            self.signal = own
            return own
        question = self._nothing if own is None else self._devices.place_per_device(own)
        self._answers.put(step, self._maximum(question))
        if self.signal is None:
            received = next((number for _, number in self._answers.take(leave=leave) if number), 0)
            self.signal = signal.Signals(received) if received else None
        return self.signal
