"""Checks of arguments, made before a file or a thread is created."""

from __future__ import annotations

import threading
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.core
import numpy as np

from sowlog._events.folders import local_folder
from sowlog._reduce.values import shown

# The steps that an event file can hold.
MIN_STEP, MAX_STEP = -(2**63), 2**63 - 1


def check_count(value: Any, name: str, rule: str) -> int:
    """Return an integer of at least 1.

    Raises:
        TypeError: The value is not an integer.
        ValueError: The value is less than 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be an integer.")
    if value < 1:
        raise ValueError(f"{name} is {value}; {rule}.")
    return int(value)


def check_path(path: str | PathLike[str]) -> Path:
    """Return the path of a writer's file or folder as it is now: the program may leave its working folder.

    Raises:
        ValueError: The path is not on this machine, as `gs://bucket/run`.
    """
    return local_folder(path).absolute()


def check_resume(step: Any) -> int | None:
    """Return the step that a run is resumed from, or None.

    Raises:
        TypeError: The step is not an integer.
        ValueError: The step is beyond int64.
    """
    if step is None:
        return None
    if isinstance(step, bool) or not isinstance(step, int | np.integer):
        raise TypeError(
            f"resume_from is {step!r}, a {type(step).__name__}; it must be an integer, the first step that "
            f"will be logged: resume_from=int(step)."
        )
    if not MIN_STEP <= step <= MAX_STEP:
        raise ValueError(f"resume_from is {step}; an event file holds steps of int64, up to {MAX_STEP}.")
    return int(step)


def check_name(writer: str, name: str, value: Any) -> str:
    """Return a name in a service, which is not empty.

    Raises:
        TypeError: The value is not a str.
        ValueError: The value is empty.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} of {writer} is {value!r}, a {type(value).__name__}; it must be a str.")
    if not value.strip():
        raise ValueError(f"{name} of {writer} is {value!r}; it must not be empty.")
    return value


def check_timeout(name: str, timeout: Any) -> float:
    """Return a number of seconds.

    Raises:
        TypeError: The value is not a number.
        ValueError: The value is negative, NaN or longer than a thread may wait.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"{name} is {timeout!r}, a {type(timeout).__name__}; it must be in seconds.")
    if not 0 <= timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name} is {timeout}; it must be 0 seconds or more.")
    return float(timeout)


def check_writers(writers: Any, resume_from: Any) -> list[Any]:
    """Return the writers of a logger as a list.

    Raises:
        TypeError: The writers are not iterable, or one of them is not a writer.
        ValueError: There is a step to resume from, which a writer takes itself.
    """
    if check_resume(resume_from) is not None:
        raise ValueError(
            "resume_from was given together with writers: give it to the writer, as in "
            f"Logger(logdir, writers=[TensorBoard(logdir, resume_from={resume_from}), ...])."
        )
    if callable(getattr(writers, "write", None)):
        raise TypeError(f"writers is a {type(writers).__name__}; give a list, writers=[writer].")
    try:
        known = list(writers)
    except TypeError:
        raise TypeError(f"writers is {writers!r}; give a list of writers, writers=[writer].") from None
    for writer in known:
        check_writer(writer)
    return known


def check_writer(writer: Any) -> None:
    """Check that an object is a writer.

    Raises:
        TypeError: The object lacks a method of a writer, or is a class.
    """
    if isinstance(writer, type):
        raise TypeError(f"{writer.__name__} is a class; give a writer, {writer.__name__}(...).")
    missing = [name for name in ("write", "flush", "close") if not callable(getattr(writer, name, None))]
    if missing:
        raise TypeError(
            f"{writer!r} is no writer, since it has no method {' and no method '.join(missing)}: see "
            f"sowlog.writers.Writer."
        )


def check_step(step: object) -> int:
    """Return a step as an int, or raise if it is traced, on a device, no integer or beyond int64."""
    if isinstance(step, jax.core.Tracer):
        raise TypeError(
            "the step is traced, so it has no value yet: log runs on the host, outside of jit, grad, vmap "
            "and scan. Return sowlog.pack(metrics) from the transformed function, and write "
            "log(step, packed) where it is called."
        )
    if isinstance(step, jax.Array):
        raise TypeError(
            "the step is a jax.Array, and reading it would make training wait for the device: count on the "
            "host, `for step, batch in enumerate(batches)`, or accept the wait, log(int(step), metrics)."
        )
    if isinstance(step, bool) or not isinstance(step, int | np.integer):
        raise TypeError(
            f"the step is {shown(step)}, a {type(step).__name__}; it must be an integer: log(step, metrics)."
        )
    if not MIN_STEP <= step <= MAX_STEP:
        raise ValueError(f"the step is {shown(step)}; an event file holds steps of int64, up to {MAX_STEP}.")
    return int(step)
