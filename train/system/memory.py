"""The memory of this process."""

import os
from pathlib import Path

_STATUS = Path("/proc/self/statm")


def resident() -> int | None:
    """Return the bytes of this process in memory; None on a system without /proc."""
    try:
        return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
