"""Tags by globs, in the order of the globs: those of a task's results.

The globs of sowlog have no public function, so a test holds these to the same meaning.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable


def select(globs: Iterable[str], tags: Iterable[str]) -> list[str]:
    """Return the tags that match, each once: those of the first glob first, and each glob's in their order.

    A glob matches whole tags, as everywhere in sowlog: `*` stands for characters of one part, `**` for any
    number of parts.

    Example:
        >>> tags = ["blocks/0/mlp/dead", "blocks/0/rms", "loss"]
        >>> select(["loss", "blocks/*/rms"], tags), select(["**/dead", "blocks/*"], tags)
        (['loss', 'blocks/0/rms'], ['blocks/0/mlp/dead'])
    """
    known = list(tags)
    return list(dict.fromkeys(tag for glob in globs for tag in filter(_pattern(glob).fullmatch, known)))


@functools.cache
def _pattern(glob: str) -> re.Pattern[str]:
    *parts, last = glob.split("/")
    begin = ["(?:[^/]+/)*" if part == "**" else f"{_part(part)}/" for part in parts]
    return re.compile("".join([*begin, ".+" if last == "**" else _part(last)]), re.DOTALL)


def _part(part: str) -> str:
    wild = {"*": "[^/]*", "?": "[^/]"}
    return "".join(wild.get(letter, re.escape(letter)) for letter in part)
