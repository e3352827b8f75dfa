"""Rules that end a run before its last step: no progress, or an objective that is not finite."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from train.config.experiment import EarlyStopOptions

LAG = 8
"""Steps between a step and the check of it: the device always has the others to work on."""


class Patience(NamedTuple):
    """The state of early stopping, saved with the training state, so that a resumed run decides alike.

    Attributes:
        best: float32 scalar, the best value so far, negated where higher is better.
        waited: int32 scalar, the evaluations since.
    """

    best: jax.Array
    waited: jax.Array

    @classmethod
    def new(cls) -> "Patience":
        """Return the patience of a run that was not evaluated yet."""
        return cls(jnp.float32(jnp.inf), jnp.int32(0))


class EarlyStopping:
    """End a run whose evaluations no longer get better.

    Args:
        options: the section `early_stop`; None never ends a run.
    """

    def __init__(self, options: EarlyStopOptions | None):
        self._options = options
        self._observe = None if options is None else make_observe(options)

    def observe(self, patience: Patience, values: dict[str, jax.Array]) -> Patience:
        """Return the patience after an evaluation, of which `values` holds the watched metric."""
        if self._options is None or self._observe is None:
            return patience
        return self._observe(patience, values[self._options.metric.removeprefix("eval/")])

    def is_exhausted(self, patience: Patience) -> bool:
        """Return whether the run is to end. This waits for the device, as the next step depends on it."""
        return self._options is not None and bool(jax.device_get(patience.waited) >= self._options.patience)

    def describe(self) -> str:
        """Return the reason for which a run with exhausted patience ends."""
        if self._options is None:
            return ""
        return f"{self._options.metric} did not get better in {self._options.patience} evaluations"


def make_observe(options: EarlyStopOptions) -> Callable[[Patience, jax.Array], Patience]:
    """Return the jitted function to the patience after one more value; NaN is never better."""

    @jax.jit
    def observe(patience: Patience, value: jax.Array) -> Patience:
        value = value if options.better == "lower" else -value
        is_better = value < patience.best - options.min_change
        return Patience(
            jnp.where(is_better, value, patience.best), jnp.where(is_better, 0, patience.waited + 1)
        )

    return observe


class LateValues:
    """A queue of device values, read a few steps late: the device never waits for the host.

    Every process reads a value after the same step, so each decides alike.

    Args:
        lag: values that stay in the queue, those of the newest steps.
    """

    def __init__(self, lag: int):
        self._lag = lag
        self._pending: deque[tuple[int, jax.Array]] = deque()

    def put(self, step: int, value: jax.Array) -> None:
        """Append the value of a step."""
        self._pending.append((step, value))

    def take(self, *, leave: int | None = None) -> Iterator[tuple[int, bool | int]]:
        """Yield steps with their values, the oldest first, waiting for each.

        Args:
            leave: values to leave in the queue; by default the lag, at the end of a run 0.
        """
        while len(self._pending) > (self._lag if leave is None else leave):
            step, value = self._pending.popleft()
            yield step, jax.device_get(value).item()


class FiniteCheck:
    """Find the first step that was not finite, a fixed number of steps late.

    Args:
        is_on: whether to check at all.

    Attributes:
        failed: the first step that was not finite, None so far.
    """

    def __init__(self, *, is_on: bool):
        self.failed: int | None = None
        self._is_on = is_on
        self._flags = LateValues(LAG)

    def note(self, step: int, finite: jax.Array) -> None:
        """Append a step's flag, and check those that are old enough."""
        if self._is_on:
            self._flags.put(step, finite)
            self._check(self._flags.take())

    def settle(self) -> None:
        """Check all flags that are left. This waits for the device."""
        self._check(self._flags.take(leave=0))

    def describe(self) -> str:
        """Return the failure; empty if there is none."""
        if self.failed is None:
            return ""
        return f"the objective or its gradient was not finite at step {self.failed}"

    def _check(self, flags: Iterator[tuple[int, bool | int]]) -> None:
        if self.failed is None:
            self.failed = next((step for step, is_finite in flags if not is_finite), None)
