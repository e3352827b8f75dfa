"""The place of a caller in a user's code."""

import functools
import os
import sys
from pathlib import Path
from typing import Any

_HERE = f"{Path(__file__).parents[1]}{os.sep}"
_FLAX = f"{os.sep}flax{os.sep}"


def place_of_caller() -> str:
    """Return the file and line of the innermost frame outside of sowlog and Flax."""
    frame: Any = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_HERE) and _FLAX not in file:
            return f"{_short(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@functools.lru_cache(maxsize=1024)
def _short(file: str) -> str:
    """Return a path below the working directory, or else its last two names."""
    here = f"{Path.cwd()}{os.sep}"
    return file[len(here) :] if file.startswith(here) else str(Path(*Path(file).parts[-2:]))
