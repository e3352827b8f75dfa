"""Run as a program in a mount namespace of its own: `python -m train` on a disk that is full for a while.

Arguments: a folder, on whose `disk` 2 MB are mounted; the step at which they get full; the step at which they
are emptied (-1: after the end); the bytes that stay free; settings. The run is taken from `run`, and copied
to it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.train.running import CONFIGS, TINY_DIGITS, after_each_step
from train import __main__ as program


def fill(filler: Path, free: int) -> None:
    """Leave so many bytes free, a multiple of a page."""
    with filler.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.truncate(filler, max(0, file.tell() - free))


def main(folder: Path, fill_at: int, empty_at: int, free: int, *settings: str) -> int:
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
    if (folder / "run").exists():
        shutil.copytree(folder / "run", disk / "run")

    def fill_and_empty(step: int) -> None:
        if step == fill_at:
            fill(disk / "filler", free)
        if step == empty_at:
            (disk / "filler").unlink()

    with after_each_step(fill_and_empty):
        status = program.main(
            [str(CONFIGS / "digits.yaml"), *TINY_DIGITS, *settings, "--workdir", str(disk / "run")]
        )
    shutil.copytree(disk / "run", folder / "run", dirs_exist_ok=True)
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), *sys.argv[5:]))
