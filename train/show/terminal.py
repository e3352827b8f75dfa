"""Where a run is shown, whose loss ends no run: a closed terminal, a reader that left, a full disk."""

import contextlib
import os
import sys
from collections.abc import Generator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from train.system.streams import output, say


def plain_console(width: int | None = None) -> Console:
    """Make a console to which brackets and colons in a user's text are no markup."""
    return Console(file=output(), highlight=False, markup=False, emoji=False, width=width)


class Screen(Protocol):
    """Where a run is shown."""

    interval: float
    """Seconds between two states of progress."""

    def line(self, text: str) -> None:
        """Show a line that stays."""
        ...

    def progress(self, step: int, values: str, pace: str) -> None:
        """Show how far the run has come."""
        ...


class Pipe:
    """Plain lines, for a file, a pipe or a log of CI."""

    interval = 10.0

    def __init__(self, steps: int):
        self._steps = steps

    def line(self, text: str) -> None:
        """Show a line that stays."""
        say(text)

    def progress(self, step: int, values: str, pace: str) -> None:
        """Show how far the run has come."""
        self.line(f"step {step}/{self._steps}  {values}  {pace}".rstrip())


class Terminal:
    """A live line at the bottom of a terminal."""

    interval = 0.2

    def __init__(self, steps: int, live: Progress):
        self._live = live
        self._task = live.add_task("compiling", total=steps, pace="")

    def line(self, text: str) -> None:
        """Show a line that stays."""
        self._live.console.print(text, highlight=False)

    def progress(self, step: int, values: str, pace: str) -> None:
        """Show how far the run has come."""
        self._live.update(self._task, completed=step, description=values, pace=pace)


@contextlib.contextmanager
def screen(steps: int) -> Generator[Screen]:
    """Return the screen that suits standard output: live on a terminal, else plain lines, as for CI."""
    # Some CI lends a terminal, of which it keeps every state that was ever shown.
    if not sys.stdout.isatty() or os.environ.get("CI") or os.environ.get("TERM") == "dumb":
        yield Pipe(steps)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
    )
    # Transient: the table that follows says where the run ended.
    with Progress(*columns, console=plain_console(), transient=True) as live:
        yield Terminal(steps, live)
