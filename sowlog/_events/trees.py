"""The folders of runs in a tree of folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sowlog._events.framing import is_event_name
from sowlog._events.json_lines.form import METRICS_NAME

# Folders that the search for an error's suggestion visits.
_SUGGESTION = 1000


def run_folders(
    tree: Path, *, on_error: Callable[[OSError], None] | None = None, most: int | None = None
) -> Iterator[Path]:
    """Yield the folders under a path, itself included, that hold a run: event files or `metrics.jsonl`.

    Each folder is visited once, under its own name if it is reached without a link. A link to a folder that
    contains the link is not followed: its other folders are no part of the tree.

    Args:
        tree: the path.
        on_error: called with the error of a folder that cannot be listed; by default the folder is skipped.
        most: the largest number of folders to visit.
    """
    visited: set[tuple[int, int]] = set()
    folders, links = [tree], list[Path]()
    while (folders or links) and (most is None or len(visited) < most):
        folder = folders.pop() if folders else links.pop(0)
        try:
            state = folder.stat()
            if (state.st_dev, state.st_ino) in visited:
                continue
            visited.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            if on_error is not None:
                on_error(error)
            continue
        if any(_is_of_run(entry.name) and _is_file(entry) for entry in found):
            yield folder
        for entry in found:
            if _is_folder(entry) and not entry.is_symlink():
                folders.append(Path(entry.path))
            elif _is_folder(entry) and not _contains_itself(Path(entry.path)):
                links.append(Path(entry.path))


def suggest_runs(folder: Path) -> str:
    """Return the end of an error's message with the runs under a folder that is no run, if there are any."""
    runs = [path for path in run_folders(folder, most=_SUGGESTION) if path != folder]
    if not runs:
        return ""
    names = ", ".join(str(path) for path in runs[:3])
    more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
    return f" Its subfolders do: {names}{more}. Read one of them, or all by sowlog.read_all({str(folder)!r})."


def _is_of_run(name: str) -> bool:
    return is_event_name(name) or name == METRICS_NAME


def _contains_itself(link: Path) -> bool:
    """Return whether a link leads to a folder above it."""
    return link.parent.resolve().is_relative_to(link.resolve())


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
