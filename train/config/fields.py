"""The schema as data, for messages and for help: sections, fields and their allowed values."""

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from train.config.base import tag_of
from train.config.experiment import Config
from train.config.own import OwnTask, options_of

Key = tuple[str, ...]


def models(key: Key) -> list[type[BaseModel]]:
    """Return the classes that the section at `key` may have; of a union, all; none where no section is."""
    found: list[type[BaseModel]] = [Config]
    for name in key:
        if name.isdigit():  # An item of a list.
            continue
        fields = [model.model_fields[name] for model in found if name in model.model_fields]
        found = [choice for field in fields for choice in choices(field)]
    return found


def choices(field: FieldInfo) -> list[type[BaseModel]]:
    """Return the sections that a field, or each item of its list, may hold; none if it holds a value."""
    held = typing.get_args(field.annotation)[0] if is_list(field) else field.annotation
    return [_plain(part) for part in _alternatives(_plain(held)) if _is_section(part)]


def is_list(field: FieldInfo) -> bool:
    """Return whether a field holds a list."""
    return typing.get_origin(field.annotation) is list


def names(key: Key) -> list[str]:
    """Return the possible values of `name` in the union at `key`."""
    return [name for model in models(key) for name in names_of(model)]


def names_of(model: type[BaseModel]) -> list[str]:
    """Return the possible values of a choice's `name`; none if it has no name."""
    field = model.model_fields.get("name")
    if field is None:
        return []
    return [str(name) for name in typing.get_args(field.annotation)] or [getattr(model, "form", "")]


def chosen(key: Key, section: Mapping[str, Any]) -> list[type[BaseModel]]:
    """Return the classes at `key` that admit the section's `name`; a class without names admits any."""
    tag = tag_of(section)
    admitted = [model for model in models(key) if not names_of(model) or tag in _tags(model)]
    return [options_of(section["name"]) if model is OwnTask else model for model in admitted]


def expand_names(tree: dict[str, Any]) -> None:
    """Replace a text in a list of sections by a section of that name, if one may have its name alone."""
    for key, field in Config.model_fields.items():
        items = tree.get(key)
        if isinstance(items, list) and is_list(field) and any(map(_is_a_name, choices(field))):
            tree[key] = [{"name": item} if isinstance(item, str) else item for item in cast(list[Any], items)]


def _is_a_name(model: type[BaseModel]) -> bool:
    return list(model.model_fields) == ["name"]


def all_keys(prefix: Key = ()) -> list[str]:
    """List the dotted keys of the whole schema, sections included."""
    found: list[str] = []
    for model in models(prefix):
        for field in model.model_fields:
            found.append(".".join((*prefix, field)))
            if not is_list(model.model_fields[field]):
                found += all_keys((*prefix, field))
    return found


def describe_type(field: FieldInfo) -> str:
    """Describe the allowed values of a field in a few words, such as "number > 0 or null"."""
    parts = [part for part in _alternatives(field.annotation) if not _is_section(part)]
    return " or ".join(_bounded(parts, field.metadata))


def _bounded(parts: list[Any], metadata: list[Any]) -> Iterator[str]:
    for part in parts:
        bounds = _bounds([*metadata, *getattr(part, "__metadata__", ())])
        yield f"{_name_of(part)}{bounds if _plain(part) in (int, float) else ''}"


def _name_of(part: Any) -> str:
    plain = _plain(part)
    if typing.get_origin(plain) is Literal:
        return " | ".join(map(str, typing.get_args(plain)))
    if typing.get_origin(plain) is list:
        inner = typing.get_args(plain)[0]
        return f"list of {_name_of(inner)}{_bounds(getattr(inner, '__metadata__', ()))}"
    origin = typing.get_origin(plain) or plain
    return _NAMES.get(origin) or getattr(origin, "__name__", str(origin))


_NAMES: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true | false",
    dict: "mapping",
    types.NoneType: "null",
}


def _bounds(metadata: Any) -> str:
    """Return the limits that pydantic holds as `Ge`, `Gt`, `Le` and `Lt`, alone or inside a `FieldInfo`."""
    flat = [inner for item in metadata for inner in getattr(item, "metadata", [item])]
    found = {
        sign: getattr(item, name)
        for item in flat
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if hasattr(item, name)
    }
    return ",".join(f" {sign} {limit}" for sign, limit in found.items())


def _tags(model: type[BaseModel]) -> list[str]:
    return [str(tag_of({"name": name})) for name in names_of(model)]


def _alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, each with its `Annotated`; a type alone is the only member."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return list(typing.get_args(annotation))
    return [annotation]


def _plain(part: Any) -> Any:
    return typing.get_args(part)[0] if typing.get_origin(part) is Annotated else part


def _is_section(part: Any) -> bool:
    plain = _plain(part)
    return isinstance(plain, type) and issubclass(plain, BaseModel)
