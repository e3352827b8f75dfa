"""The known names that resemble a misspelled one."""

import difflib
from collections.abc import Iterable

# Names of 100 kB are no help in a message.
_SHOWN = 300


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message with the known names that resemble a name, or the first ones.

    Example:
        >>> nearest("eval/los", ["eval/loss", "train/rate"])
        'did you mean eval/loss?'
        >>> nearest("x", ["eval/loss"])
        'there are eval/loss.'
    """
    names = [each for each in known if len(each) <= _SHOWN]
    close = difflib.get_close_matches(name[:_SHOWN], names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"there are {', '.join(names[:5])}{more}." if names else "there are none."
