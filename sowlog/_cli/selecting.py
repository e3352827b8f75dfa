"""The runs and tags that a command line names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sowlog._cli.errors import UsageError, describe, note
from sowlog._cli.report import counted
from sowlog._events.reading import Run, read
from sowlog._events.runs import read_all
from sowlog._events.trees import run_folders
from sowlog._tree.globs import pattern_of
from sowlog._tree.nearest import nearest

# Folders below a run that are searched for others.
_BELOW = 1000


def read_runs(paths: Sequence[str], *, most: int | None = None) -> dict[str, Run]:
    """Return the runs at paths by name: the path of a run, and of each run under a folder of runs.

    Args:
        paths: the paths.
        most: the largest number of runs under a folder.

    Raises:
        UsageError: A path has no run, more than `most`, or cannot be read.
    """
    runs: dict[str, Run] = {}
    for path in paths:
        try:
            if _is_tree(path):
                _check_number(path, most)
                tree = read_all(path)
                runs |= {str(Path(path, name)): run for name, run in tree.items()}
                _report(tree.skipped)
            else:
                runs[str(Path(path))] = read(path)
        except FileNotFoundError as error:
            raise UsageError(f"{error}{_suggest(path)}") from error
        except OSError as error:
            raise UsageError(describe(error)) from error
        except ValueError as error:
            raise UsageError(str(error)) from error
    _report_below(runs)
    return runs


def _check_number(path: str, most: int | None) -> None:
    """Raise UsageError if more runs than `most` are under a folder, before any is read."""
    found = [] if most is None else sorted(map(str, run_folders(Path(path).expanduser())))
    if most is not None and len(found) > most:
        raise UsageError(f"{path} holds {len(found)} runs: name one of them, as in {found[0]}.")


def _report(skipped: Sequence[OSError]) -> None:
    """Write a line to standard error for each folder of a tree that cannot be read."""
    for error in skipped:
        note(f"skipped: {describe(error)}")


def _report_below(runs: Iterable[str]) -> None:
    """Write a line to standard error for each run with others below, as torch's `add_scalars` writes them."""
    folders = [folder for name in runs if (folder := Path(name).expanduser()).is_dir()]
    known = {folder.resolve() for folder in folders}
    for folder in folders:
        below = [each for each in run_folders(folder, most=_BELOW) if each.resolve() not in known]
        if below:
            count = counted(len(below), "run")
            note(f"left out: {count} below {folder}, which is a run itself: name them, as in {below[0]}")


def read_one(path: str) -> Run:
    """Return the run at a path.

    Raises:
        UsageError: The path has no run, or several.
    """
    runs = read_runs([path], most=1)
    return next(iter(runs.values()))


def choose(known: Iterable[str], globs: Sequence[str] | None) -> list[str]:
    """Return the tags that match one of the globs, in their order; all without globs.

    Raises:
        UsageError: A glob matches no tag.
    """
    names = list(known)
    if not globs:
        return names
    for glob in globs:
        if not matching(names, [glob]):
            raise UsageError(f"no tag is {glob}: {nearest(glob, names)}")
    return matching(names, globs)


def matching(names: Iterable[str], globs: Sequence[str] | None) -> list[str]:
    """Return the tags that match one of the globs; all without globs."""
    patterns = None if globs is None else list(map(pattern_of, globs))
    return [name for name in names if patterns is None or any(pattern.match(name) for pattern in patterns)]


def _is_tree(path: str) -> bool:
    """Return whether a path is a folder without event files of its own, but with runs below."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return False
    first = next(run_folders(folder), None)
    return first is not None and first != folder


def _suggest(path: str) -> str:
    """Return the end of a message with the names beside a path that does not exist."""
    folder = Path(path).expanduser()
    if folder.exists() or not folder.parent.is_dir():
        return ""
    try:
        names = sorted(each.name for each in folder.parent.iterdir() if each.is_dir())
    except OSError:  # the folder beside it may be searched, but not listed
        return ""
    return f" In {folder.parent}, {nearest(folder.name, names)}" if names else ""
