"""A program for a mount namespace of its own: log to Csv and Parquet on a small disk that is full at times.

Argument: a folder, on whose `disk` a tmpfs is mounted. The warnings, the numbers of lost and late records
with their error, and the steps in both tables are printed as JSON, by phase.
"""

import csv
import json
import sys
import warnings
from collections import Counter
from pathlib import Path

from pyarrow import parquet

import sowlog
from sowlog.writers import Csv, Parquet
from tests.faults.fill_disk import SmallDisk

WIDTH = 50


def steps_of_csv(folder: Path) -> list[int]:
    """Return the steps in a table, each of which has all its rows."""
    with (folder / "metrics.csv").open(newline="") as file:
        return whole_steps(int(row["step"]) for row in csv.DictReader(file) if float(row["value"]) >= 0)


def steps_of_parquet(folder: Path) -> list[int]:
    """Return the steps in a table, each of which has all its rows."""
    if not list((folder / "metrics.parquet").glob("*.parquet")):
        return []
    return whole_steps(parquet.read_table(folder / "metrics.parquet")["step"].to_pylist())


def whole_steps(steps) -> list[int]:
    counts = Counter(steps)
    assert set(counts.values()) <= {WIDTH}, counts
    return list(counts)


class Run:
    """A logger on a small disk."""

    def __init__(self, folder: Path):
        self.disk = SmallDisk(folder / "disk")
        self._folder = folder / "disk" / "run"
        self.phases: dict[str, dict[str, list]] = {}
        self.open()

    def open(self, resume_from: int | None = None) -> None:
        """Open the logger."""
        writers = [writer(self._folder, resume_from=resume_from) for writer in (Csv, Parquet)]
        self._log = sowlog.Logger("unused", writers=writers, queue_size=16)

    def log(self, name: str, steps: range, *, ends: bool = False) -> None:
        """Log some steps, wait for each, and flush or close."""
        with warnings.catch_warnings(record=True) as issued:
            warnings.simplefilter("always")
            for step in steps:
                self._log(step, {f"tag{i:02d}": float(step + i) for i in range(WIDTH)})
                self._log._background.call(int)
        said = [str(warning.message) for warning in issued]
        try:
            self._log.close() if ends else self._log.flush()
        except sowlog.WriterError as error:
            said += [f"{error.lost} {error.late} {error}", *getattr(error, "__notes__", [])]
        self.phases[name] = {
            "said": said,
            "csv": steps_of_csv(self._folder),
            "parquet": steps_of_parquet(self._folder),
        }


if __name__ == "__main__":
    run = Run(Path(sys.argv[1]))
    run.log("before", range(4))
    run.disk.fill()
    run.log("full", range(4, 12))
    run.disk.empty()
    run.log("space", range(12, 14))
    run.disk.fill()
    run.log("full again", range(14, 40))
    run.log("end", range(40, 42), ends=True)
    run.disk.empty()
    run.open(resume_from=20)
    run.log("continued", range(20, 24), ends=True)
    print(json.dumps(run.phases))
