"""Ending a run that no longer gets better: what it remembers is saved, so that a resumed run agrees."""

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
