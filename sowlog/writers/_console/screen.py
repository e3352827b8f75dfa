"""A view at the bottom of a terminal, below all other output."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

_ERASE = "\x1b[J"
# Seconds that a line waits for a full pipe or a paused terminal. A frame of the view does not wait.
_PATIENCE = 1.0


class Screen:
    """A view of several lines on a terminal.

    The cursor stays on an empty line above the view, and each frame erases all that is below the cursor. So
    output of any origin stays on the terminal: of subprocesses, of faulthandler, of a log handler that holds
    the stream. The output of `print`, warnings and tracebacks passes through `Redirected`, which erases the
    view first, as lines longer or more than one would have the rest of the view behind them.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._frame = ""
        self._is_mid_line = False
        self._pid = os.getpid()
        # A signal handler may print while its thread prints.
        self._lock = threading.RLock()

    def draw(self, lines: Sequence[str]) -> None:
        """Replace the view."""
        with self._lock:
            self._redirect()
            self._frame = "".join(f"\n{line}" for line in lines) + f"\r\x1b[{len(lines)}A"
            emit(self._stream, f"{self._fresh_line()}{self._frame}", patience=0)

    def print(self, line: str) -> None:
        """Write a line that stays above the view."""
        with self._lock:
            emit(self._stream, f"{self._fresh_line()}{line}\n{self._frame}")

    def close(self, lines: Sequence[str]) -> None:
        """Write the last view, below which the cursor goes on, and restore standard output and error."""
        with self._lock:
            self._frame = ""
            self._restore()
            emit(self._stream, self._fresh_line() + "".join(f"{line}\n" for line in lines))

    def pass_on(self, stream: TextIO, text: str) -> int:
        """Write the text of another stream of the same terminal above the view."""
        # A forked child has no view, and the lock may have been held at the fork.
        if not text or not self._frame or os.getpid() != self._pid:
            return stream.write(text)
        with self._lock:
            # Text without an end of line fits the empty line: a prompt, a progress bar.
            if "\n" in text:
                emit(self._stream, _ERASE)
            written = stream.write(text)
            if text.endswith("\n"):
                stream.flush()
                emit(self._stream, self._frame, patience=0)
            # A progress bar, which begins with a carriage return, is written again.
            self._is_mid_line = not text.endswith(("\n", "\r")) and not text.startswith("\r")
            return written

    def _fresh_line(self) -> str:
        """Return the codes that begin an empty line, without the view below it."""
        begin, self._is_mid_line = "\n" if self._is_mid_line else "\r", False
        return f"{begin}{_ERASE}"

    def _redirect(self) -> None:
        # At each frame, as a program may have replaced a stream since, or set back the one from before.
        for name, stream in _standard_streams():
            if not isinstance(stream, Redirected) and _is_same_terminal(stream, self._stream):
                setattr(sys, name, Redirected(stream, self))

    def _restore(self) -> None:
        for name, stream in _standard_streams():
            if isinstance(stream, Redirected) and stream.screen is self:
                setattr(sys, name, stream.stream)


class Redirected:
    """Standard output or error beside a view: text is written above it, all else is the stream's own.

    Args:
        stream: the stream itself.
        screen: the view.
    """

    def __init__(self, stream: Any, screen: Screen) -> None:
        self.stream = stream
        self.screen = screen

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write text above the view."""
        return self.screen.pass_on(self.stream, text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of some texts."""
        for line in lines:
            self.write(line)


def is_live(stream: Any) -> bool:
    """Return whether a stream is a terminal that can show a view."""
    # Some CI lends a terminal, of which it keeps every frame.
    return _is_terminal(stream) and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"


def emit(stream: TextIO, text: str, *, patience: float = _PATIENCE) -> None:
    """Write text at once, or drop it, as the loss of a terminal, a pipe or a disk must end no training.

    Args:
        stream: the stream.
        text: the text.
        patience: seconds to wait for a full pipe or a paused terminal.
    """
    with contextlib.suppress(OSError, ValueError):
        descriptor = _descriptor(stream)
        if descriptor is None:
            stream.write(text)
            stream.flush()
            return
        if not select.select([], [descriptor], [], patience)[1]:
            return
        stream.flush()
        # Past the stream's buffer, whose rest would be an error at the exit of the interpreter.
        data = text.encode(stream.encoding, "backslashreplace")
        while data:
            data = data[os.write(descriptor, data) :]


def _descriptor(stream: TextIO) -> int | None:
    """Return the descriptor of Python's own stream; others, as those of notebooks, may lead elsewhere."""
    if type(stream) is not io.TextIOWrapper:
        return None
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None


def unwrapped(stream: Any) -> Any:
    """Return the stream itself of a redirected one."""
    return stream.stream if isinstance(stream, Redirected) else stream


def _standard_streams() -> list[tuple[str, Any]]:
    return [(name, getattr(sys, name)) for name in ("stdout", "stderr")]


def _is_terminal(stream: Any) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError, OSError):  # No stream, or a closed one.
        return False


def _is_same_terminal(stream: Any, other: Any) -> bool:
    if not _is_terminal(stream):
        return False
    try:
        return stream is other or os.fstat(stream.fileno()).st_rdev == os.fstat(other.fileno()).st_rdev
    except (AttributeError, ValueError, OSError):
        return False
