"""What ends a run before its last step: no progress, or an objective that is not finite."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from train.config.experiment import EarlyStopOptions


class Patience(NamedTuple):
    """What early stopping remembers.

    Attributes:
        best: float32 scalar, the best value so far, negated where higher is better.
        waited: int32 scalar, the evaluations since.
    """

    best: jax.Array
    waited: jax.Array

    @classmethod
    def new(cls) -> "Patience":
        """Returns that of a run that was not evaluated yet."""
        return cls(jnp.float32(jnp.inf), jnp.int32(0))


def make_observe(options: EarlyStopOptions) -> Callable[[Patience, jax.Array], Patience]:
    """Returns the jitted function to the patience after one more value; NaN is never better."""

    @jax.jit
    def observe(patience: Patience, value: jax.Array) -> Patience:
        value = value if options.better == "lower" else -value
        is_better = value < patience.best - options.min_change
        return Patience(
            jnp.where(is_better, value, patience.best), jnp.where(is_better, 0, patience.waited + 1)
        )

    return observe


class Waiting:
    """Decides at each evaluation whether the run goes on. It waits for the device, which nothing else does.

    Attributes:
        reason: why the run ends; empty as long as it does not.
    """

    def __init__(self, options: EarlyStopOptions | None):
        self.reason = ""
        self._options = options
        self._observe = None if options is None else make_observe(options)

    def observe(self, patience: Patience, values: dict[str, jax.Array]) -> Patience:
        """Returns the patience after an evaluation, of which `values` holds the watched metric."""
        if self._options is None or self._observe is None:
            return patience
        metric = self._options.metric
        patience = self._observe(patience, values[metric.removeprefix("eval/")])
        if jax.device_get(patience.waited) >= self._options.patience:
            self.reason = f"{metric} did not get better in {self._options.patience} evaluations"
        return patience


LAG = 8
"""Steps between a step and the look at it: the device always has the others to work on."""


class FiniteCheck:
    """Looks at each step's flag some steps later, so that a run always ends at the same step.

    Args:
        is_on: whether to look at all.

    Attributes:
        failed: the first step that was not finite, None so far.
    """

    def __init__(self, *, is_on: bool):
        self.failed: int | None = None
        self._is_on = is_on
        self._waiting: deque[tuple[int, jax.Array]] = deque()

    @property
    def reason(self) -> str:
        """Says what failed; empty as long as nothing did."""
        if self.failed is None:
            return ""
        return f"the objective or its gradient was not finite at step {self.failed}"

    def note(self, step: int, finite: jax.Array) -> None:
        """Takes a step's flag, and looks at the one that is old enough."""
        if self._is_on:
            self._waiting.append((step, finite))
            self._look(LAG)

    def check_all(self) -> bool:
        """Looks at all flags that are left; waits for the device. Returns whether all steps were finite."""
        self._look(0)
        return self.failed is None

    def _look(self, leave: int) -> None:
        while len(self._waiting) > leave and self.failed is None:
            step, finite = self._waiting.popleft()
            if not jax.device_get(finite):
                self.failed = step
