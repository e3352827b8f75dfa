"""A configuration from YAML files and `dotted.key=value` overrides, or every error in them at once.

A file may name other files as its `base` (one or a list, relative to itself). It is merged over them, and the
later over the earlier. Another `name` in a section drops the fields of the old choice, in whichever file.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from train.config import errors, fields, paths, yaml_reading
from train.config.errors import COMMAND_LINE, ConfigError, Tree
from train.config.experiment import Config
from train.config.fields import Key
from train.system import files

BASE = "base"
MAX_FILES = 100
MAX_BYTES = 1_000_000


def load(path: Path, overrides: Sequence[str] = (), *, is_to_train: bool = False) -> Config:
    """Read, override and check a configuration.

    Args:
        path: the YAML file.
        overrides: `dotted.key=value` each, the value in YAML; a later one wins.
        is_to_train: whether a run is made of it, which must meet the requirements of task and data; a
            configuration of an earlier run is read as it stands.

    Raises:
        ConfigError: The configuration has errors; the message has all, each with its place and dotted key.
    """
    draft = _Draft()
    assignments = list(_parse_overrides(overrides, draft.errors))
    draft.merge_file(path, ())
    if draft.is_incomplete:
        raise ConfigError(draft.errors)
    # A name comes before the fields that it admits, in whatever order they were written.
    for key, value in sorted(assignments, key=lambda item: item[0][-1] != "name"):
        draft.assign(key, value)
    config = draft.check(str(path))
    if is_to_train:
        draft.check_profile(config, str(path))
    return config


def task_name(path: Path, overrides: Sequence[str] = ()) -> str:
    """Return the name of the task that a configuration chooses, valid or not; empty if it chooses none."""
    draft = _Draft()
    draft.merge_file(path, ())
    for key, value in _parse_overrides(overrides, draft.errors):
        if key == ("task", "name"):
            draft.assign(key, value)
    return str(draft.get("task", "name"))


def dump(config: Config) -> str:
    """Write a configuration as YAML that `load` reads back equal."""
    return yaml_reading.dump(config.model_dump(mode="json"))


def flatten(tree: Mapping[str, Any], prefix: Key = ()) -> dict[str, Any]:
    """Return the values of a nested mapping by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(cast(Mapping[str, Any], value), (*prefix, name))
        else:
            flat[".".join((*prefix, name))] = value
    return flat


class _Draft:
    """A configuration in the making.

    Attributes:
        errors: a line for each that was found.
        is_incomplete: whether a file could not be read, so that a missing key is no error.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.is_incomplete = False
        self._tree: Tree = {}
        self._places: dict[Key, str] = {}
        self._merged = 0

    def merge_file(self, path: Path, within: tuple[Path, ...]) -> None:
        """Merge a file into the draft, after the files that it is based on.

        Args:
            path: the file.
            within: the files that led to it, each based on the next.

        Raises:
            ConfigError: The bases are more than `MAX_FILES`; files that name each other have no end.
        """
        self._merged += 1
        if self._merged > MAX_FILES:
            problem = (
                f"leads to more than {MAX_FILES} files, counted as often as they are named; name each once"
            )
            raise ConfigError([f"{within[0]}: base: {problem}"])
        try:
            tree, lines = self._read(path)
            bases = list(_bases(tree, path, lines))
        except ConfigError as error:
            self._give_up(error.errors)
            return
        chain = (*within, path)
        for base in bases:
            if base.resolve() in [file.resolve() for file in chain]:
                loop = " -> ".join(map(str, (*chain, base)))
                self._give_up([f"{path}:{lines[(BASE,)]}: base: leads back to itself: {loop}"])
            else:
                self.merge_file(base, chain)
        self._lay(self._tree, tree, (), {key: f"{path}:{line}" for key, line in lines.items()})

    def assign(self, key: Key, value: Any) -> None:
        """Set one key of the command line."""
        section: Any = self._tree
        for depth, name in enumerate(key[:-1]):
            inner = self._enter(section, name)
            if inner is None:
                place = ".".join(key[: depth + 1])
                problem = _why_not(section, name, place)
                self.errors.append(f"{COMMAND_LINE}: {'.'.join(key)}: {problem}")
                return
            section = inner
        if isinstance(section, list):
            self._assign_item(cast(list[Any], section), key, value)
            return
        if key[-1] == "name":
            self._choose(cast(Tree, section), value, key[:-1])
        cast(Tree, section)[key[-1]] = value
        self._forget(key)
        self._places[key] = COMMAND_LINE

    def get(self, *key: str) -> object:
        """Return the value under a key; an empty text if there is none."""
        section: object = self._tree
        for name in key:
            section = section.get(name, "") if isinstance(section, dict) else ""
        return section

    def check(self, file: str) -> Config:
        """Return the configuration, or raise with all errors."""
        fields.expand_names(self._tree)
        try:
            config = Config.model_validate(self._tree)
        except ValidationError as error:
            found = error.errors(include_url=False)
            lines = [errors.explain(details, self._tree, self._places, file) for details in found]
            raise ConfigError([*self.errors, *lines]) from None
        if self.errors:
            raise ConfigError(self.errors)
        return config

    def check_profile(self, config: Config, file: str) -> None:
        """Raise an error if the steps to profile begin after the run's last one."""
        if config.profile is not None and int(config.profile.partition(":")[0]) >= config.steps:
            place = self._places.get(("profile",), file)
            problem = f"begins after the last step, which is {config.steps - 1}, got {config.profile}"
            raise ConfigError([f"{place}: profile: {problem}"])

    def _read(self, path: Path) -> tuple[Tree, dict[Key, int]]:
        """Return a file's tree and the line of each of its keys."""
        text = _read_text(path)
        try:
            tree, lines, doubles = yaml_reading.read(text)
        except yaml_reading.ERRORS as error:
            place = _place_of(path, error)
            raise ConfigError([f"{place}: broken YAML: {errors.explain_yaml(error)}"]) from None
        if not isinstance(tree, dict):
            raise ConfigError([f"{path}: holds {errors.show(tree)} where a mapping of settings belongs"])
        for key, line in doubles:
            again = f"stands here a second time; it is already at {path}:{lines[key]}"
            self.errors.append(f"{path}:{line}: {'.'.join(key)}: {again}")
        return cast(Tree, tree), lines

    def _give_up(self, lines: Iterable[str]) -> None:
        self.errors = [*lines, *self.errors]
        self.is_incomplete = True

    def _lay(self, section: Tree, over: Tree, key: Key, places: Mapping[Key, str]) -> None:
        """Merge a mapping into a section: mappings into mappings, all else in place of the old value."""
        if "name" in over:
            self._choose(section, over["name"], key)
        for name, value in over.items():
            inner = (*key, str(name))
            if isinstance(value, dict) and isinstance(section.get(name), dict):
                self._lay(section[name], cast(Tree, value), inner, places)
            else:
                section[name] = value
                self._forget(inner)
                self._places |= {k: place for k, place in places.items() if k[: len(inner)] == inner}

    def _choose(self, section: Tree, name: object, key: Key) -> None:
        """Begin a section anew if its name is another: the old fields are not its own."""
        if section.get("name") != name:
            section.clear()
            self._forget(key)

    def _forget(self, key: Key) -> None:
        """Forget the places of the parts of an old value, which are not those of the new one."""
        self._places = {other: place for other, place in self._places.items() if other[: len(key)] != key}

    def _enter(self, section: Any, name: str) -> Any:
        """Return the mapping or list under a name, a new mapping if nothing is there; None for a value."""
        if isinstance(section, list):
            items = cast(list[Any], section)
            return items[int(name)] if _is_index(name, items) and _has_keys(items[int(name)]) else None
        if section.get(name) is None:
            section[name] = {}
        return section[name] if _has_keys(section[name]) else None

    def _assign_item(self, items: list[Any], key: Key, value: Any) -> None:
        if not _is_index(key[-1], items):
            problem = f"the list has {len(items)} items, of which the first is 0"
            self.errors.append(f"{COMMAND_LINE}: {'.'.join(key)}: {problem}")
            return
        items[int(key[-1])] = value
        self._places[key] = COMMAND_LINE


def _bases(tree: Tree, path: Path, lines: Mapping[Key, int]) -> Iterator[Path]:
    """Take the `base` out of a file's tree, and yield the files that it names."""
    given = tree.pop(BASE, [])
    for name in cast(list[object], given) if isinstance(given, list) else [given]:
        if not isinstance(name, str) or not _can_name_a_file(name):
            wanted = "must be a file or a list of files, relative to this one"
            raise ConfigError([f"{path}:{lines[(BASE,)]}: base: {wanted}, got {errors.show(name)}"])
        yield path.parent / paths.local(name, f"{path}:{lines[(BASE,)]}: base")


def _can_name_a_file(name: str) -> bool:
    try:
        return bool(name) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # A lone surrogate, which JSON can write and a file system does not have.
        return False


def _read_text(path: Path) -> str:
    try:
        return files.read_stream(path, limit=MAX_BYTES)
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file{errors.similar_file(path)}"]) from None
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from None


def _parse_overrides(overrides: Iterable[str], wrong: list[str]) -> Iterator[tuple[Key, Any]]:
    for text in overrides:
        try:
            yield _parse_override(text)
        except ConfigError as error:
            wrong.extend(error.errors)


def _parse_override(text: str) -> tuple[Key, Any]:
    """Split `dotted.key=value`, and read the value as YAML."""
    if text.startswith("-"):
        hint = f"; settings have no dashes: {text.lstrip('-')}" if "=" in text else ""
        raise ConfigError([f"{COMMAND_LINE}: {text}: unknown option{hint}"])
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise ConfigError([f"{COMMAND_LINE}: {text}: not of the form key=value, such as steps=100"])
    if name == BASE:
        raise ConfigError([f"{COMMAND_LINE}: base: stands in files only; give the file itself: {value}"])
    try:
        return tuple(name.split(".")), yaml_reading.read_value(value)
    except yaml_reading.ERRORS as error:
        raise ConfigError([f"{COMMAND_LINE}: {name}: broken YAML: {errors.explain_yaml(error)}"]) from None


def _has_keys(value: object) -> bool:
    return isinstance(value, dict | list)


def _is_index(name: str, items: list[Any]) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(items)


def _why_not(section: Any, name: str, place: str) -> str:
    if isinstance(section, list):
        return f"{place} is no list or mapping"
    return f"{place} is {errors.show(section[name])}, which has no keys"


def _place_of(path: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}:{mark.line + 1}" if mark else str(path)
