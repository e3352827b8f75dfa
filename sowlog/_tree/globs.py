"""Globs of tags."""

import functools
import re
from collections.abc import Iterable
from typing import Any


def check_globs(name: str, globs: Any) -> tuple[str, ...]:
    """Return globs of tags as a tuple; a str is one glob.

    Args:
        name: the place of the globs in a message.
        globs: the globs.

    Raises:
        TypeError: A glob is not a str.
        ValueError: A glob has an empty part.
    """
    if isinstance(globs, bytes) or not isinstance(globs, Iterable):
        raise TypeError(f"{name} is {globs!r}; give a glob of tags or a list of them, such as ['eval/*'].")
    known = (globs,) if isinstance(globs, str) else tuple(globs)
    for glob in known:
        if not isinstance(glob, str):
            raise TypeError(
                f"{name} has {glob!r}, of type {type(glob).__name__}: give globs of tags, such as 'eval/*'."
            )
        if not all(glob.split("/")):
            raise ValueError(
                f"{name} has {glob!r}, with an empty part: write a glob of parts, such as 'eval/*'."
            )
    return known


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
    return pattern_of(glob).match(tag) is not None


@functools.lru_cache(maxsize=1024)
def pattern_of(glob: str) -> re.Pattern[str]:
    r"""Return the compiled expression of a glob, whose `match` accepts whole tags alone.

    A tag may have line ends, which `.` leaves out, and before the last of which `$` matches.

    Example:
        >>> pattern_of("a/**").match("a/b\nc") is None, pattern_of("loss").match("loss\n") is None
        (False, True)
    """
    return re.compile(from_glob(glob).removesuffix("$") + r"\Z", re.DOTALL)


def deeper(glob: str, tags: Iterable[str]) -> str | None:
    """Return a glob that matches no tag with `**/` in front, if it then matches one.

    Example:
        >>> deeper("*/load", ["decoder/block_0/load"])
        '**/*/load'
        >>> deeper("*/load", ["decoder/entropy"])
    """
    if "*" not in glob:
        return None
    return f"**/{glob}" if any(map(pattern_of(f"**/{glob}").match, tags)) else None


def _part(part: str) -> str:
    wild = {"*": "[^/]*", "?": "[^/]"}
    return "".join(wild.get(letter, re.escape(letter)) for letter in part)
