"""The path of scopes around a sow, in parts: each level of tracing has the names that are entered in it.

JAX keeps the jaxpr of a function and uses it again in another scope. So the labels of its sows have the names
inside of the function alone, and the rule of its transform adds those around: `sowlog._sow.rules`.
"""

import contextlib
import contextvars
from collections.abc import Generator
from typing import Any

from sowlog._sow import internals
from sowlog._sow.watches import active

_names: contextvars.ContextVar[tuple[tuple[Any, Any, str], ...]] = contextvars.ContextVar(
    "sowlog_names", default=()
)


@contextlib.contextmanager
def inside(parts: tuple[str, ...]) -> Generator[None]:
    """Add names to the path."""
    level, gradient = internals.level(), internals.gradient()
    token = _names.set((*_names.get(), *((level, gradient, part) for part in parts)))
    try:
        # Watches are matched with the whole path, so that JAX may not use a trace in another scope.
        watches = active()
        with internals.traced_for((watches, whole_path())) if watches else contextlib.nullcontext():
            yield
    finally:
        _names.reset(token)


def scope_path() -> tuple[str, ...]:
    """Return the names of the scopes that are entered at the level of the caller, the outermost first."""
    own = internals.level()
    return tuple(name for level, _, name in _names.get() if level is own)


def gradient_path() -> tuple[str, ...]:
    """Return those names of `scope_path` that are entered inside of the innermost gradient."""
    own, gradient = internals.level(), internals.gradient()
    return tuple(name for level, inside, name in _names.get() if level is own and inside is gradient)


def outer_path() -> tuple[str, ...]:
    """Return the names of the scopes around the level of the caller."""
    own = internals.level()
    return tuple(name for level, _, name in _names.get() if level is not own)


def whole_path() -> tuple[str, ...]:
    """Return the names of all scopes around the caller."""
    return tuple(name for _, _, name in _names.get())
