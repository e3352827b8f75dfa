"""The growth of memory with the logged steps."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import jax
import numpy as np

import sowlog
from tests.benchmarks.measure import Line, Size, Spread, spread_of

_TENTHS = 10
# Memory that the allocator may still add: it settles within some hundred thousand steps.
_TOLERANCE = 1.01


def measure_memory(size: Size) -> list[Line]:
    """Measure the memory of the process after each tenth of the steps, each with a buffer of its own."""
    pack = jax.jit(lambda value: sowlog.pack({"train/loss": sowlog.mean.of(value)}))
    resident: list[float] = []
    tenth = size.memory_steps // _TENTHS
    with tempfile.TemporaryDirectory() as folder, sowlog.Logger(folder) as log:
        for step in range(size.memory_steps):
            log(step, pack(np.float32(step)))
            if (step + 1) % tenth == 0:
                log.flush()
                resident.append(resident_mib())
    ratios = [later / resident[0] for later in resident[1:]]
    growth = Spread(min(ratios), ratios[-1], max(ratios))
    return [
        Line(
            f"resident after {size.memory_steps} logged steps",
            spread_of([resident[-1]]),
            "MiB",
            growth,
            f"after {tenth} ({resident[0]:.1f} MiB); spread over the tenths",
            _TOLERANCE,
        )
    ]


def resident_mib() -> float:
    """Return the memory that this process holds now, in MiB."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    listed = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True
    )
    return int(listed.stdout) / 1024
