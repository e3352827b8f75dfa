"""Errors of the user of the command line, and the names that were probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Names of 100 kB are no help in a message.
_SHOWN = 300


class UsageError(Exception):
    """A request that cannot be met: the message names the cause and the next move; exit status 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message with the known names that resemble a name, or the first ones."""
    names = [each for each in known if len(each) <= _SHOWN]
    close = difflib.get_close_matches(name[:_SHOWN], names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"there are {', '.join(names[:5])}{more}." if names else "there are none."
