"""Sweeps: one experiment with settings varied, a run folder for each point of the product.

The state of a sweep is in its run folders, so the same command continues it: a point
with results is finished, the sweep waits for one that another process trains, and trains all others, from
their checkpoints if they have any. Only the points import JAX.
"""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from train.runs import folder as run_folder
from train.sweep.plan import Point
from train.system.signals import Handlers

# Seconds between two looks at the running points.
_INTERVAL = 0.1


class Worker(Protocol):
    """The process or job that trains a point."""

    def ended(self) -> bool:
        """Return whether it is over, without waiting."""
        ...

    def stop(self, number: signal.Signals) -> None:
        """Ask it to save and end."""
        ...

    def verdict(self) -> str:
        """Return its end, once it is over: "stopped" after a signal, else the failure."""
        ...


class SweepView(Protocol):
    """The view of a sweep."""

    def begun(self, point: Point, *, is_continued: bool) -> None:
        """Show that a point is being trained."""
        ...

    def waits(self, point: Point) -> None:
        """Show that another process trains a point."""
        ...

    def finished(self, point: Point) -> None:
        """Show a point that has its results."""
        ...

    def failed(self, point: Point, verdict: str, *, since: int | None = None) -> None:
        """Show the failure of a point without results.

        Args:
            point: the point.
            verdict: "stopped" after a signal, else the failure.
            since: bytes that its log had before; None if it was not begun.
        """
        ...


class Sweep:
    """Trains the points that are not finished, a few at a time.

    Args:
        points: the points to train.
        start: starts the worker of a point.
        view: the view of the sweep.
        jobs: the number of points that are trained at a time.

    Attributes:
        signal: the signal that ends the sweep, None so far.
        unfinished: points that failed, or were stopped.
    """

    def __init__(
        self, points: Sequence[Point], start: Callable[[Point], Worker], view: SweepView, *, jobs: int
    ):
        self.signal: signal.Signals | None = None
        self.unfinished: list[Point] = []
        self._start, self._view, self._jobs = start, view, jobs
        self._waiting = [point for point in points if not point.results()]
        self._running: dict[Path, tuple[Point, Worker, int]] = {}
        self._reported: set[Path] = set()

    def run(self) -> None:
        """Train until every point has ended, or was stopped by a signal to this process."""
        with Handlers(self._forward):
            while self._running or (self._waiting and not self.signal):
                for point, worker, begun in list(self._running.values()):
                    if worker.ended():
                        del self._running[point.path]
                        self._judge(point, worker, begun)
                self._fill()
                time.sleep(_INTERVAL)

    def _forward(self, number: int, _: FrameType | None) -> None:
        """Forward a signal to every worker, and a second one too, which ends a point without saving."""
        self.signal = self.signal or signal.Signals(number)
        for _point, worker, _begun in self._running.values():
            worker.stop(signal.Signals(number))

    def _fill(self) -> None:
        """Start points as far as there is room, and later those that other processes train now."""
        for point in list(self._waiting):
            if self.signal or len(self._running) >= self._jobs:
                return
            if run_folder.is_taken(point.path):
                self._report_wait(point)
                continue
            self._waiting.remove(point)
            if point.results():  # Another process has finished it.
                self._view.finished(point)
                continue
            try:
                self._begin(point)
            except OSError as error:
                self.unfinished.append(point)
                self._view.failed(point, f"cannot be begun: {error}")

    def _begin(self, point: Point) -> None:
        point.path.mkdir(parents=True, exist_ok=True)
        begun = point.log.stat().st_size if point.log.exists() else 0
        self._view.begun(point, is_continued=bool(begun))
        worker = self._start(point)
        self._running[point.path] = point, worker, begun
        # A signal that came between the start and the line before reached no worker.
        if self.signal:
            worker.stop(self.signal)

    def _report_wait(self, point: Point) -> None:
        """Report once that another process trains a point."""
        if point.path not in self._reported:
            self._reported.add(point.path)
            self._view.waits(point)

    def _judge(self, point: Point, worker: Worker, begun: int) -> None:
        if point.results():
            self._view.finished(point)
        elif run_folder.is_taken(point.path):  # Another process was faster.
            self._waiting.append(point)
        else:
            self.unfinished.append(point)
            self._view.failed(point, worker.verdict(), since=begun)
