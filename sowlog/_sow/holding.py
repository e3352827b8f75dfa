"""The search for the models that a value holds: in containers, functions and plain objects."""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

import jax
import jax.core
import numpy as np

_T = TypeVar("_T")
_Found = Iterator[tuple[tuple[str, ...], _T]]
_LEAVES = (
    *(str, bytes, bool, int, float, complex, type(None), type, ModuleType),
    *(jax.Array, jax.core.Tracer, np.ndarray, np.generic),
)
# The objects of a program may lead to all others, so the search follows three attributes in a row at most.
_HOPS = 3
_LIBRARIES = {*sys.stdlib_module_names, "flax", "jax", "jaxlib", "numpy", "optax", "sowlog"}
_OPAQUE = _LIBRARIES - {"argparse", "collections", "types"}
"""Packages whose objects and functions are not searched: they name many objects, and no model of a user."""


def objects_in(value: Any, kind: type[_T]) -> _Found[_T]:
    """Return the objects of a type in nested containers, with the keys to each.

    Containers are dicts, sequences, dataclasses and pytrees; one in two places is searched once.
    """
    return _search(value, kind, (), {}, None)


def objects_held(value: Any, kind: type[_T]) -> _Found[_T]:
    """Return the objects of a type in a value, also those held by functions and by attributes of objects.

    A function holds the object of a method, its closure, its defaults, and the globals that it names. The
    keys are those of the containers alone.
    """
    return _search(value, kind, (), {}, _HOPS)


def _search(
    value: Any, kind: type[_T], keys: tuple[str, ...], seen: dict[int, Any], hops: int | None
) -> _Found[_T]:
    # `isinstance` reads `__class__`, which a proxy may compute or refuse.
    if issubclass(type(value), kind):
        yield keys, value
        return
    if issubclass(type(value), _LEAVES) or id(value) in seen:
        return
    seen[id(value)] = value
    for key, element in _elements(value):
        yield from _search(element, kind, (*keys, key), seen, hops)
    if hops is None:
        return
    for held in _of_function(value):
        yield from _search(held, kind, keys, seen, hops)
    if hops and not _is_opaque(type(value)):
        for held in list(getattr(value, "__dict__", {}).values()):
            yield from _search(held, kind, keys, seen, hops - 1)


def _elements(value: Any) -> Iterator[tuple[str, Any]]:
    """Return the elements of a container. Mappings other than dicts have none: they may read from a file."""
    if isinstance(value, dict):
        yield from ((str(key), element) for key, element in list(value.items()))
    elif isinstance(value, tuple) and (fields := getattr(value, "_fields", None)):
        yield from zip(fields, value, strict=True)
    elif isinstance(value, list | tuple):
        yield from ((str(index), element) for index, element in enumerate(value))
    elif dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    elif isinstance(value, functools.partial):
        return
    elif node := jax.tree_util.default_registry.flatten_one_level_with_keys(value):
        yield from ((jax.tree_util.keystr((key,), simple=True), element) for key, element in node[0])


def _of_function(function: Any) -> Iterator[Any]:
    """Return the values that a function holds, and the function that a wrapper wraps."""
    if isinstance(function, functools.partial):
        yield from (function.func, *function.args, *function.keywords.values())
    elif inspect.ismethod(function):
        yield from (function.__self__, function.__func__)
    elif isinstance(function, FunctionType):
        yield from _cells_of(function)
        yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        yield from _globals_of(function)
    wrapped = getattr(function, "__dict__", {}).get("__wrapped__")
    if wrapped is not None:
        yield wrapped


def _is_opaque(value: Any) -> bool:
    return (value.__module__ or "").partition(".")[0] in _OPAQUE


def _cells_of(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # the name has no value yet
            continue


def _globals_of(function: FunctionType) -> Iterator[Any]:
    """Return the globals that a function names, without the functions and classes of other modules."""
    if _is_opaque(function):
        return
    for name in _names_in(function.__code__):
        value = function.__globals__.get(name)
        module = getattr(value, "__module__", None) if callable(value) else None
        is_data = not isinstance(value, type | FunctionType)
        if is_data or module == function.__module__:
            yield value


def _names_in(code: CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(_names_in, inner))
