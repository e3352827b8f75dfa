"""`sowlog check`: the integrity of the files of runs, whole copies of damaged ones, and expected values."""

from __future__ import annotations

import operator
import os
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sowlog._cli.errors import UsageError
from sowlog._cli.report import Report, counted, number
from sowlog._cli.selecting import read_runs
from sowlog._events.reading import Run
from sowlog._events.repairing import Copied, copy_whole_records
from sowlog._printable import printable
from sowlog._tree.nearest import nearest

_OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_EXPECTATION = re.compile(r"(?P<tag>.+?)\s*(?P<sign><=|>=|==|!=|<|>)\s*(?P<number>[^<>=!]+)", re.DOTALL)


def run(options: Namespace) -> Report:
    """Return the report on files and expectations; its status is 1 if one of them is not met."""
    conditions = [_parse(text) for text in options.expect]
    runs = read_runs(options.runs)
    expectations = [_judge(name, one, *condition) for name, one in runs.items() for condition in conditions]
    folders = _folders(runs, options.repair)
    files = [
        _check_file(one, file, folders[name])
        for name, one in runs.items()
        for file in one._reader.tracker.records
    ]
    is_whole = not any(file["damage"] for file in files)
    is_met = all(each["holds"] for each in expectations)
    data = {"files": files, "expectations": expectations, "ok": is_whole and is_met}
    return Report(0 if data["ok"] else 1, data, lambda: _describe(data))


def _parse(text: str) -> tuple[str, str, str, float]:
    found = _EXPECTATION.fullmatch(text.strip())
    try:
        limit = float(found["number"]) if found else None
    except ValueError:
        limit = None
    if found is None or limit is None:
        raise UsageError(f"--expect {text!r} is no condition: write it as in --expect 'eval/accuracy>0.97'.")
    return text, found["tag"], found["sign"], limit


def _judge(name: str, run: Run, text: str, tag: str, sign: str, limit: float) -> dict[str, Any]:
    """Return whether the last value of a tag meets a condition.

    Raises:
        UsageError: The run has no such tag.
    """
    if tag not in run.scalars or not len(run.scalars[tag].steps):
        raise UsageError(f"{name} has no tag {printable(tag)} for --expect: {nearest(tag, run.scalars)}")
    steps, values = run.scalars[tag]
    value = float(values[-1])
    holds = value == value and bool(_OPERATORS[sign](value, limit))  # noqa: PLR0124 - NaN meets nothing
    return {"expectation": text, "run": name, "step": int(steps[-1]), "value": value, "holds": holds}


def _folders(names: Iterable[str], folder: str | None) -> dict[str, Path | None]:
    """Return the folder of the copies of each run: of several runs, below their common folder."""
    paths = {name: Path(name).expanduser().absolute() for name in names}
    if folder is None:
        return dict.fromkeys(paths)
    common = os.path.commonpath(list(paths.values()))
    return {
        name: Path(folder) / (path.relative_to(common) if path.is_dir() else "")
        for name, path in paths.items()
    }


def _check_file(run: Run, file: Path, folder: Path | None) -> dict[str, Any]:
    damage = next((error for error in run.damage if error.path == file), None)
    target = folder / file.name if folder is not None and file.is_file() else None
    copied = None if target is None else _copy(file, target)
    return {
        "file": str(file),
        "bytes": file.stat().st_size if file.is_file() else None,
        "records": run._reader.tracker.records[file],
        "damage": None if damage is None else str(damage),
        "repaired": None if copied is None else str(target),
        "salvaged": None if copied is None else copied.behind,
        "images": None if copied is None else copied.images,
        "missing_images": [] if copied is None else list(map(str, copied.missing)),
    }


def _copy(file: Path, target: Path) -> Copied:
    try:
        return copy_whole_records(file, target)
    except FileExistsError as error:
        raise UsageError(f"--repair: {error.filename} exists; name a new folder.") from error
    except OSError as error:
        raise UsageError(f"--repair of {file} to {target}: {error.strerror}.") from error


def _describe(data: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for file in data["files"]:
        lines.append(
            file["damage"] or f"{file['file']}: {counted(file['records'], 'whole record')}, no damage"
        )
        if file["repaired"]:
            salvaged = f"{counted(file['salvaged'], 'record')} from behind the damage"
            images = f", with {counted(file['images'], 'image')}" if file["images"] else ""
            lines.append(f"  copied to {file['repaired']}, {salvaged}{images}")
        if missing := file["missing_images"]:
            lines.append(f"  without {counted(len(missing), 'image')} that cannot be read: {missing[0]} ...")
    for each in data["expectations"]:
        verdict = "holds" if each["holds"] else "does NOT hold"
        lines.append(
            f"{printable(each['expectation'])} {verdict}: {number(each['value'])} at step {each['step']} of "
            f"{each['run']}"
        )
    return lines
