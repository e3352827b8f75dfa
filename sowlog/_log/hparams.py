"""Hyperparameters: nested settings flattened to dotted names and plain values."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from sowlog._printable import encodable
from sowlog.writers.record import HParams

# The default repr of an object has its address, which differs from run to run.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def check_hparams(values: Any, metrics: Any) -> HParams:
    """Return the settings by dotted name, each a finite number, a bool or text.

    Raises:
        TypeError: A name is not text, a value has an unsupported type, or the metrics are no list of tags.
        ValueError: There are no settings, two have one name, or a mapping contains itself.
    """
    tags = _check_metrics(metrics)
    if not _is_mapping(values):
        raise TypeError(
            f"the hyperparameters are of type {type(values).__name__}: give a mapping of names to values, as "
            f"in vars(args) or dataclasses.asdict(config)."
        )
    flat: dict[str, bool | float | str] = {}
    for name, value in _flatten(values, (), ()):
        if name in flat:
            raise ValueError(f"two hyperparameters have the name {name}: rename one of them.")
        flat[name] = _plain(name, value)
    if not flat:
        raise ValueError("no hyperparameters were given: log.hparams({'learning_rate': 1e-3}).")
    return HParams(MappingProxyType(flat), tags)


def _check_metrics(metrics: Any) -> tuple[str, ...]:
    tags = tuple(metrics) if isinstance(metrics, Iterable) and not isinstance(metrics, str) else (None,)
    if not all(isinstance(tag, str) for tag in tags):
        raise TypeError(f"metrics is {metrics!r}; it must be a list of tags, metrics=['eval/loss'].")
    return tuple(encodable(str(tag)) for tag in tags)


def _is_mapping(value: Any) -> bool:
    """Return whether a value is a mapping by its methods: a ConfigDict is one without being a Mapping."""
    return isinstance(value, Mapping) or (
        not isinstance(value, type)
        and callable(getattr(value, "keys", None))
        and hasattr(value, "__getitem__")
    )


def _flatten(values: Any, prefix: tuple[str, ...], parents: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    if any(values is parent for parent in parents):
        raise ValueError(f"the hyperparameter {'.'.join(prefix)} contains itself: leave it out.")
    for name in values.keys():  # noqa: SIM118 - not every mapping yields its names
        if not isinstance(name, str):
            where = f" in {'.'.join(prefix)}" if prefix else ""
            raise TypeError(
                f"the hyperparameter {name!r}{where} has a name of type {type(name).__name__}; use text."
            )
        value = values[name]
        if _is_mapping(value):
            yield from _flatten(value, (*prefix, encodable(name)), (*parents, values))
        else:
            yield ".".join((*prefix, encodable(name))), value


def _plain(name: str, value: Any) -> bool | float | str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return encodable(str.__str__(value))  # A member of an enumeration becomes its plain value.
    if isinstance(value, int | float):
        return _number(value)
    if hasattr(value, "__array__"):
        raise _no_setting(name, value)
    text = _name_of(value) if callable(value) else str(value)
    if _ADDRESS.search(text):
        raise _no_setting(name, value)
    return encodable(text)


def _number(value: float) -> float | str:
    # A member of an enumeration becomes its plain value.
    number = int(value) if isinstance(value, int) else float(value)
    try:
        # TensorBoard leaves NaN and infinity out of a column of numbers, so both become text.
        return number if math.isfinite(number) else str(number)
    except OverflowError:
        # An event file holds a float64, and this integer is beyond it.
        return str(number)


def _name_of(value: Any) -> str:
    """Return the qualified name of a function, a class or another callable."""
    if isinstance(value, functools.partial):
        value = cast(functools.partial[Any], value)
        named = [f"{key}={each!r}" for key, each in value.keywords.items()]
        return f"{_name_of(value.func)}({', '.join([*map(repr, value.args), *named])})"
    known = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return f"{value.__module__}.{known}" if isinstance(known, str) else str(value)


def _no_setting(name: str, value: Any) -> TypeError:
    return TypeError(
        f"the hyperparameter {name} is of type {type(value).__name__}: give a bool, an int, a float, text, "
        f"None, a list, or a mapping of these; of an array with one element, array.item(); of an object, "
        f"str(object) or vars(object)."
    )
