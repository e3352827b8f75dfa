"""Globs of tags."""

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
