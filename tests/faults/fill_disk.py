"""A program for a mount namespace of its own: train on a small disk that is full at times.

Argument: a folder. A tmpfs is mounted on its `disk`; the event file of the run is copied to `full`, `space`
and `end` at these phases. The warnings and errors of the logger are printed as JSON.
"""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp

import sowlog

QUEUE_SIZE = 64


@jax.jit
def train_step(weights: jax.Array) -> tuple[jax.Array, sowlog.Packed]:
    """Make one update, with a hundred metrics: 1.9 kB, so that a record tears at the end of a page."""
    weights = weights + 1
    return weights, sowlog.pack({f"weight{i:03d}": weights[i] for i in range(100)})


class SmallDisk:
    """A tmpfs of 256 kB, with a file that fills it."""

    def __init__(self, path: Path):
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], check=True)
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leave no page free."""
        try:
            with self._filler.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        except OSError:
            return

    def empty(self) -> None:
        """Free the space."""
        self._filler.unlink()


class Training:
    """A run that records the warnings and errors of its logger by phase."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.disk = SmallDisk(folder / "disk")
        self.log = sowlog.Logger(folder / "disk" / "run", queue_size=QUEUE_SIZE)
        self._weights = jnp.zeros(100)
        self.said: dict[str, list[str]] = {}

    def train(self, name: str, steps: range) -> None:
        """Train the steps, wait for the write of each, and flush; record the warnings and errors."""
        with warnings.catch_warnings(record=True) as issued:
            warnings.simplefilter("always")
            for step in steps:
                self._weights, metrics = train_step(self._weights)
                self.log(step, metrics)
                self.log._background.call(int)
        said = [str(warning.message) for warning in issued]
        try:
            self.log.flush()
        except sowlog.WriterError as error:
            said += [str(error), *getattr(error, "__notes__", [])]
        self.said[name] = said

    def keep(self, name: str) -> None:
        """Copy the present event file."""
        shutil.copytree(self._folder / "disk" / "run", self._folder / name)


if __name__ == "__main__":
    training = Training(Path(sys.argv[1]))
    training.train("before", range(10))
    training.disk.fill()
    training.train("full", range(10, 40))
    training.keep("full")
    training.disk.empty()
    training.train("space", range(40, 50))
    training.keep("space")
    training.disk.fill()
    training.train("full again", range(50, 200))
    training.disk.empty()
    training.train("space again", range(200, 210))
    training.log.close()
    training.keep("end")
    print(json.dumps(training.said))
