"""Tables on the terminal: the end of a run, and the points of a sweep."""

import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import table as rich
from rich.console import Console

from train.show import lines, viewing
from train.system.streams import output

if TYPE_CHECKING:  # Errors are reported without JAX.
    from train.runs.outcome import Outcome


@dataclass(frozen=True)
class Table:
    """Rows of text under titles.

    Attributes:
        titles: one of each column.
        settings: the number of columns, at the left, that are no numbers to compare.
        rows: the cells; a row may have fewer.
    """

    titles: Sequence[str]
    settings: int
    rows: Sequence[Sequence[str]]


def _rich(made: Table) -> rich.Table:
    table = rich.Table()
    for at, title in enumerate(made.titles):
        table.add_column(title, justify="left" if at < made.settings else "right")
    for row in made.rows:
        table.add_row(*row)
    return table


def ranking(
    made: Table,
    seeds: Iterable[str],
    folder: Path,
    *,
    unfinished: str,
    longest: int,
    names_folder: bool = False,
) -> None:
    """Show the end of a sweep: its points, the best first, the spread over seeds, and TensorBoard's command.

    Args:
        made: a row of each point.
        seeds: a line of each choice of the other settings.
        folder: the folder around the run folders.
        unfinished: why not every point is finished; empty if all are.
        longest: steps of the longest run.
        names_folder: whether the command named the folder, and goes on as it stands.
    """
    console = _console()
    console.print(_rich(made))
    for line in seeds:
        console.print(line)
    if unfinished:
        console.print(f"{unfinished}; to go on, {lines.again(folder, names_folder)}", soft_wrap=True)
    # The tab lists all scalars by name and shows five of them.
    main = "".join(f", with {metric} ticked among its metrics" for metric in made.titles[made.settings :][:1])
    console.print(f"the same in TensorBoard's HParams tab{main}:", soft_wrap=True)
    console.print(viewing.of_folder(folder, points=longest + 1), soft_wrap=True)


def show(made: Table) -> None:
    """Show a table."""
    _console().print(_rich(made))


def _console() -> Console:
    # Piped, a table may be as wide as it is: a file has no right edge. Brackets and colons in a user's text
    # are no markup.
    width = None if sys.stdout.isatty() else 1000
    return Console(file=output(), highlight=False, markup=False, emoji=False, width=width)


def _table(outcome: "Outcome") -> rich.Table:
    held_out, title = outcome.evaluated, "held out"
    if not held_out and outcome.latest:
        held_out, title = outcome.latest, f"held out, at step {outcome.latest_step}"
    table = rich.Table("", "last step", *([title] if held_out else []))
    # On a narrow terminal a tag is broken, not cut: layers differ in its end.
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for tag in held_out or outcome.trained:
        cells = [values.get(tag) for values in (outcome.trained, held_out)][: len(table.columns) - 1]
        table.add_row(tag, *map(_number, cells))
    return table


def _speed(outcome: "Outcome") -> str:
    first = f"{outcome.compiling:.1f} s to the first step"
    rest = outcome.updates - 1
    if not rest:
        return first
    return f"{first}, {outcome.training:.1f} s for the other {rest} ({rest / outcome.training:.1f} steps/s)"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def finished(
    outcome: "Outcome", folder: Path, *, stopped_by: signal.Signals | None, names_folder: bool = False
) -> None:
    """Report the end of the run, its results and the command that shows it.

    Args:
        outcome: its end.
        folder: the run folder.
        stopped_by: the signal that ended it.
        names_folder: whether the command named the folder, and goes on as it stands.
    """
    console = _console()
    if outcome.trained or outcome.evaluated:
        console.print(f"after {outcome.reached} steps")
        console.print(_table(outcome))
    if outcome.updates:
        console.print(_speed(outcome))
    saved = f"saved at step {outcome.step}"
    if stopped_by:
        cause = (
            f"ended by an alert: {outcome.alert}\n" if outcome.alert else f"stopped by {stopped_by.name}, "
        )
        console.print(
            f"{cause}{saved}; to go on, {lines.again(folder, names_folder)}",
            soft_wrap=True,
        )
    if outcome.ended_early:
        console.print(f"ended early: {outcome.ended_early}\n{saved}")
    # Soft: a command that is broken in two cannot be pasted.
    console.print(viewing.of_run(folder, points=outcome.reached + 1), soft_wrap=True)
