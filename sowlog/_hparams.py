"""Hyperparameters: nested settings made flat and plain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from sowlog._record import HParams


def check(values: Mapping[Any, Any], metrics: Sequence[Any]) -> HParams:
    """Return the settings by dotted name, each a finite number, a truth value or text.

    Raises:
        TypeError: if a name is no text, a value is none of a setting's, or the metrics are one text.
        ValueError: if there is no setting, or two have one name.
    """
    if isinstance(metrics, str) or not all(isinstance(tag, str) for tag in metrics):
        raise TypeError(f"metrics is {metrics!r}; it must be a list of tags, metrics=['eval/loss']")
    flat: dict[str, bool | float | str] = {}
    for name, value in _flatten(values, ()):
        if name in flat:
            raise ValueError(f"two hyperparameters have the name {name}: rename one of them")
        flat[name] = _plain(name, value)
    if not flat:
        raise ValueError("no hyperparameters were given: log.hparams({'learning_rate': 1e-3})")
    return HParams(MappingProxyType(flat), tuple(metrics))


def _flatten(values: Mapping[Any, Any], prefix: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if not isinstance(name, str):
            raise TypeError(f"the hyperparameter {name!r} has a name of type {type(name).__name__}; use text")
        if isinstance(value, Mapping):
            yield from _flatten(cast(Mapping[Any, Any], value), (*prefix, name))
        else:
            yield ".".join((*prefix, name)), value


def _plain(name: str, value: Any) -> bool | float | str:
    if isinstance(value, np.generic):
        value = value.item()
    for kind in (bool, int, str):
        if isinstance(value, kind):
            return kind(value)  # Of an enumeration's member, the plain value.
    if isinstance(value, float):
        # A column of numbers is sorted and drawn, where TensorBoard leaves out NaN and infinity.
        return float(value) if math.isfinite(value) else str(value)
    if value is None or isinstance(value, list | tuple):
        return str(cast(object, value))
    raise TypeError(
        f"the hyperparameter {name} is of type {type(value).__name__}: give a bool, an int, a float, text, "
        f"None, a list or a mapping of these; of an array with one element, array.item()"
    )
