"""The count of words that a reader must resolve twice: `python -m tests.support.voice`, part of `make lint`.

With files or folders as arguments it counts in each of them by itself.

A clause such as "what it is" or "what a job needs" stands in place of a noun that a search could find, and
"told" or "gives" in place of a verb of the field. Each kind may come up once in 2000 words of the comments
and strings of a package, and of the documents.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LIMIT = 0.5
"""Occurrences per 1000 words."""

KINDS = {
    # Not the name of a variable in an f-string, which before Python 3.12 is a part of the string.
    "a clause in place of a noun": re.compile(r"(?<!\{)\bwhat\b", re.IGNORECASE),
    "a verb in place of the field's": re.compile(r"\b(tells?|told|telling|gives|gave)\b", re.IGNORECASE),
    "a pronoun for nobody": re.compile(r"\b(whoever|nobody|somebody)\b", re.IGNORECASE),
}
AREAS = {
    "sowlog": ("sowlog",),
    "train": ("train", "configs"),
    "tests": ("tests",),
    "documents": ("README.md", "ARCHITECTURE.md", "CHANGELOG.md"),
}


class Line(NamedTuple):
    """A line of prose, and its place."""

    path: Path
    number: int
    text: str


def prose_of(path: Path) -> Iterator[Line]:
    """Yield the lines of a file's prose: of a program its comments and strings, of a document all."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from (Line(path, number, line) for number, line in enumerate(text.splitlines(), 1))
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _PROSE:
            for offset, line in enumerate(token.string.splitlines()):
                yield Line(path, token.start[0] + offset, line)


# From Python 3.12 on the text of an f-string is a token of its own.
_PROSE = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def findings(lines: list[Line]) -> Iterator[str]:
    """Yield a report for each kind that is too frequent: its rate, and the lines."""
    words = sum(len(re.findall(r"[A-Za-z]+", line.text)) for line in lines)
    for kind, pattern in KINDS.items():
        found = [(line, match[0]) for line in lines for match in pattern.finditer(line.text)]
        rate = 1000 * len(found) / max(words, 1)
        if rate >= LIMIT:
            places = (f"  {line.path.relative_to(ROOT)}:{line.number}: {word}" for line, word in found)
            yield "\n".join([f"{kind}: {rate:.2f} in 1000 words, the limit is {LIMIT}", *places])


def main(arguments: list[str]) -> int:
    """Print the findings of each area; return 1 if there are any."""
    status = 0
    for area, roots in ({path: (path,) for path in arguments} or AREAS).items():
        paths = [path for root in roots for path in files_of(ROOT / root)]
        for finding in findings([line for path in paths for line in prose_of(path)]):
            print(f"{area}: {finding}")
            status = 1
    return status


def files_of(root: Path) -> list[Path]:
    """Return a document, or the programs, configurations and documents under a folder."""
    if root.is_file():
        return [root]
    return sorted(
        path for path in root.rglob("*") if path.suffix in {".py", ".md", ".yaml"} and path != Path(__file__)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
