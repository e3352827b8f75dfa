"""Files that have their name once they are whole and on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from sowlog._events.appending import sync_folder


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under another name, sync it, and let it take its own: a kill leaves all of it or nothing.

    Raises:
        OSError: The file cannot be written; one that had the name stays as it is.
    """
    # Readers of a folder skip names that begin with a dot.
    part = path.with_name(".part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
