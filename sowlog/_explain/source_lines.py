"""The user's line of an equation, and the module path and the pass in its name stack."""

import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "equinox", "haiku", "penzai", "chex", "sowlog")
_LIBRARY_FILE = re.compile(rf"[/\\](site|dist)-packages[/\\]({'|'.join(_LIBRARIES)})[/\\]")
_OWN = str(Path(__file__).parents[1])
_STANDARD = sysconfig.get_path("stdlib")
_TRANSFORM = re.compile(r"\w+\(|\)")
_RECOMPUTATION = "rematted_computation"
_NO_MODULES = ("", _RECOMPUTATION, "checkpoint")
_OF_EQUINOX = "eqx.nn."
"""Equinox names the class of its own layers, whose path is known."""


def line_of(equation: Any) -> str:
    """Return "file:line (function)" of the innermost frame outside of libraries, "" if there is none.

    The traceback of an equation begins at the function that was traced, so the caller of a jitted function of
    a library is found at the equation that calls it.
    """
    traceback = equation.source_info.traceback
    for frame in () if traceback is None else traceback.frames:
        if not _is_library(frame.file_name):
            return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
    return ""


def _is_library(file: str) -> bool:
    in_standard = file.startswith(_STANDARD) and "-packages" not in file
    return in_standard or file.startswith(_OWN) or _LIBRARY_FILE.search(file) is not None


def module_of(names: Sequence[str]) -> str:
    """Return the path of modules and scopes in name stacks, the outermost first."""
    parts = [part for stack in names for part in _TRANSFORM.sub("", stack).split("/")]
    path = [part for part in parts if part not in _NO_MODULES and not part.startswith(_OF_EQUINOX)]
    return "/".join(path if phase_of(names) == "forward" else _without_repeats(path))


def _without_repeats(path: list[str]) -> list[str]:
    """Return a path with each name or sequence of names once that is there twice in a row.

    JAX repeats the names around a checkpoint that it transposes in a scan.
    """
    for start in range(len(path)):
        for end in range(start + 1, len(path)):
            if path[start:end] == path[end : 2 * end - start]:
                return _without_repeats(path[:start] + path[end:])
    return path


def phase_of(names: Sequence[str]) -> str:
    """Return the pass that name stacks are of."""
    if any(_RECOMPUTATION in stack for stack in names):
        return "recomputation"
    return "backward" if any("transpose(" in stack for stack in names) else "forward"
