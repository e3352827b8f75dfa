"""Files that have their name once they are whole and on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from sowlog._events.appending import sync_folder

T = TypeVar("T")


def write_whole(path: Path, write: Callable[[BinaryIO], T], *, is_shared: bool = False) -> T:
    """Write a file under another name, sync it, and let it take its own: a kill leaves all of it or nothing.

    Args:
        path: the file, which replaces one of its name.
        write: writes the contents.
        is_shared: whether other processes may write to the folder at the same time.

    Returns:
        The result of `write`.

    Raises:
        OSError: The file cannot be written; one that had the name stays as it is.
    """
    # Readers of a folder skip names that begin with a dot.
    part = path.with_name(f".{path.name[-100:]}.{os.getpid()}.part" if is_shared else ".part")
    try:
        with part.open("wb") as file:
            result = write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return result
