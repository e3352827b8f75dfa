"""Errors of the user of the command line, and of the system."""

import sys


class UsageError(Exception):
    """A request that cannot be met: the message names the cause and the next move; exit status 2."""


def describe(error: OSError) -> str:
    """Return the cause of an error of the system, with its file; the streams of a process have no name."""
    if error.strerror is None:
        return str(error)
    if error.filename is None:
        return f"the output cannot be written: {error.strerror}."
    return f"{error.filename} cannot be used: {error.strerror}."


def note(text: str) -> None:
    """Write a line to standard error, unless that is closed: print() would then take standard output."""
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        print(text, file=sys.stderr)
