"""Globs of tags."""

import re


def from_glob(glob: str) -> str:
    """Return the regular expression of a glob of whole tags.

    Example:
        >>> from_glob("**/load/*")
        '^(?:[^/]+/)*load/[^/]*$'
    """
    *parts, last = glob.split("/")
    end = ".+" if last == "**" else _part(last)
    return f"^{''.join('(?:[^/]+/)*' if part == '**' else f'{_part(part)}/' for part in parts)}{end}$"


def _part(part: str) -> str:
    wild = {"*": "[^/]*", "?": "[^/]"}
    return "".join(wild.get(letter, re.escape(letter)) for letter in part)
