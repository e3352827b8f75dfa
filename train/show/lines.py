"""Lines on the terminal: errors, warnings and output."""

import contextlib
import shlex
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from train.system.streams import errors, say


def error(message: str) -> None:
    """Report why the run cannot begin."""
    print(message, file=errors(), flush=True)


def warning(line: str) -> None:
    """Report a surprise that does not end the run."""
    print(f"warning: {line}", file=errors(), flush=True)


def text(lines: str) -> None:
    """Print output."""
    say(lines)


@contextlib.contextmanager
def plain_warnings(*kinds: type[Warning]) -> Generator[None]:
    """Show warnings of these kinds as lines, each time; all others as Python does."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, kinds):
            warning(str(message))
        else:
            before(message, category, *place)

    with warnings.catch_warnings():
        for kind in kinds:
            warnings.simplefilter("always", kind)
        before, warnings.showwarning = warnings.showwarning, show
        yield


def begun(folder: Path, *, is_continued: bool) -> None:
    """Report the folder of the run."""
    say(f"{'continues' if is_continued else 'run'} {folder}")


def explain_nan(folder: Path) -> None:
    """Print the command that explains why a run diverged."""
    command = f"python -m train --explain-nan --workdir {shlex.quote(str(folder))}"
    say(f"to see where the NaN or infinity began: {command}")


def not_saved(failures: Sequence[str], folder: Path, *, names_folder: bool = False) -> None:
    """Report the parts of a run that are not on disk, and the command that tries again."""
    lines = "\n".join(f"error: {failure}" for failure in failures)
    print(f"{lines}\nto try again, {again(folder, names_folder)}", file=errors(), flush=True)


def again(folder: Path, names_folder: bool) -> str:  # noqa: FBT001 - the one fact that it is about
    """Return the command that goes on."""
    return (
        "the same command" if names_folder else f"the same command with\n--workdir {shlex.quote(str(folder))}"
    )
