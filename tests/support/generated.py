"""Parts of ARCHITECTURE.md that a command writes, between the marks of that command."""

from pathlib import Path

ARCHITECTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"
_END = "<!-- end -->"


def part_of(text: str, command: str) -> str:
    """Return the part of a text that a command writes.

    Raises:
        ValueError: if the text has no place for it, which two marks around it make.
    """
    _, part, _ = _split(text, command)
    return part.strip()


def write_part(command: str, part: str) -> None:
    """Write the part of a command into ARCHITECTURE.md."""
    before, _, after = _split(ARCHITECTURE.read_text(), command)
    ARCHITECTURE.write_text(f"{before}\n{part}\n{after}")


def _split(text: str, command: str) -> tuple[str, str, str]:
    begin = f"<!-- begin: {command} -->"
    before, found, rest = text.partition(begin)
    part, end, after = rest.partition(_END)
    if not found or not end:
        raise ValueError(
            f"ARCHITECTURE.md has no place for `{command}`: write {begin} and {_END} where it is."
        )
    return before + begin, part, end + after
