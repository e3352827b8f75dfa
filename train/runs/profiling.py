"""A window of steps under JAX's profiler, for TensorBoard's profile tab."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax


def describe_missed(window: str | None, folder: Path, step: int) -> str:
    """Return why a run that goes on at a step records no profile; empty if it does, or has one."""
    if window is None or step < int(window.partition(":")[2]) or any(folder.glob("plugins/profile/*")):
        return ""
    return f"profile={window} is not recorded, as the run goes on at step {step}: name later steps."


class Profiler:
    """Records the steps of a window, from its first to before its last.

    Args:
        window: "FIRST:LAST", or None to record nothing.
        folder: the run folder; the profile goes under its plugins/profile/.
    """

    def __init__(self, window: str | None, folder: Path):
        self._steps = range(0) if window is None else range(*map(int, window.split(":")))
        self._folder = folder
        self._is_running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Begin to record if the step is in the window; a run taken up within it records the rest."""
        if step in self._steps and not self._is_running:
            jax.profiler.start_trace(str(self._folder))
            self._is_running = True

    def after(self, step: int, result: Any) -> None:
        """End the record after the window's last step, once the device has made it."""
        if self._is_running and step + 1 not in self._steps:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._is_running:
            self._is_running = False
            jax.profiler.stop_trace()
