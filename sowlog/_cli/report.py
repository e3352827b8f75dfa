"""The output of a command: JSON for programs, and text for people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sowlog._cli.tables import TextTable
from sowlog._printable import printable

# Beyond it a float is no count.
_WHOLE = 1e15

Setting = bool | float | str | None
"""The value of a hyperparameter; None in a run that has none."""


class Report(NamedTuple):
    """The result of a command.

    Attributes:
        status: the exit status.
        data: the result, of dicts, lists, texts and numbers, as `--json` prints it; None if the command has
            written its output.
        parts: returns the result for people, as lines of text and tables.
    """

    status: int
    data: Any
    parts: Callable[[], Sequence[str | TextTable]]


def as_json(data: Any) -> str:
    """Return data as one line of strict JSON; NaN and infinities are strings, as in protobuf's JSON."""
    return json.dumps(_finite(data), allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return "NaN" if math.isnan(data) else ("Infinity" if data > 0 else "-Infinity")
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


def counted(count: int, noun: str) -> str:
    """Return a number of things: 1 tag, 2 tags."""
    return f"{count} {noun}{'s' * (count != 1)}"


def number(value: float | None) -> str:
    """Return a value with four digits; empty for none."""
    return "" if value is None else f"{value:.4g}"


def setting(value: Setting) -> str:
    """Return the value of a hyperparameter with all its digits; event files hold whole numbers as floats."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _WHOLE else str(value)
    return "" if value is None else printable(str(value), most=40)
