"""Paths of folders on this machine, and the refusal of other paths."""

from __future__ import annotations

import os
import re
from os import PathLike
from pathlib import Path

# pathlib turns "gs://bucket" into "gs:/bucket". A drive of Windows is one letter, and no scheme.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)


def local_folder(path: str | PathLike[str]) -> Path:
    """Return the path of a folder on this machine, with `~` expanded to the home directory.

    Event files and checkpoints need append, sync and lock, which an object store does not have. A path with a
    scheme is refused, since it would become a local folder of that name.

    Args:
        path: the path of a folder or a file, which need not exist.

    Raises:
        ValueError: The path is empty, has a scheme as in `gs://bucket/run`, contains a null character, or
            begins with a `~user` without a home directory.

    Example:
        >>> from sowlog.writers import local_folder
        >>> local_folder("runs/first").name
        'first'
        >>> local_folder("gs://bucket/run")
        Traceback (most recent call last):
        ValueError: gs://bucket/run is no local folder...
    """
    text = os.fspath(path)
    if not text.strip():
        raise ValueError(f"the path is {text!r}, which names no folder: write '.' for the current folder.")
    if "\0" in text:
        raise ValueError(
            f"the path {text!r} contains a null character, which no file name may have: remove it."
        )
    if found := _SCHEME.match(text):
        raise ValueError(_refuse_scheme(text, *found.groups()))
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{text} begins with a user whose home directory is unknown: write the directory itself, or "
            f"./{text} for a folder of that name."
        ) from error


def _refuse_scheme(text: str, scheme: str, rest: str) -> str:
    if scheme.lower() == "file":
        return f"{text} is a URL: write the path itself, /{rest.removeprefix('localhost/')}."
    return (
        f"{text} is no local folder, and {scheme}: cannot be written to: write to a local or mounted folder "
        f"and copy it there, or ./{text} for a local folder of that name."
    )
