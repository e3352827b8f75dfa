"""The punctuation of the messages in the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Errors whose message is a part of another one: a cause after a colon, or a line that ConfigError ends.
PARTS = {
    "ConfigError",
    "FileNotFoundError",
    "IsADirectoryError",
    "KeyError",
    "LookupError",
    "OSError",
    "PydanticCustomError",
    "StalledError",
    "_Damage",
    "_config_error",
    "disagree",
}
# Their ValueErrors are causes as well.
CAUSES = {
    "sowlog/_cli/json_export.py",
    "sowlog/_events/decoding.py",
    "sowlog/_events/json_lines/form.py",
    "sowlog/_events/json_lines/parsing.py",
    "sowlog/_events/json_lines/reader.py",
    "sowlog/_events/parsing.py",
    "sowlog/_events/plain.py",
    "sowlog/_events/repairing.py",
    "sowlog/_events/tensors.py",
    "sowlog/_events/wire.py",
    "train/runs/checkpoint.py",
    "train/runs/file_list.py",
    "train/system/files.py",
}


def last_part(node: ast.expr) -> str | None:
    """Return the end of a message, or None if it comes from elsewhere; an `error` has no full stop."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=[*_, ast.FormattedValue(value=ast.Name(id="error"))]):
            return "{error}"
        case ast.JoinedStr(values=[*_, ast.Constant(value=str(text))]):
            return text
        case ast.BinOp(right=right):
            return last_part(right)
        case _:
            return None


def messages(tree: ast.Module) -> Iterator[ast.expr]:
    """Yield the messages of the errors that are raised or returned, and of the warnings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func).rpartition(".")[2]
            if name == "warn" or (name.endswith(("Error", "Warning")) and name not in PARTS):
                yield node.args[0]


@pytest.mark.parametrize("package", ["sowlog", "train"])
def test_errors_and_warnings_end_with_a_full_stop(package: str) -> None:
    """Or with a question mark, as a suggestion."""
    unended = [
        f"{path.relative_to(ROOT)}:{message.lineno}: {end}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in CAUSES
        for message in messages(ast.parse(path.read_text()))
        if (end := last_part(message)) is not None and not end.endswith((".", "?"))
    ]
    assert unended == []
