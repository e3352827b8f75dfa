"""Functions of all scripts of the corpus; these run where their writer is installed, and import no test."""

import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

TIME = 1_700_000_000.0
STEPS = (-(2**63), -7, 0, 1, 1, 5, 3, 2**31, 2**53 + 1, 2**63 - 1)
ODD_VALUES = (0.0, -0.0, 1.5, float("nan"), float("inf"), float("-inf"), 1e-45, 3.4e38)
ODD_TAGS = ("ö/ü ∀", "tab\there", "", " ", "a" * 300, "x//y/", "👩‍🔬/loss", 'quo"te,comma\nline')
PIXELS = (np.arange(4 * 5 * 3, dtype=np.uint8) * 4).reshape(4, 5, 3)


def make(cases: Mapping[str, Callable[[Path], None]]) -> None:
    """Write each case into a folder of its name, below the folder that is the script's argument."""
    target = Path(sys.argv[1])
    for name, write in cases.items():
        folder = target / name
        if folder.exists():
            shutil.rmtree(folder)
        write(folder)
        for leaf in {path.parent for path in folder.rglob("*tfevents*")}:
            name_without_host(leaf)


def name_without_host(folder: Path) -> None:
    """Keep of each name the order, the suffix, and that it is an event file."""
    for number, path in enumerate(sorted(folder.glob("*tfevents*"))):
        ending = re.search(r"(\.v2)?$", path.name).group()
        path.rename(folder / f"events.out.tfevents.{number:02}.host{ending}")


def wait_for_the_clock() -> None:
    """Wait until a new file has a later second in its name."""
    time.sleep(1.1)
