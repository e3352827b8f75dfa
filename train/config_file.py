"""A configuration from a YAML file and `dotted.key=value` overrides, or every mistake in them at once."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from train.config import Config

Key = tuple[str, ...]
Tree = dict[str, Any]

COMMAND_LINE = "command line"


class ConfigError(Exception):
    """What is wrong with a configuration, one line for each mistake."""

    def __init__(self, mistakes: Sequence[str]):
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


class _Loader(yaml.SafeLoader):
    """The safe loader, with the floats that people write: YAML 1.1 reads 1e-3 as a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z"), list("-+.0123456789")
)


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads, overrides and checks a configuration.

    Args:
        path: the YAML file.
        overrides: `dotted.key=value` each, the value in YAML; a later one wins.

    Raises:
        ConfigError: with every mistake that can be told, each naming its place and its dotted key.
    """
    assignments: list[tuple[Key, Any]] = []
    mistakes: list[str] = []
    for text in overrides:
        try:
            assignments.append(_parse_override(text))
        except ConfigError as error:
            mistakes.extend(error.mistakes)
    try:
        tree, places, doubles = _read(path)
    except ConfigError as error:
        raise ConfigError([*error.mistakes, *mistakes]) from None
    mistakes.extend(doubles)
    # A name comes before the fields that it admits, in whatever order they were written.
    for key, value in sorted(assignments, key=lambda item: item[0][-1] != "name"):
        mistakes.extend(_assign(tree, key, value))
        # Where the parts of an old value stood says nothing about the new one.
        places = {other: place for other, place in places.items() if other[: len(key)] != key}
        places[key] = COMMAND_LINE
    return _validate(tree, places, str(path), mistakes)


def dump(config: Config) -> str:
    """Writes a configuration as YAML that `load` reads back equal."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def flatten(tree: Mapping[str, Any], prefix: Key = ()) -> dict[str, Any]:
    """Gives the values of a nested mapping by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(cast(Mapping[str, Any], value), (*prefix, name))
        else:
            flat[".".join((*prefix, name))] = value
    return flat


def _read(path: Path) -> tuple[Tree, dict[Key, str], list[str]]:
    """Gives a file's tree, the place of each of its keys, and the mistakes of its form."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file{_similar_file(path)}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {_one_line(error)}"]) from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        tree: object = {} if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError([f"{_place_of(path, error)}: broken YAML: {_explain_yaml(error)}"]) from None
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: holds {_show(tree)} where a mapping of settings belongs"])
    places: dict[Key, str] = {}
    mistakes = list(_locate(node, (), path, places))
    return cast(Tree, tree), places, mistakes


def _locate(node: Any, prefix: Key, path: Path, places: dict[Key, str]) -> Iterator[str]:
    """Fills in where each key stands, and yields the keys that stand there twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in cast(list[tuple[yaml.Node, yaml.Node]], node.value):
        key = (*prefix, str(name.value))
        place = f"{path}:{name.start_mark.line + 1}"
        if key in places:
            yield f"{place}: {'.'.join(key)}: stands here a second time; it is already at {places[key]}"
            continue
        places[key] = place
        # An alias may lead back to the mapping that holds it; no setting lies this deep.
        if len(key) < 10:
            yield from _locate(value, key, path, places)


def _parse_override(text: str) -> tuple[Key, Any]:
    """Splits `dotted.key=value`, and reads the value as YAML."""
    if text.startswith("-"):
        hint = f"; settings have no dashes: {text.lstrip('-')}" if "=" in text else ""
        raise ConfigError([f"{COMMAND_LINE}: {text}: unknown option{hint}"])
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise ConfigError([f"{COMMAND_LINE}: {text}: not of the form key=value, such as steps=100"])
    try:
        return tuple(name.split(".")), yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError([f"{COMMAND_LINE}: {name}: broken YAML: {_explain_yaml(error)}"]) from None


def _assign(tree: Tree, key: Key, value: Any) -> Iterator[str]:
    """Sets one key of a tree; another `name` begins its section anew, as the old fields are not its."""
    section = tree
    for depth, name in enumerate(key[:-1]):
        inner: object = section.setdefault(name, {})
        if not isinstance(inner, dict):
            place = ".".join(key[: depth + 1])
            yield f"{COMMAND_LINE}: {'.'.join(key)}: {place} is {_show(inner)}, which has no keys"
            return
        section = cast(Tree, inner)
    if key[-1] == "name" and section.get("name") != value:
        section.clear()
    section[key[-1]] = value


def _validate(tree: Tree, places: Mapping[Key, str], file: str, mistakes: list[str]) -> Config:
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        found = [_explain(details, tree, places, file) for details in error.errors(include_url=False)]
        raise ConfigError([*mistakes, *found]) from None
    if mistakes:
        raise ConfigError(mistakes)
    return config


def _explain(details: ErrorDetails, tree: Tree, places: Mapping[Key, str], file: str) -> str:
    """Says one of pydantic's errors in a line that names the place, the dotted key and the next move."""
    key = _key_of(details["loc"], tree)
    context = details.get("ctx", {})
    kind = details["type"]
    if kind == "disagree":
        key += tuple(context["key"].split("."))
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        key += ("name",)
    return f"{_place(key, places, file)}: {'.'.join(key)}: {_message(kind, key, details, tree)}"


def _message(kind: str, key: Key, details: ErrorDetails, tree: Tree) -> str:
    context = details.get("ctx", {})
    value: object = details["input"]
    match kind:
        case "extra_forbidden" | "invalid_key":
            return "unknown key" + _did_you_mean_key(key, tree)
        case "missing":
            return "missing"
        case "union_tag_not_found":
            return f"missing; one of {', '.join(_names(key[:-1]))}"
        case "union_tag_invalid" | "literal_error":
            choices = re.findall(r"'([^']*)'", str(context.get("expected_tags", context.get("expected"))))
            given: object = cast(Tree, value)["name"] if kind == "union_tag_invalid" else value
            return (
                f"must be one of {', '.join(choices)}, got {_show(given)}{_did_you_mean(str(given), choices)}"
            )
        case "disagree":
            return str(context["message"])
        case _:
            wanted = _WANTED.get(kind) or details["msg"].replace("Input should be", "must be")
            return f"{wanted}, got {_show(value)}"


_WANTED = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "model_type": "must be a mapping of settings",
    "model_attributes_type": "must be a mapping of settings",
}


def _key_of(loc: tuple[int | str, ...], tree: Tree) -> Key:
    """Gives the dotted key of a pydantic location, which also names the choice made in each union."""
    key: list[str] = []
    inside: object = tree
    tag: object = None
    for part in loc:
        if part == tag:
            tag = None
            continue
        key.append(str(part))
        inside = cast(Tree, inside).get(cast(str, part)) if isinstance(inside, dict) else None
        tag = cast(Tree, inside).get("name") if isinstance(inside, dict) else None
    return tuple(key)


def _place(key: Key, places: Mapping[Key, str], file: str) -> str:
    """Gives where the key was written, or the innermost section around it, or the file."""
    return next((places[key[:end]] for end in range(len(key), 0, -1) if key[:end] in places), file)


def _models(key: Key) -> list[type[BaseModel]]:
    """Gives the classes that the section at `key` may have; of a union, all."""
    models: list[type[BaseModel]] = [Config]
    for name in key:
        fields = [model.model_fields[name] for model in models if name in model.model_fields]
        choices = [
            choice
            for field in fields
            for choice in getattr(field.annotation, "__args__", (field.annotation,))
        ]
        models = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)]
    return models


def _names(key: Key) -> list[str]:
    """Gives the `name`s that the union at `key` may take."""
    return [name for model in _models(key) for name in model.model_fields["name"].annotation.__args__]  # type: ignore[union-attr]


def _did_you_mean_key(key: Key, tree: Tree) -> str:
    """Suggests a field of the same section, or else the same name in another."""
    section: Any = tree
    for name in key[:-1]:
        section = section[name]
    models = [m for m in _models(key[:-1]) if "name" not in m.model_fields or section.get("name") in _tags(m)]
    siblings = [field for model in models for field in model.model_fields]
    near = difflib.get_close_matches(key[-1], siblings, 1)
    if near:
        return f"; did you mean {near[0]}?"
    sections = {dotted: dotted.rpartition(".") for dotted in _all_keys()}
    elsewhere = {
        name: dotted for dotted, (section, _, name) in sections.items() if section != ".".join(key[:-1])
    }
    far = difflib.get_close_matches(key[-1], elsewhere, 1, 0.8)
    return f"; did you mean {elsewhere[far[0]]}?" if far else f"; the keys here are {', '.join(siblings)}"


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    return cast(tuple[str, ...], getattr(model.model_fields["name"].annotation, "__args__", ()))


def _all_keys(prefix: Key = ()) -> list[str]:
    """Lists the dotted keys of the whole schema, sections included."""
    keys: list[str] = []
    for model in _models(prefix):
        for field in model.model_fields:
            keys += [".".join((*prefix, field)), *_all_keys((*prefix, field))]
    return keys


def _did_you_mean(given: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, choices, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _similar_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    files = sorted(str(file) for file in folder.glob("*.y*ml"))
    return _did_you_mean(str(path), files) or (f"; there are {', '.join(files)}" if files else "")


def _place_of(path: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}:{mark.line + 1}" if mark else str(path)


def _explain_yaml(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(getattr(error, "problem", None) or _one_line(error))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _show(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else "null" if value is None else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}..."
