"""A run as it goes."""

import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from train.show.terminal import Screen

if TYPE_CHECKING:  # Errors are reported without JAX.
    import jax


def _values(values: dict[str, float]) -> str:
    """Show the values of the whole model; those of single layers are for TensorBoard."""
    return "  ".join(f"{tag} {value:#.4g}" for tag, value in values.items() if "/" not in tag)


class Display:
    """Shows a run as it goes. A value is read once it has arrived, so that the device never waits.

    Args:
        target: where to show it.
        steps: length of the run.
    """

    def __init__(self, target: Screen, steps: int):
        self._screen, self._steps = target, steps
        self._training = _Arrival()
        self._evaluations: deque[_Arrival] = deque()
        self._pace = _Pace(steps)
        self._due = 0.0

    def trained(self, step: int, values: "dict[str, jax.Array]") -> None:
        """Note a step, and show the values that have arrived."""
        self._show_evaluations()
        now = time.perf_counter()
        if now < self._due:
            return
        self._training.send(step, values)
        if (training := self._training.take()) is not None:
            self._screen.progress(training[0], _values(training[1]), self._pace.describe(training[0], now))
            self._due = now + self._screen.interval

    def evaluated(self, step: int, values: "dict[str, jax.Array]") -> None:
        """Note an evaluation, to be shown when it is done."""
        arrival = _Arrival()
        arrival.send(step, values)
        self._evaluations.append(arrival)

    def ended(self) -> None:
        """Show the evaluations that have arrived since the last step."""
        self._show_evaluations()

    def _show_evaluations(self) -> None:
        while self._evaluations and (evaluation := self._evaluations[0].take()) is not None:
            self._evaluations.popleft()
            step, values = evaluation
            self._screen.line(f"step {step}/{self._steps}  held out: {_values(values)}")
            for tag, value in values.items():
                if not math.isfinite(value):
                    self._screen.line(f"warning: eval/{tag} is {value:g} at step {step}.")


class _Arrival:
    """Values on their way from the device, which are read when they are there."""

    def __init__(self) -> None:
        self._waiting: tuple[int, dict[str, jax.Array]] | None = None

    def send(self, step: int, values: "dict[str, jax.Array]") -> None:
        """Take values, unless others are still waiting."""
        self._waiting = self._waiting or (step, values)

    def take(self) -> tuple[int, dict[str, float]] | None:
        """Return the values that were waiting if they have arrived."""
        if self._waiting is None or not all(map(_is_ready, self._waiting[1].values())):
            return None
        import jax  # noqa: PLC0415 - errors are reported without it

        (step, values), self._waiting = self._waiting, None
        # The explicit transfer, which the loop's guard lets pass.
        return step, {tag: float(value) for tag, value in jax.device_get(values).items()}


def _is_ready(array: Any) -> bool:
    return array.is_ready()  # A method of every array that jax.Array does not declare.


class _Pace:
    """Steps per second since the first step, which compiles, was done."""

    def __init__(self, steps: int):
        self._steps = steps
        self._first: tuple[int, float] | None = None

    def describe(self, step: int, now: float) -> str:
        """Return steps per second and the time that remains; nothing yet the first time."""
        first, then = self._first = self._first or (step, now)
        if step == first:
            return ""
        rate = (step - first) / (now - then)
        return f"{rate:.1f} steps/s  {_duration((self._steps - step) / rate)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
