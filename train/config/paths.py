"""Paths of the command line: `~` is the user's home, and a URL is refused before it is used."""

import re
from pathlib import Path

from train.config.errors import ConfigError

# Texts that are no paths yet: a home, a scheme, nothing, a null character.
_ODD = re.compile(r"~|[A-Za-z][A-Za-z0-9+.-]+:/|\s*\Z|[^\0]*\0")


def local(text: str, place: str) -> Path:
    """Return the path that a text names on this machine.

    Args:
        text: a path.
        place: the option or key that has it, which begins the line of the error.

    Raises:
        ConfigError: The text is empty, is a URL, or begins with an unknown home directory.
    """
    if not _ODD.match(text):
        return Path(text)
    # The library has the rule; it imports JAX, which takes seconds and which most paths need not wait for.
    from sowlog.writers import local_folder  # noqa: PLC0415

    try:
        return local_folder(text)
    except ValueError as error:
        raise ConfigError([f"{place}: {error}"]) from None
