"""What the program says: the only file that writes to the terminal."""

import contextlib
import math
import os
import shlex
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from train.terminal import errors, output

if TYPE_CHECKING:  # Mistakes are told without JAX.
    import jax

    from train.loop import Outcome
    from train.results import Results
    from train.sweep import Point


def mistakes(lines: str) -> None:
    """Tells why the run cannot begin."""
    print(lines, file=errors(), flush=True)


def warning(line: str) -> None:
    """Tells what is otherwise than one may think, and the run goes on."""
    print(f"warning: {line}", file=errors(), flush=True)


def text(lines: str) -> None:
    """Tells what was asked for."""
    _print(lines)


@contextlib.contextmanager
def plain_warnings(*kinds: type[Warning]) -> Generator[None]:
    """Shows warnings of these kinds as lines, each time; all others as Python does."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, kinds):
            warning(str(message))
        else:
            before(message, category, *place)

    with warnings.catch_warnings():
        for kind in kinds:
            warnings.simplefilter("always", kind)
        before, warnings.showwarning = warnings.showwarning, show
        yield


def _print(lines: str) -> None:
    print(lines, file=output(), flush=True)


def flush() -> None:
    """Hand over to the system all that was written."""
    for stream in (output(), errors()):
        stream.flush()


def begun(folder: Path, *, is_continued: bool) -> None:
    """Tells where the run is kept."""
    _print(f"{'continues' if is_continued else 'run'} {folder}")


def finished(outcome: "Outcome", folder: Path, *, stopped_by: signal.Signals | None) -> None:
    """Tells how the run ended, what came of it and how to look at it."""
    console = _console()
    if outcome.trained or outcome.evaluated:
        console.print(f"after {outcome.reached} steps")
        console.print(_table(outcome))
    if outcome.updates:
        console.print(_speed(outcome))
    saved = f"saved at step {outcome.step}"
    if stopped_by:
        console.print(f"stopped by {stopped_by.name}, {saved}; to go on, the same command with")
        console.print(f"--workdir {shlex.quote(str(folder))}", soft_wrap=True)
    if outcome.ended_early:
        console.print(f"ended early: {outcome.ended_early}\n{saved}")
    # Soft: a command that is broken in two cannot be pasted.
    console.print(_tensorboard(folder, points=outcome.reached + 1), soft_wrap=True)


def not_saved(failures: Sequence[str], folder: Path) -> None:
    """Tells what of a run is not on disk, and how to have it tried again."""
    lines = "\n".join(f"error: {failure}" for failure in failures)
    print(
        f"{lines}\nto try again, the same command with\n--workdir {shlex.quote(str(folder))}",
        file=errors(),
        flush=True,
    )


def ranking(points: "Sequence[Point]", folder: Path, *, stopped_by: signal.Signals | None) -> None:
    """Tells how a sweep ended: its points, the best first, and how to look at them."""
    console = _console()
    console.print(_ranking_table(points))
    if any(point.results() is None for point in points):
        how = f"stopped by {stopped_by.name}" if stopped_by else "not every point is finished"
        console.print(f"{how}; to go on, the same command with")
        console.print(f"--workdir {shlex.quote(str(folder))}", soft_wrap=True)
    console.print("the same in TensorBoard's HParams tab:")
    longest = max(point.config.steps for point in points)
    console.print(_tensorboard(folder, points=longest + 1), soft_wrap=True)


def compared(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Shows a table whose first column is of the rows' titles."""
    table = Table(*columns)
    for title, cells in rows.items():
        table.add_row(title, *cells)
    _console().print(table)


def _console() -> Console:
    # Piped, a table may be as wide as it is: a file has no right edge.
    return Console(file=output(), highlight=False, width=None if sys.stdout.isatty() else 1000)


def _ranking_table(points: "Sequence[Point]") -> Table:
    found = {point.path: point.results() for point in points}
    best = sorted(points, key=lambda point: _rank(found[point.path]))
    tags = list(dict.fromkeys(tag for results in found.values() if results for tag in results.held_out))
    table = Table("", *points[0].values)
    for tag in tags:
        table.add_column(tag, justify="right")
    for place, point in enumerate(best, 1):
        results = found[point.path]
        held_out = {} if results is None else results.held_out
        settings = [str(value) for value in point.values.values()]
        numbers = [_number(held_out.get(tag)) for tag in tags] if results else ["not finished"]
        table.add_row(str(place) if results else "", *settings, *numbers)
    return table


def _rank(results: "Results | None") -> tuple[bool, float]:
    """Gives the place of a run's results: before those that are worse, and before none at all."""
    return results is None, math.inf if results is None else results.rank()


def _tensorboard(folder: Path, *, points: int) -> str:
    # TensorBoard shows a random 1000 points of a series, unless it is told to keep more (0 shows none).
    keep = f" --samples_per_plugin scalars={points}" if points > 1000 else ""
    return f"tensorboard --logdir {shlex.quote(str(folder))}{keep}"


def _table(outcome: "Outcome") -> Table:
    table = Table("", "last step", "held out")
    # On a narrow terminal a tag is broken, not cut: its end tells layers apart.
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for tag in outcome.evaluated or outcome.trained:
        table.add_row(tag, _number(outcome.trained.get(tag)), _number(outcome.evaluated.get(tag)))
    return table


def _speed(outcome: "Outcome") -> str:
    first = f"{outcome.compiling:.1f} s to the first step"
    rest = outcome.updates - 1
    if not rest:
        return first
    return f"{first}, {outcome.training:.1f} s for the other {rest} ({rest / outcome.training:.1f} steps/s)"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _values(values: dict[str, float]) -> str:
    """Shows the values of the whole model; those of single layers are for TensorBoard."""
    return "  ".join(f"{tag} {value:#.4g}" for tag, value in values.items() if "/" not in tag)


class Screen(Protocol):
    """Where a run is shown."""

    interval: float
    """Seconds between two states of progress."""

    def line(self, text: str) -> None:
        """Shows a line that stays."""
        ...

    def progress(self, step: int, values: str, pace: str) -> None:
        """Shows how far the run has come."""
        ...


class Pipe:
    """Plain lines, for a file, a pipe or a log of CI."""

    interval = 10.0

    def __init__(self, steps: int):
        self._steps = steps

    def line(self, text: str) -> None:
        """Shows a line that stays."""
        _print(text)

    def progress(self, step: int, values: str, pace: str) -> None:
        """Shows how far the run has come."""
        self.line(f"step {step}/{self._steps}  {values}  {pace}".rstrip())


class Terminal:
    """A live line at the bottom of a terminal."""

    interval = 0.2

    def __init__(self, steps: int, live: Progress):
        self._live = live
        self._task = live.add_task("compiling", total=steps, pace="")

    def line(self, text: str) -> None:
        """Shows a line that stays."""
        self._live.console.print(text, highlight=False)

    def progress(self, step: int, values: str, pace: str) -> None:
        """Shows how far the run has come."""
        self._live.update(self._task, completed=step, description=values, pace=pace)


@contextlib.contextmanager
def screen(steps: int) -> Generator[Screen]:
    """Gives the screen that suits standard output: live on a terminal, else plain lines, as for CI."""
    # Some CI lends a terminal, of which it keeps every state that was ever shown.
    if not sys.stdout.isatty() or os.environ.get("CI") or os.environ.get("TERM") == "dumb":
        yield Pipe(steps)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    # Transient: the table that follows says where the run ended.
    with Progress(*columns, console=Console(file=output()), transient=True) as live:
        yield Terminal(steps, live)


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
        """Notes a step, and shows what has arrived meanwhile."""
        self._show_evaluations()
        now = time.perf_counter()
        if now < self._due:
            return
        self._training.send(step, values)
        if (training := self._training.take()) is not None:
            self._screen.progress(training[0], _values(training[1]), self._pace.describe(training[0], now))
            self._due = now + self._screen.interval

    def evaluated(self, step: int, values: "dict[str, jax.Array]") -> None:
        """Notes an evaluation, to be shown when it is done."""
        arrival = _Arrival()
        arrival.send(step, values)
        self._evaluations.append(arrival)

    def ended(self) -> None:
        """Shows the evaluations that have arrived since the last step."""
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
        """Takes values, unless others are still waiting."""
        self._waiting = self._waiting or (step, values)

    def take(self) -> tuple[int, dict[str, float]] | None:
        """Gives the values that were waiting if they have arrived."""
        if self._waiting is None or not all(map(_is_ready, self._waiting[1].values())):
            return None
        import jax  # noqa: PLC0415 - mistakes are told without it

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
        """Gives steps per second and the time that remains; nothing yet the first time."""
        first, then = self._first = self._first or (step, now)
        if step == first:
            return ""
        rate = (step - first) / (now - then)
        return f"{rate:.1f} steps/s  {_duration((self._steps - step) / rate)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
