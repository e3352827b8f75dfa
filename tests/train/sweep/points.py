"""Points of small sweeps."""

from pathlib import Path

from tests.train.running import CONFIGS
from train.runs import results
from train.runs.results import Results
from train.sweep.plan import Point, plan

DIGITS = CONFIGS / "digits.yaml"


def planned(folder: Path, *sweeps: str, overrides: tuple[str, ...] = ()) -> list[Point]:
    return plan(DIGITS, overrides, sweeps, folder)


def names(folder: Path, *sweeps: str) -> list[str]:
    return [point.name for point in planned(folder, *sweeps)]


def finish(point: Point, value: float | None = 0.5, better: str = "lower") -> None:
    point.path.mkdir(parents=True, exist_ok=True)
    results.write(point.path, Results(point.config.steps, 5, "", better, {"eval/loss": value}))
