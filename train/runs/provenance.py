"""Provenance of a run, at each start: libraries, code and data, and changes between starts."""

import contextlib
import importlib.metadata
import json
import platform
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from train.config.errors import RunWarning, one_line
from train.system import files

META = "meta.json"
PACKAGES = ("sowlog", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorboardX", "numpy")

_OTHER_DATA = "other data than before"
_LEAK = (
    "Examples that it holds out now may have been trained on before. Write: a fixed seed in a function that "
    "draws or shuffles its data."
)

Start = dict[str, Any]


class _Meta(BaseModel):
    """The contents of meta.json."""

    seed: int
    starts: list[Start]


def begin(
    folder: Path, *, seed: int, argv: Sequence[str], devices: Sequence[str], step: int, data: str
) -> Start:
    """Add a start to a run's meta.json, warn of changes since the one before, and return it.

    Args:
        folder: the run folder.
        seed: the run's seed.
        argv: the arguments of the program.
        devices: the kind of each device.
        step: the step at which it begins or continues.
        data: the digest of its data; empty if it is not known.
    """
    started: Start = {
        "step": step,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "argv": ["python", "-m", "train", *argv],
        "host": platform.node(),
        **_inputs(devices, data),
    }
    before = _read(folder / META)
    if step and before and (changes := list(_changes(before[-1], started))):
        leak = f" {_LEAK}" if _OTHER_DATA in changes else ""
        warnings.warn(
            f"this run goes on at step {step} with {', '.join(changes)}: it may differ from a straight run."
            f"{leak}",
            RunWarning,
            stacklevel=2,
        )
    files.write(folder / META, json.dumps({"seed": seed, "starts": [*before, started]}, indent=2) + "\n")
    return started


def changes(folder: Path, *, devices: Sequence[str], data: str) -> list[str]:
    """Return the changes since a run's last start, each in a phrase.

    Other devices are a change, as they round differently. Nothing is written. Without a meta.json that can
    be read, no change is known.

    Args:
        folder: the run folder.
        devices: the kind of each device.
        data: the digest of the data; empty if it is not known.
    """
    try:
        before = _Meta.model_validate_json(files.read(folder / META)).starts
    except (OSError, ValueError):
        return []
    if not before:
        return []
    now = _inputs(devices, data)
    found = list(_changes(before[-1], now))
    if (old := before[-1].get("devices")) and old != now["devices"]:
        found.append(f"devices {_listed(now['devices'])} in place of {_listed(old)}")
    return found


def _listed(devices: Sequence[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in Counter(devices).items())


def _inputs(devices: Sequence[str], data: str) -> Start:
    """Return the inputs of a start outside of its configuration."""
    return {
        "git_commit": _git_commit(),
        "devices": list(devices),
        "versions": _versions(),
        "data": data,
    }


def _read(file: Path) -> list[Start]:
    """Return the starts so far; a file that holds none is quarantined."""
    try:
        return _Meta.model_validate_json(files.read(file)).starts
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        aside = free_name(file.with_name(f"{file.name}.unreadable"))
        file.rename(aside)
        warnings.warn(
            f"{file} cannot be read: {_cause(error)}. It is now {aside.name} there, and changes "
            "since the last start are not known.",
            RunWarning,
            stacklevel=3,
        )
        return []


def _cause(error: Exception) -> str:
    """Return an error in a line; pydantic's has several, of which the last ones lead to its documentation."""
    if isinstance(error, ValidationError):
        return "; ".join(details["msg"] for details in error.errors(include_url=False)[:3])
    return one_line(error)


def free_name(path: Path) -> Path:
    """Return a free path: the same, or with a number after it."""
    number = 1
    while (name := path if number == 1 else path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return name


def _changes(before: Start, now: Start) -> Iterator[str]:
    """Yield the differences from the start before, in the fields that it has."""
    old, new = before.get("versions"), now["versions"]
    if isinstance(old, Mapping):
        versions = cast(Mapping[str, object], old)
        for package, version in new.items():
            if package in versions and versions[package] != version:
                yield f"{package} {version or 'of a checkout'} in place of {versions[package]}"
    if (commit := before.get("git_commit")) and commit != now["git_commit"]:
        yield f"the code of commit {now['git_commit']} in place of {commit}"
    if (data := before.get("data")) and now["data"] and data != now["data"]:
        yield _OTHER_DATA


def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}


def _version(package: str) -> str | None:
    """Return the installed version; None for a checkout that is used as it stands."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _git_commit() -> str | None:
    """Return the commit of the source, "+changes" after it if the tree differs; None outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+changes",
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
