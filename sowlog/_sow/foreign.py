"""Modules of other libraries than Flax linen: recognized by their class, so that nothing is imported."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Generator
from typing import Any

import jax

from sowlog._sow import module_names

_LIBRARIES = {"flax.nnx": "Flax nnx", "equinox": "Equinox", "haiku": "Haiku"}


def library_of(value: Any) -> str | None:
    """Return the name of the library that a module is of, or None for another value."""
    for kind in type(value).__mro__:
        for package, library in _LIBRARIES.items():
            if f"{kind.__module__}.".startswith(f"{package}."):
                return library
    return None


def described(value: Any, library: str) -> str:
    """Return the name of a value of another library in errors."""
    return f"{type(value).__name__}, a module of {library}"


@contextlib.contextmanager
def naming(fn: Callable[..., Any], args: Any, kwargs: Any) -> Generator[None]:
    """Name the equations of the modules of nnx and Equinox by the paths of these, in a call of a function."""
    watch_calls()
    nnx = loaded_nnx()
    with module_names.naming(), contextlib.nullcontext() if nnx is None else nnx.placing(fn, args, kwargs):
        yield


def watch_calls() -> None:
    """Let the calls of all modules of nnx and Equinox be watched and named, if the program uses these."""
    nnx, equinox = loaded_nnx(), sys.modules.get("equinox")
    if nnx is not None:
        nnx.watch_calls()
    if equinox is not None:
        importlib.import_module("sowlog._sow.equinox").watch_calls(equinox.Module)


def loaded_nnx() -> Any:
    """Return `sowlog._sow.nnx` if the program uses Flax nnx, or None: nnx takes a second to import."""
    if "flax.nnx" not in sys.modules:
        return None
    nnx = importlib.import_module("sowlog._sow.nnx")
    nnx.install()
    return nnx


def is_nnx(value: Any) -> bool:
    """Return whether a value is an object of Flax nnx, which a copy cannot stand for."""
    nnx: Any = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Pytree)


def is_variable(value: Any) -> bool:
    """Return whether a value is a variable of Flax nnx, which holds an array."""
    nnx: Any = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Variable)


def without_variables(tree: Any) -> Any:
    """Return a tree with the arrays of nnx variables in their place."""
    return jax.tree.map(
        lambda node: node.get_value() if is_variable(node) else node, tree, is_leaf=is_variable
    )
