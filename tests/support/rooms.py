"""The pictures of rooms in ARCHITECTURE.md, one for each package, drawn from its layers contract.

python -m tests.support.rooms writes them.
"""

import ast
import tomllib
from pathlib import Path
from typing import Any

from tests.support.generated import write_part

ROOT = Path(__file__).parents[2]


def contracts() -> list[dict[str, Any]]:
    """Return the import contracts of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def levels_by_package() -> dict[str, list[list[str]]]:
    """Return the rooms by level, the highest first, of each top-level package with a layers contract."""
    return {
        package: [[room.strip(" ()") for room in level.split("|")] for level in contract["layers"]]
        for contract in contracts()
        for package in contract.get("containers", [])
        if contract["type"] == "layers" and "." not in package
    }


def command_of(package: str) -> str:
    """Return the command in ARCHITECTURE.md that draws a package's picture."""
    return f"python -m tests.support.rooms {package}"


def picture_of(package: str) -> str:
    """Return a block of text with one line a room: its level, its name, its first sentence."""
    levels = [["__init__"], *levels_by_package()[package]]
    rooms = [
        (str(len(levels) - depth), *_described(ROOT / package, room))
        for depth, level in enumerate(levels)
        for room in level
    ]
    digits, width = len(str(len(levels))), max(len(name) for _, name, _ in rooms)
    lines = [f"{level:>{digits}}  {name:{width}}  {text}" for level, name, text in rooms]
    return "\n".join(["```", *lines, "```"])


def _described(folder: Path, room: str) -> tuple[str, str]:
    is_folder = (folder / room).is_dir()
    file = folder / room / "__init__.py" if is_folder else folder / f"{room}.py"
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return f"{room}/" if is_folder else file.name, " ".join(docstring.partition("\n\n")[0].split())


if __name__ == "__main__":
    for each in levels_by_package():
        write_part(command_of(each), picture_of(each))
