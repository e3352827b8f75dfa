"""Noticing that training has diverged, without making the device wait."""

from collections import deque

import jax

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
