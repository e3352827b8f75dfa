"""The paths of watched Equinox modules: the fields that lead to a module from the one that calls it.

A module of Equinox has no name, and a transform makes it anew; but it calls its own fields.
"""

import contextvars
import functools
from collections.abc import Callable
from typing import Any

from sowlog._sow.holding import objects_in
from sowlog._sow.labels import METRICS, Label
from sowlog._sow.module_names import named
from sowlog._sow.paths import scope_path
from sowlog._sow.watching import call_watched, is_watching, watch_classes

_calls: contextvars.ContextVar[tuple[Any, tuple[str, ...]] | None] = contextvars.ContextVar(
    "sowlog_equinox_call", default=None
)


def watch_calls(base: type) -> None:
    """Let the calls of all classes of Equinox modules be watched and named."""
    watch_classes(base, functools.partial(_watched, base))


def _watched(base: type, module: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if type(module).__module__.startswith("equinox._"):
        # A transform, such as a function under equinox.filter_jit.
        return call(module, *args, **kwargs)
    calling = _calls.get()
    path = _path_from(calling, module, base)
    token = _calls.set((module, path))
    try:
        call = functools.partial(call, module)
        with named(path):
            if not is_watching():
                return call(*args, **kwargs)
            label = Label(METRICS, (*scope_path(), *path), "")
            return call_watched(label, module, lambda: module, call, args, kwargs)
    finally:
        _calls.reset(token)


def _path_from(calling: tuple[Any, tuple[str, ...]] | None, module: Any, base: type) -> tuple[str, ...]:
    if calling is None:
        return ()
    outer, path = calling
    if outer is module:
        return path
    fields = _path_in(outer, module, base)
    return (*path, *((type(module).__name__,) if fields is None else fields))


def _path_in(outer: Any, module: Any, base: type) -> tuple[str, ...] | None:
    """Return the fields that lead to a module from one around it, the shortest; None if there are none."""
    below: list[tuple[tuple[str, ...], Any]] = [((), outer)]
    while below:
        path, one = below.pop(0)
        for name, value in vars(one).items():
            for keys, inner in objects_in(value, base):
                if inner is module:
                    return (*path, name, *keys)
                below.append(((*path, name, *keys), inner))
    return None
