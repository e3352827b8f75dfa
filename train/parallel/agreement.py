"""Stopping together: a signal may reach one process of a run, and none may leave the loop alone."""

import signal
from collections import deque

import jax
import jax.numpy as jnp

from train.parallel.devices import Devices
from train.system.signals import Stop

LAG = 2
"""Steps between a question and the look at its answer: one is on the device, and one behind it."""


class Agreement:
    """Asks all processes at each step whether one was told to stop, and takes the answer some steps later.

    The question is one number of each device, the answer their maximum: a small computation of its own
    between the steps, whose answer is the same in all processes. One process alone is not asked.

    Args:
        stop: what this process was told.
        devices: those of all processes.

    Attributes:
        signal: what the run is stopped by, None so far.
    """

    def __init__(self, stop: Stop, devices: Devices):
        self.signal: signal.Signals | None = None
        self._stop, self._devices = stop, devices
        self._is_alone = jax.process_count() == 1
        self._ask = jax.jit(jnp.max, out_shardings=devices.everywhere)
        self._nothing = devices.place_per_device(0)
        self._answers: deque[jax.Array] = deque()

    def is_to_stop(self) -> bool:
        """Asks, and takes the answer that is old enough; all processes call it at the same steps."""
        return self._advance(LAG)

    def settle(self) -> bool:
        """Asks a last time, and waits for all answers."""
        return self._advance(0)

    def _advance(self, leave: int) -> bool:
        if self._is_alone:
            self.signal = self._stop.signal
            return self.signal is not None
        told = self._stop.signal
        self._answers.append(
            self._ask(self._nothing if told is None else self._devices.place_per_device(told))
        )
        while len(self._answers) > leave and self.signal is None:
            number = int(jax.device_get(self._answers.popleft()))
            self.signal = signal.Signals(number) if number else None
        return self.signal is not None
