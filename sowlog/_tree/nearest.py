"""The known names that resemble a misspelled one."""

import difflib
from collections.abc import Iterable

from sowlog._tree.globs import deeper

# Names of 100 kB are no help in a message.
_SHOWN = 300


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message with the known names that resemble a name or a glob, or the first ones.

    Example:
        >>> nearest("eval/los", ["eval/loss", "train/rate"])
        'did you mean eval/loss?'
        >>> nearest("x", ["eval/loss"])
        'there are eval/loss.'
        >>> nearest("loss*", ["eval/loss"])
        'did you mean **/loss*? A * is within one part of a tag.'
    """
    names = [each for each in known if len(each) <= _SHOWN]
    if glob := deeper(name[:_SHOWN], names):
        return f"did you mean {glob}? A * is within one part of a tag."
    close = difflib.get_close_matches(name[:_SHOWN], names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"there are {', '.join(names[:5])}{more}." if names else "there are none."
