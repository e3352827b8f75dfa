"""Results of a finished run, in its folder: a sweep reads there that it is done, and ranks it."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from train.config.base import Better
from train.config.experiment import Config
from train.runs.outcome import Outcome
from train.system import files

FILE = "results.json"


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
        steps: the length that the run was to have.
        step: the updates that it made.
        ended_early: why these are fewer; empty if they are not.
        better: the direction in which the first of `held_out` improves.
        held_out: values of the last evaluation by tag, the most important first; None is NaN or infinite.
    """

    # For results that are read from a file.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, allow_inf_nan=False)

    steps: int
    step: int
    ended_early: str
    better: Better
    held_out: dict[str, float | None]

    def main(self) -> Iterator[tuple[str, float]]:
        """Yield the most important tag and its value, if it has one."""
        tag, value = next(iter(self.held_out.items()), ("", None))
        if value is not None:
            yield tag, value

    def rank(self) -> float:
        """Return a number that is lower for a better run."""
        ranks = [value if self.better == "lower" else -value for _, value in self.main()]
        return next(iter(ranks), math.inf)


_FORM = TypeAdapter(Results)


def of(config: Config, outcome: Outcome) -> Results:
    """Return the results of a run that has ended."""
    return Results(
        steps=config.steps,
        step=outcome.step,
        ended_early=outcome.ended_early,
        better=config.task.better,
        held_out=finite({f"eval/{tag}": value for tag, value in outcome.evaluated.items()}),
    )


def write(folder: Path, found: Results) -> list[str]:
    """Write the results of a run into its folder; return a line on why they cannot be, or none."""
    try:
        files.write(folder / FILE, json.dumps(dataclasses.asdict(found), indent=2) + "\n")
    except OSError as error:
        return [f"the results are not written: {error}."]
    return []


def read(folder: Path) -> Results | None:
    """Read the results of a run; None if it has none yet, or none that can be read: then it is run again."""
    try:
        return _FORM.validate_json(files.read(folder / FILE))
    except (OSError, ValueError):
        return None


def finite(values: dict[str, float]) -> dict[str, float | None]:
    """Return values as JSON can hold them."""
    return {tag: value if math.isfinite(value) else None for tag, value in values.items()}
