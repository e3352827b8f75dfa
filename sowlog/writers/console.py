"""The progress of a run on a terminal: a live view, or plain lines where there is none."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from typing import Any, TextIO

from sowlog._extras import import_extra
from sowlog._tree.globs import check_globs
from sowlog.writers._arguments import check_count
from sowlog.writers._console.progress import Glyphs, Progress, glyphs_for, number
from sowlog.writers._console.screen import Screen, emit, is_live, unwrapped
from sowlog.writers.record import Record

# Seconds between two states of a live view, and between two lines.
_INTERVALS = 0.25, 10.0


class Console:
    """Shows the scalars of a run on a terminal, while the training thread does not wait.

    On a terminal, a view at the bottom has the last value and a curve of each chosen tag, the steps per
    second and the time that is left; output of the program stays above it. To a pipe or a file, and where
    `CI` is set or `TERM` is "dumb", plain lines are written: one each `interval`, and the last records. A
    value that becomes NaN or infinite is shown at once.

    The view is drawn by rich (`pip install 'sowlog[console]'`); plain lines do not need it. While the view is
    open, `sys.stdout` and `sys.stderr` write the program's text above it; `close` restores them. If the
    terminal or the reader of the pipe has gone, training continues without a display and without an error.

    Args:
        tags: globs of the tags to show, in this order: `*` is any text within a part of the tag, `**` any
            parts. By default tags of one part, `losses/total`, and the loss of any one group, as `eval/loss`.
        steps: the number of steps of the run, for the time that is left.
        always: globs of chosen tags, such as "eval/**": each record of these tags is a line of its own, which
            stays above the view.
        interval: seconds between two updates; by default 0.25 for a live view, and 10 for plain lines.
            Records of training and of evaluation, whose first tags differ, have an interval each.
        file: the stream; by default standard output.

    Raises:
        ModuleNotFoundError: The stream is a terminal, and rich is not installed.
        TypeError: A glob is not a str, or `steps` is not an integer.
        ValueError: A glob has an empty part, or `steps` or `interval` is out of range.

    Example:
        >>> import io, sowlog
        >>> from sowlog.writers import Console
        >>> lines = io.StringIO()
        >>> with sowlog.Logger("unused", writers=[Console("*", steps=200, file=lines)]) as log:
        ...     log(0, {"loss": 0.5, "norm": {"grads": 3.0}})
        >>> print(lines.getvalue(), end="")
        step 0/200  loss 0.5000

        Beside the event file:

        >>> import tempfile
        >>> from sowlog.writers import TensorBoard
        >>> logdir = tempfile.mkdtemp()
        >>> with sowlog.Logger(logdir, writers=[TensorBoard(logdir), Console(steps=1)]) as log:
        ...     log(0, {"loss": 0.5})
        step 0/1  loss 0.5000
    """

    def __init__(
        self,
        tags: str | Iterable[str] = ("*", "losses/total", "*/loss"),
        *,
        steps: int | None = None,
        always: str | Iterable[str] = (),
        interval: float | None = None,
        file: TextIO | None = None,
    ) -> None:
        if steps is not None:
            steps = check_count(steps, "steps", "the length of a run must be 1 step or more")
        stream = unwrapped(sys.stdout if file is None else file)
        live = is_live(stream)
        self._progress = Progress(
            check_globs("tags of Console", tags), kept=check_globs("always of Console", always), steps=steps
        )
        self._interval = _check_interval(_INTERVALS[not live] if interval is None else interval)
        glyphs = glyphs_for(getattr(stream, "encoding", None))
        self._output = _Live(stream, glyphs) if live else _Lines(stream)
        self._kinds: dict[str, _Kind] = {}

    def write(self, record: Record) -> None:
        """Show a record, if it is time."""
        # Hyperparameters, charts, texts and images are of no step of training.
        if record.is_of_run or not (record.tags or record.histograms):
            return
        rows = self._progress.note(record)
        if not rows and self._progress.rows():
            return
        is_kept = any(row.is_kept for row in rows)
        line = _Line(record.step, [(row.tag, row.value) for row in rows], is_kept=is_kept)
        name = rows[0].tag if rows else ""
        # Back to the end of the dict, whose order is that of the last records.
        kind = self._kinds[name] = self._kinds.pop(name, None) or _Kind()
        kind.pending = line
        if is_kept or time.monotonic() >= kind.due or line.nonfinite - kind.nonfinite:
            self._output.show(self._progress, self._take_pending())

    def flush(self) -> None:
        """Do nothing: each line is written at once."""

    def close(self) -> None:
        """Show the last records, and restore standard output and error."""
        self._output.close(self._progress, self._take_pending())

    def _take_pending(self) -> list[_Line]:
        """Return the records that are not shown yet, one of each kind, in order, and count them as shown."""
        due, taken = time.monotonic() + self._interval, list[_Line]()
        for kind in self._kinds.values():
            if kind.pending is not None:
                taken.append(kind.pending)
                kind.due, kind.nonfinite, kind.pending = due, kind.pending.nonfinite, None
        return taken


class _Line:
    """The chosen scalars of a record.

    Attributes:
        step: the step.
        scalars: tags and values.
        is_kept: whether it is a line that stays.
        nonfinite: the tags whose value is NaN or infinite.
    """

    def __init__(self, step: int, scalars: list[tuple[str, float]], *, is_kept: bool) -> None:
        self.step, self.scalars, self.is_kept = step, scalars, is_kept
        self.nonfinite = {tag for tag, value in scalars if not math.isfinite(value)}

    def describe(self, progress: Progress) -> str:
        """Return the line, with the pace of training unless it is of an evaluation."""
        texts = [
            progress.describe_step(self.step),
            *(f"{tag} {number(value)}" for tag, value in self.scalars),
            "" if self.is_kept else progress.pace.describe(progress.steps),
        ]
        return "  ".join(filter(None, texts))


class _Kind:
    """The records of one kind, such as those of training.

    Attributes:
        due: the time from which the next one is shown.
        nonfinite: the tags that were NaN or infinite in the last one that was shown.
        pending: the last one, if it is not shown yet.
    """

    def __init__(self) -> None:
        self.due = -math.inf
        self.nonfinite = set[str]()
        self.pending: _Line | None = None


class _Lines:
    """Plain lines, for a pipe, a file or a log of CI."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, progress: Progress, lines: list[_Line]) -> None:
        """Write records that were not shown yet, a line each."""
        if lines:
            emit(self._stream, "".join(f"{line.describe(progress)}\n" for line in lines))

    close = show


class _Live:
    """A view on a terminal."""

    def __init__(self, stream: TextIO, glyphs: Glyphs) -> None:
        self._screen = Screen(stream)
        self._view = _view().View(stream, glyphs)
        self._is_begun = False

    def show(self, progress: Progress, lines: list[_Line]) -> None:
        """Draw the view, below the lines that stay."""
        self._is_begun = True
        for line in lines:
            if line.is_kept:
                self._screen.print(line.describe(progress))
        self._screen.draw(self._view.render(progress))

    def close(self, progress: Progress, lines: list[_Line]) -> None:
        """Draw the last view, which stays."""
        if self._is_begun:
            self._screen.close(self._view.render(progress))


def _view() -> Any:
    """Import the drawing, and with it rich, where it is first used."""
    return import_extra(
        "sowlog.writers._console.view",
        "Console draws its live view with rich",
        extra="console",
        package="rich",
    )


def _check_interval(interval: Any) -> float:
    if isinstance(interval, bool) or not isinstance(interval, int | float):
        raise TypeError(f"interval is {interval!r}, a {type(interval).__name__}; it must be in seconds.")
    if not interval >= 0:
        raise ValueError(f"interval is {interval}; it must be 0 seconds or more.")
    return float(interval)
