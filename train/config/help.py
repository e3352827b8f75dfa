"""The settings as text, with their types, defaults and meaning, and the list of the configs."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, to_jsonable_python

from train.config import errors, fields
from train.config.experiment import Config
from train.config.fields import Key
from train.config.own import options_of
from train.system import files

HERE = Path("configs")
SHIPPED = Path(__file__).parents[2] / "configs"


def list_settings(task: str = "") -> str:
    """List every setting with type, default and description, under the choice that it belongs to.

    Args:
        task: the name of the task that is chosen, whose own options come last if it is a user's.
    """
    return "\n".join([*_section((), Config), *_own_task(task)])


def _own_task(name: str) -> Iterator[str]:
    if ":" in name:
        try:
            yield from _choice(("task",), options_of(name), name)
        except PydanticCustomError as error:
            yield from ("", f"task.name={name}: {error.message()}")


def list_configs() -> str:
    """List the configs of the working folder, then those beside this package, each with its purpose."""
    folders = [HERE] if HERE.exists() and HERE.samefile(SHIPPED) else [HERE, SHIPPED]
    files = [file for folder in folders for file in sorted(folder.glob("*.y*ml"))]
    width = max((len(str(file)) for file in files), default=0)
    return "\n".join(_entry(f"{file!s:{width}}", purpose(file), width) for file in files)


def purpose(file: Path) -> str:
    """Return the first paragraph of a config's first comment in one line, or why it cannot be read."""
    try:
        lines = files.read(file).splitlines()
    except (OSError, ValueError) as error:
        return f"cannot be read: {errors.one_line(error)}"
    return " ".join(text.strip("# ") for text in _until_blank(lines))


def _until_blank(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#") or not line.strip("# "):
            return
        yield line


def _section(key: Key, model: type[BaseModel]) -> Iterator[str]:
    """Yield the lines of a section: its values first, then the sections within."""
    nested = {name: field for name, field in model.model_fields.items() if fields.choices(field)}
    for name, field in model.model_fields.items():
        if name not in nested and (name != "name" or field.description):
            yield from _setting((*key, name), field)
    for name, field in nested.items():
        yield from _nested((*key, name), field)


def _nested(key: Key, field: FieldInfo) -> Iterator[str]:
    if fields.is_list(field):
        yield ""
        yield from _wrap(
            f"{'.'.join(key)} (default: {_yaml(field.default)}): a list. {field.description}", ""
        )
        key = (*key, "N")
    for choice in fields.choices(field):
        names = fields.names_of(choice)
        yield from _choice(key, choice, names[0] if names else "", is_optional=field.default is None)


def _choice(key: Key, choice: type[BaseModel], name: str, *, is_optional: bool = False) -> Iterator[str]:
    title = f"{'.'.join(key)}.name={name}" if name else ".".join(key)
    default = " (default: null)" if is_optional else ""
    yield ""
    yield from _wrap(f"{title}{default}: {_summary(choice)}", "")
    yield from _section(key, choice)


def _setting(key: Key, field: FieldInfo) -> Iterator[str]:
    value = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    default = "required" if field.is_required() else f"default {_yaml(value)}"
    yield from _wrap(f"{'.'.join(key)}: {fields.describe_type(field)}; {default}", "    ", "  ")
    yield from _wrap(field.description or "", "      ")


def _summary(choice: type[BaseModel]) -> str:
    """Return the first paragraph of a class's docstring."""
    return " ".join((choice.__doc__ or "").partition("\n\n")[0].split())


def _yaml(value: object) -> str:
    return yaml.safe_dump(to_jsonable_python(value, fallback=str), default_flow_style=True).splitlines()[0]


def _entry(name: str, text: str, width: int) -> str:
    return "\n".join(_wrap(f"{name}  {text}", " " * (width + 2), ""))


def fill(text: str) -> str:
    """Return a paragraph in lines of the width of the terminal."""
    return "\n".join(_wrap(" ".join(text.split()), ""))


def _wrap(text: str, indent: str, first: str | None = None) -> list[str]:
    columns = max(60, min(110, shutil.get_terminal_size().columns))
    opening = indent if first is None else first
    return textwrap.wrap(
        text, columns, initial_indent=opening, subsequent_indent=indent, break_on_hyphens=False
    )
