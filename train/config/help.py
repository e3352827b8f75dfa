"""What there is to configure, as text: settings with their types, defaults and meaning, and the configs."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from train.config import errors, fields
from train.config.experiment import Config
from train.config.fields import Key
from train.system import files

HERE = Path("configs")
SHIPPED = Path(__file__).parents[2] / "configs"


def list_settings() -> str:
    """Lists every setting with its type, its default and what it means, by the choice that it belongs to."""
    return "\n".join(_section((), Config))


def list_configs() -> str:
    """Lists the configs of the working folder, then those beside this package, each with its purpose."""
    folders = [HERE] if HERE.exists() and HERE.samefile(SHIPPED) else [HERE, SHIPPED]
    files = [file for folder in folders for file in sorted(folder.glob("*.y*ml"))]
    width = max((len(str(file)) for file in files), default=0)
    return "\n".join(_entry(f"{file!s:{width}}", purpose(file), width) for file in files)


def purpose(file: Path) -> str:
    """Gives the first paragraph of a config's first comment in one line, or why it cannot be read."""
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
    """Yields the lines of a section: its values first, then the sections within."""
    nested = {name: field for name, field in model.model_fields.items() if fields.choices(field)}
    for name, field in model.model_fields.items():
        if name not in nested and (name != "name" or field.description):
            yield from _setting((*key, name), field)
    for name, field in nested.items():
        yield from _nested((*key, name), field)


def _nested(key: Key, field: FieldInfo) -> Iterator[str]:
    for choice in fields.choices(field):
        names = fields.names_of(choice)
        yield ""
        title = f"{'.'.join(key)}.name={names[0]}" if names else ".".join(key)
        default = " (default: null)" if field.default is None else ""
        yield from _wrap(f"{title}{default}: {_summary(choice)}", "")
        yield from _section(key, choice)


def _setting(key: Key, field: FieldInfo) -> Iterator[str]:
    default = "required" if field.default is PydanticUndefined else f"default {_yaml(field.default)}"
    yield f"  {'.'.join(key)}: {fields.describe_type(field)}; {default}"
    yield from _wrap(field.description or "", "      ")


def _summary(choice: type[BaseModel]) -> str:
    """Gives the first paragraph of a class's docstring."""
    return " ".join((choice.__doc__ or "").partition("\n\n")[0].split())


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def _entry(name: str, text: str, width: int) -> str:
    return "\n".join(_wrap(f"{name}  {text}", " " * (width + 2), ""))


def _wrap(text: str, indent: str, first: str | None = None) -> list[str]:
    columns = max(60, min(110, shutil.get_terminal_size().columns))
    opening = indent if first is None else first
    return textwrap.wrap(text, columns, initial_indent=opening, subsequent_indent=indent)
