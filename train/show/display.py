"""The display of a run: sowlog's Console, and lines for alerts and held-out values that are not finite."""

import math
from collections.abc import Iterable, Sequence

from sowlog.writers import Console, Record, Writer
from train.show import lines


def writers(results: Sequence[str], *, steps: int) -> list[Writer]:
    """Return the writers that show a run: its steps as they go, and a line for each evaluation.

    Args:
        results: tags of the task's results, the most important first. Those of single layers are for
            TensorBoard.
        steps: the length of the run.
    """
    shown = [tag for tag in results if "/" not in tag] or ["loss"]
    held_out = [f"eval/{tag}" for tag in shown]
    return [
        Console([*shown, *held_out], steps=steps, always=held_out),
        Messages(f"eval/{tag}" for tag in results),
    ]


class Messages:
    """A writer that prints a line for each alert, and for each value of an evaluation that is not finite.

    Args:
        tags: the tags of the values.
    """

    def __init__(self, tags: Iterable[str]):
        self._tags = frozenset(tags)

    def write(self, record: Record) -> None:
        """Print the lines of a record, of each layer of a folded family."""
        scalars = record.unfolded or record
        for tag, value in zip(scalars.tags, scalars.values.tolist(), strict=True):
            if not math.isfinite(value) and tag in self._tags:
                lines.text(f"warning: {tag} is {value:g} at step {record.step}.")
        for tag, text in record.texts.items():
            if tag.startswith("alerts/"):
                lines.text(f"alert: {text}")

    def flush(self) -> None:
        """Do nothing: each line is printed at once."""

    def close(self) -> None:
        """Do nothing: there is no resource."""
