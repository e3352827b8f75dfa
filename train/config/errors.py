"""Errors in a configuration, each in one line: place, dotted key, cause and suggestion.

And the warning of a run that continues without a part.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic_core import ErrorDetails

from train.config import fields
from train.config.base import tag_of
from train.config.fields import Key

Tree = dict[str, Any]

COMMAND_LINE = "command line"


class ConfigError(Exception):
    """An invalid configuration: one line for each error, with a full stop."""

    def __init__(self, errors: Sequence[str]):
        self.errors = tuple(sentence(one_line(error)) for error in errors)
        super().__init__("\n".join(self.errors))


class RunWarning(UserWarning):
    """Something of a run is not there or cannot be written, and the run goes on without it."""


def explain(details: ErrorDetails, tree: Tree, places: Mapping[Key, str], file: str) -> str:
    """Describe one of pydantic's errors in a line that names the place, the dotted key and the next move."""
    key = _key_of(details["loc"], tree)
    context = details.get("ctx", {})
    kind = details["type"]
    if kind == "disagree":
        key += tuple(filter(None, context["key"].split(".")))
    elif kind == "union_tag_not_found" and not isinstance(details["input"], dict):
        kind = "model_type"
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        key += ("name",)
    return f"{_place(key, places, file)}: {'.'.join(key)}: {_message(kind, key, details, tree)}"


def did_you_mean(given: str, choices: Sequence[str]) -> str:
    """Return the end of a line that suggests the nearest choice; nothing if none is near."""
    near = difflib.get_close_matches(given, choices, 1)
    return f"; did you mean {near[0]}?" if near else ""


def explain_yaml(error: Exception) -> str:
    """Describe in a line why a text is no YAML."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(getattr(error, "problem", None) or error)


def similar_file(path: Path) -> str:
    """Return the end of a line that suggests a file in place of one that is not there."""
    folders = [path.parent] if path.parent.is_dir() else []
    found = [file for folder in (*folders, Path("configs")) for file in sorted(folder.glob("*.y*ml"))]
    by_stem = {file.stem: str(file) for file in reversed(found)}
    if near := did_you_mean(str(path), list(by_stem.values())):
        return near
    if near := difflib.get_close_matches(path.stem, by_stem, 1):
        return f"; did you mean {by_stem[near[0]]}?"
    return f"; there are {', '.join(dict.fromkeys(map(str, found)))}" if found else ""


def one_line(error: object) -> str:
    """Return a message without its line breaks."""
    return " ".join(str(error).split())


def sentence(line: str) -> str:
    """Return a line with a full stop at its end, unless it ends with one or with a question mark."""
    return line if line.endswith((".", "?")) else f"{line}."


def show(value: object) -> str:
    """Return a value as it was written, with a long one cut."""
    text = f'"{value}"' if isinstance(value, str) else "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _message(kind: str, key: Key, details: ErrorDetails, tree: Tree) -> str:
    context = details.get("ctx", {})
    value: object = details["input"]
    match kind:
        case "extra_forbidden" | "invalid_key":
            message = "unknown key" + _did_you_mean_key(key, tree)
        case "missing":
            message = "missing"
        case "union_tag_not_found":
            message = f"missing; one of {', '.join(fields.names(key[:-1]))}"
        case "union_tag_invalid":
            message = _must_be_one_of(fields.names(key[:-1]), cast(Tree, value)["name"])
        case "literal_error":
            message = _must_be_one_of(re.findall(r"'([^']*)'", str(context["expected"])), value)
        case "disagree":
            message = str(context["message"])
        case _:
            wanted = _WANTED.get(kind) or details["msg"].replace("Input should be", "must be")
            message = f"{wanted}, got {show(value)}"
    return message


_WANTED = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping of settings",
    "model_attributes_type": "must be a mapping of settings",
}


def _must_be_one_of(choices: Sequence[str], given: object) -> str:
    return f"must be one of {', '.join(choices)}, got {show(given)}{did_you_mean(str(given), choices)}"


def _key_of(loc: tuple[int | str, ...], tree: Tree) -> Key:
    """Return the dotted key of a pydantic location, which also names the choice made in each union."""
    key: list[str] = []
    inside: object = tree
    tag: str | None = None
    for part in loc:
        if part == tag:
            tag = None
            continue
        key.append(str(part))
        inside = _inside(inside, part)
        tag = tag_of(cast(Tree, inside)) if isinstance(inside, dict) else None
    return tuple(key)


def _inside(section: object, part: int | str) -> object:
    """Return the value under a key or an index; None if there is none."""
    if isinstance(section, list) and isinstance(part, int):
        items = cast(list[object], section)
        return items[part] if part < len(items) else None
    return cast(Tree, section).get(cast(str, part)) if isinstance(section, dict) else None


def _place(key: Key, places: Mapping[Key, str], file: str) -> str:
    """Return the place of a key, else of a part of it, of the innermost section around it, or the file."""
    around = [key[:end] for end in range(len(key), 0, -1)]
    within = [part for part in places if part[: len(key)] == key]
    return next((places[other] for other in (key, *within, *around) if other in places), file)


def _did_you_mean_key(key: Key, tree: Tree) -> str:
    """Suggest a field of the same section, or else the same name in another."""
    section: Any = tree
    for name in key[:-1]:
        section = section[int(name)] if isinstance(section, list) else section[name]
    siblings = [field for model in fields.chosen(key[:-1], section) for field in model.model_fields]
    near = difflib.get_close_matches(key[-1], siblings, 1)
    if near:
        return f"; did you mean {near[0]}?"
    sections = {dotted: dotted.rpartition(".") for dotted in fields.all_keys()}
    elsewhere = {
        name: dotted for dotted, (section, _, name) in sections.items() if section != ".".join(key[:-1])
    }
    far = difflib.get_close_matches(key[-1], elsewhere, 1, 0.8)
    return f"; did you mean {elsewhere[far[0]]}?" if far else f"; the keys here are {', '.join(siblings)}"
