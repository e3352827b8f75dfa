"""A line of JSON lines, parsed and checked, with the places of the values that stay in the file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sowlog._events.json_lines.form import NONFINITE

# The keys of values that stay in the file, and the kinds of a run's contents.
_KINDS = {"histograms": "histograms", "images": "images", "pr_curves": "pr_curves", "texts": "text"}
_OBJECTS = (*_KINDS, "scalars", "nonfinite")
_SPACE = re.compile(r"[ \t\r\n]*")
_INT64 = 1 << 63
_SETTING = bool | int | float | str


class NoJsonError(ValueError):
    """A line is no JSON, as one that a kill has cut."""


class Place(NamedTuple):
    """A value that stays in the file.

    Attributes:
        kind: the kind of the value.
        tag: its tag.
        start: the first byte of its JSON in the line.
        end: the byte behind it.
    """

    kind: str
    tag: str
    start: int
    end: int


class Line(NamedTuple):
    """The contents of a line.

    Attributes:
        step: the step.
        time: seconds since the epoch; NaN for null.
        run: the name of the run, in an export of several runs; else None.
        is_resumed: whether the line supersedes the lines before it from its step on.
        scalars: values by tag.
        places: the values that stay in the file.
        hparams: the hyperparameters, if the line has them.
    """

    step: int
    time: float
    run: str | None
    is_resumed: bool
    scalars: Mapping[str, float]
    places: list[Place]
    hparams: dict[str, bool | float | str] | None


def parse_line(data: bytes) -> Line:
    """Parse one line.

    Raises:
        NoJsonError: It is no JSON.
        ValueError: It is no line of JsonLines; the message is the end of a sentence about the line.
    """
    try:
        text = data.decode("utf-8")
        fields = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise NoJsonError(f"is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError("is no JSON object")  # noqa: TRY004 - of the file, not of an argument
    step, time = fields.get("step"), fields.get("time")
    if type(step) is not int or not -_INT64 <= step < _INT64:
        raise ValueError(f'has no integer of 64 bits as "step", but {_shown(step)}')
    if "time" not in fields or not (time is None or type(time) in (int, float)):
        raise ValueError(f'has no number as "time", but {_shown(time)}')
    for name in _OBJECTS:
        if name in fields and not isinstance(fields[name], dict):
            raise ValueError(f'has no object as "{name}", but {_shown(fields[name])}')
    return Line(
        step,
        math.nan if time is None else time,
        fields.get("run"),
        fields.get("resumed") is True,
        _scalars(fields),
        list(_places(text, fields)) if _KINDS.keys() & fields.keys() else [],
        _hparams(fields),
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not in JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _shown(value: Any) -> str:
    return repr(value)[:80]


def _scalars(fields: Mapping[str, Any]) -> Mapping[str, float]:
    scalars, names = fields.get("scalars", {}), fields.get("nonfinite", {})
    if not (names or None in scalars.values()):
        return scalars
    return {tag: _nonfinite(tag, names) if value is None else value for tag, value in scalars.items()}


def _nonfinite(tag: str, names: Mapping[str, Any]) -> float:
    name = names.get(tag)
    value = NONFINITE.get(name) if isinstance(name, str) else None
    if value is None:
        raise ValueError(
            f'has null for the scalar {tag!r}, and in "nonfinite" none of {", ".join(NONFINITE)} for it'
        )
    return value


def _hparams(fields: Mapping[str, Any]) -> dict[str, bool | float | str] | None:
    """Return the hyperparameters as event files have them: each number is a float."""
    if "hparams" not in fields:
        return None
    found = fields["hparams"]
    values = found.get("values") if isinstance(found, dict) else None
    if not isinstance(values, dict) or not all(isinstance(each, _SETTING) for each in values.values()):
        raise ValueError('has no "hparams" with "values" that are numbers, texts and booleans')
    return {name: float(value) if type(value) is int else value for name, value in sorted(values.items())}


def _places(text: str, fields: Mapping[str, Any]) -> Iterator[Place]:
    is_ascii = text.isascii()
    for name, start, _ in _members(text, _skip_space(text, 0)):
        kind = _KINDS.get(name)
        if kind is None or not fields[name]:
            continue
        for tag, first, last in _members(text, start):
            if is_ascii:
                yield Place(kind, tag, first, last)
            else:
                yield Place(kind, tag, len(text[:first].encode()), len(text[:last].encode()))


def _members(text: str, start: int) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each member of the object at a position, and where its value begins and ends."""
    place = _skip_space(text, start + 1)
    while text[place] != "}":
        name, place = _DECODER.raw_decode(text, place)
        place = _skip_space(text, _skip_space(text, place) + 1)
        _, end = _DECODER.raw_decode(text, place)
        yield name, place, end
        place = _skip_space(text, end)
        if text[place] == ",":
            place = _skip_space(text, place + 1)


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()
