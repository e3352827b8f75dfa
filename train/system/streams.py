"""Standard output and error, whose loss ends no run: a closed terminal, a reader that left, a full disk."""

import contextlib
import errno
import os
import sys
from typing import Any, TextIO

# A pipe without a reader, and a terminal that was closed: nothing that is written later arrives either.
_GONE = (errno.EPIPE, errno.EIO)


class Output:
    """A stream of text that drops text after a failed write; all else is the stream's own.

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
        """Flush the stream to the system, as far as the system takes it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if error.errno in _GONE:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            # The rest of the stream's buffer goes there, and not into an error at exit.
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


def flush() -> None:
    """Hand over to the system all that was written."""
    for stream in (output(), errors()):
        stream.flush()
