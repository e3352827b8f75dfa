"""What the program says. With `terminal`, which it says it through, the only file that writes to one."""

import contextlib
import math
import shlex
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from train.show import viewing
from train.show.terminal import Pipe, Screen, errors, output, plain_console, say, screen
from train.sweep import table as sweep_table

__all__ = [
    "Display",
    "Pipe",
    "begun",
    "compared",
    "finished",
    "flush",
    "mistakes",
    "not_saved",
    "plain_warnings",
    "ranking",
    "screen",
    "text",
    "warning",
]

if TYPE_CHECKING:  # Mistakes are told without JAX.
    import jax

    from train.loop import Outcome
    from train.sweep.run import Point


def mistakes(lines: str) -> None:
    """Tells why the run cannot begin."""
    print(lines, file=errors(), flush=True)


def warning(line: str) -> None:
    """Tells what is otherwise than one may think, and the run goes on."""
    print(f"warning: {line}", file=errors(), flush=True)


def text(lines: str) -> None:
    """Tells what was asked for."""
    say(lines)


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


def flush() -> None:
    """Hand over to the system all that was written."""
    for stream in (output(), errors()):
        stream.flush()


def begun(folder: Path, *, is_continued: bool) -> None:
    """Tells where the run is kept."""
    say(f"{'continues' if is_continued else 'run'} {folder}")


def finished(
    outcome: "Outcome", folder: Path, *, stopped_by: signal.Signals | None, names_folder: bool = False
) -> None:
    """Tells how the run ended, what came of it and how to look at it.

    Args:
        outcome: how it ended.
        folder: the run folder.
        stopped_by: the signal that ended it.
        names_folder: whether the command named the folder, and goes on as it stands.
    """
    console = _console()
    if outcome.trained or outcome.evaluated:
        console.print(f"after {outcome.reached} steps")
        console.print(_table(outcome))
    if outcome.updates:
        console.print(_speed(outcome))
    saved = f"saved at step {outcome.step}"
    if stopped_by:
        console.print(
            f"stopped by {stopped_by.name}, {saved}; to go on, {_again(folder, names_folder)}", soft_wrap=True
        )
    if outcome.ended_early:
        console.print(f"ended early: {outcome.ended_early}\n{saved}")
    # Soft: a command that is broken in two cannot be pasted.
    console.print(viewing.of_run(folder, points=outcome.reached + 1), soft_wrap=True)


def not_saved(failures: Sequence[str], folder: Path, *, names_folder: bool = False) -> None:
    """Tells what of a run is not on disk, and how to have it tried again."""
    lines = "\n".join(f"error: {failure}" for failure in failures)
    print(f"{lines}\nto try again, {_again(folder, names_folder)}", file=errors(), flush=True)


def ranking(
    points: "Sequence[Point]", folder: Path, *, stopped_by: signal.Signals | None, names_folder: bool = False
) -> None:
    """Tells how a sweep ended: its points, the best first, how seeds spread, and how to look at them."""
    console = _console()
    console.print(_rich(sweep_table.of_points(points, digits=4)))
    for line in sweep_table.describe_seeds(points):
        console.print(line)
    if any(point.results() is None for point in points):
        how = f"stopped by {stopped_by.name}" if stopped_by else "not every point is finished"
        console.print(f"{how}; to go on, {_again(folder, names_folder)}", soft_wrap=True)
    console.print("the same in TensorBoard's HParams tab:")
    longest = max(point.config.steps for point in points)
    console.print(viewing.of_folder(folder, points=longest + 1), soft_wrap=True)


def _again(folder: Path, names_folder: bool) -> str:  # noqa: FBT001 - the one fact that it is about
    return (
        "the same command" if names_folder else f"the same command with\n--workdir {shlex.quote(str(folder))}"
    )


def _rich(made: sweep_table.Table) -> Table:
    table = Table()
    for at, title in enumerate(made.titles):
        table.add_column(title, justify="left" if at < made.settings else "right")
    for row in made.rows:
        table.add_row(*row)
    return table


def compared(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Shows a table whose first column is of the rows' titles."""
    table = Table(*columns)
    for title, cells in rows.items():
        table.add_row(title, *cells)
    _console().print(table)


def _console() -> Console:
    # Piped, a table may be as wide as it is: a file has no right edge.
    return plain_console(width=None if sys.stdout.isatty() else 1000)


def _table(outcome: "Outcome") -> Table:
    held_out, title = outcome.evaluated, "held out"
    if not held_out and outcome.latest:
        held_out, title = outcome.latest, f"held out, at step {outcome.latest_step}"
    table = Table("", "last step", *([title] if held_out else []))
    # On a narrow terminal a tag is broken, not cut: its end tells layers apart.
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for tag in held_out or outcome.trained:
        cells = [values.get(tag) for values in (outcome.trained, held_out)][: len(table.columns) - 1]
        table.add_row(tag, *map(_number, cells))
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
