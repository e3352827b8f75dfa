"""Where a run is shown, whose loss ends no run: a closed terminal, a reader that left, a full disk."""

import contextlib
import errno
import os
import sys
from collections.abc import Generator
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

# A pipe without a reader, and a terminal that was closed: nothing that is written later arrives either.
_GONE = (errno.EPIPE, errno.EIO)


class Output:
    """A stream of text that drops what cannot be written; all else is the stream's own.

    Args:
        stream: the stream, whose descriptor leads nowhere once its other end has gone.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, as far as it can be written."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Hand over what was written to the system, as far as it takes it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if error.errno in _GONE:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            # What is left in the stream's buffer goes there, and not into an error at exit.
            with contextlib.suppress(OSError):
                self._stream.flush()


def output() -> Any:
    """Return standard output as it is now."""
    return Output(sys.stdout)


def errors() -> Any:
    """Return standard error as it is now."""
    return Output(sys.stderr)


def say(lines: str) -> None:
    """Write lines to standard output at once."""
    print(lines, file=output(), flush=True)


def plain_console(width: int | None = None) -> Console:
    """Makes a console to which brackets and colons in a user's text are no markup."""
    return Console(file=output(), highlight=False, markup=False, emoji=False, width=width)


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
        say(text)

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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
    )
    # Transient: the table that follows says where the run ended.
    with Progress(*columns, console=plain_console(), transient=True) as live:
        yield Terminal(steps, live)
