"""Globs of tags."""

import functools
import re
from collections.abc import Iterable


def from_glob(glob: str) -> str:
    """Return the regular expression of a glob of whole tags.

    Example:
        >>> from_glob("**/load/*")
        '^(?:[^/]+/)*load/[^/]*$'
    """
    *parts, last = glob.split("/")
    end = ".+" if last == "**" else _part(last)
    return f"^{''.join('(?:[^/]+/)*' if part == '**' else f'{_part(part)}/' for part in parts)}{end}$"


def matches(glob: str, tag: str) -> bool:
    """Return whether a glob matches a whole tag.

    Example:
        >>> matches("blocks/*", "blocks/rms"), matches("blocks/*", "blocks/attn/rms")
        (True, False)
    """
    return _compiled(glob).match(tag) is not None


@functools.lru_cache(maxsize=1024)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(from_glob(glob))


def deeper(glob: str, tags: Iterable[str]) -> str | None:
    """Return a glob that matches no tag with `**/` in front, if it then matches one.

    Example:
        >>> deeper("*/load", ["decoder/block_0/load"])
        '**/*/load'
        >>> deeper("*/load", ["decoder/entropy"])
    """
    if "*" not in glob:
        return None
    pattern = re.compile(from_glob(f"**/{glob}"))
    return f"**/{glob}" if any(map(pattern.match, tags)) else None


def _part(part: str) -> str:
    wild = {"*": "[^/]*", "?": "[^/]"}
    return "".join(wild.get(letter, re.escape(letter)) for letter in part)
