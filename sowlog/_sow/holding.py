"""Which objects a value, or a function, holds: the models among arguments, in closures, in globals."""

import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

_T = TypeVar("_T")
_LEAVES = (str, bytes, bool, int, float, complex, type(None), FunctionType, type)
_Found = Iterator[tuple[tuple[str, ...], _T]]


def objects_in(value: Any, kind: type[_T], keys: tuple[str, ...] = ()) -> _Found[_T]:
    """Return the objects of a type in nested dicts, sequences and dataclasses, with the keys to each."""
    if isinstance(value, kind):
        yield keys, value
        return
    if isinstance(value, _LEAVES):
        return
    for key, element in _elements(value):
        yield from objects_in(element, kind, (*keys, key))


def _elements(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), element) for key, element in value.items())
    elif isinstance(value, tuple) and (fields := getattr(value, "_fields", None)):
        yield from zip(fields, value, strict=True)
    elif isinstance(value, list | tuple):
        yield from ((str(index), element) for index, element in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))


def objects_of(function: Any, kind: type[_T]) -> _Found[_T]:
    """Return the objects of a type that a function is, is bound to, closes over, or names as globals."""
    for value in _values_of(function, {}):
        if isinstance(value, type | ModuleType):
            continue
        yield from objects_in(value, kind)
        if not isinstance(value, kind):
            for attribute in getattr(value, "__dict__", {}).values():
                yield from objects_in(attribute, kind)


def _values_of(function: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """Return the values that a function holds, and those of the functions among them."""
    if id(function) in seen:
        return
    seen[id(function)] = function
    if isinstance(function, functools.partial):
        held = [function.func, *function.args, *function.keywords.values()]
    elif inspect.ismethod(function):
        held = [function.__self__, function.__func__]
    elif isinstance(function, FunctionType):
        held = [*_cells_of(function), *_globals_of(function)]
        held += [vars(function)["__wrapped__"]] if "__wrapped__" in vars(function) else []
    elif hasattr(function, "__wrapped__"):
        held = [function.__wrapped__]
    else:
        yield function
        return
    for value in held:
        yield from _values_of(value, seen)


def _cells_of(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # the name has no value yet
            continue


def _globals_of(function: FunctionType) -> Iterator[Any]:
    """Return the globals that a function names; functions of other modules are a library's."""
    for name in _names_in(function.__code__):
        value = function.__globals__.get(name)
        module = getattr(value, "__module__", None) if callable(value) else None
        is_model = not isinstance(value, type | FunctionType)
        if is_model or module == function.__module__:
            yield value


def _names_in(code: CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(_names_in, inner))
