"""The files of a run, event files or JSON lines, and the reader of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sowlog._events.framing import event_files, is_event_name
from sowlog._events.json_lines.form import JSON_SUFFIXES, METRICS_NAME
from sowlog._events.json_lines.reader import JsonReader
from sowlog._events.reader import Reader


def is_json_name(name: str) -> bool:
    """Return whether a name is that of a file of JSON lines."""
    return Path(name).suffix in JSON_SUFFIXES and not is_event_name(name)


def run_files(path: Path) -> list[Path]:
    """Return the files of the run at a path, in the order of reading.

    A folder's are its event files; without one, its `metrics.jsonl`.

    Raises:
        FileNotFoundError: The path does not exist, or the folder has neither.
    """
    if path.is_dir() and not any(is_event_name(each.name) and each.is_file() for each in path.iterdir()):
        if (path / METRICS_NAME).is_file():
            return [path / METRICS_NAME]
        raise FileNotFoundError(
            f"{path} holds no event file (*tfevents*) and no {METRICS_NAME}: pass one of these, or the "
            f"logdir of one run."
        )
    return event_files(path)


def reader_of(files: Sequence[Path]) -> Reader | JsonReader:
    """Return a reader of the files of a run, which has read nothing yet."""
    return JsonReader(files[0]) if is_json_name(files[0].name) else Reader()
