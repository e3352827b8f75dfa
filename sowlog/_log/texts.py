"""Texts: Markdown, checked and bounded on the training thread."""

from __future__ import annotations

from typing import NamedTuple

from sowlog._printable import encodable

# TensorBoard converts Markdown at each view: 100 kB of markup in a second, 1 MB in half a minute.
# Blocks of code cost little.
MAX_TEXT_BYTES = 1 << 20


class Text(NamedTuple):
    """A text of one step.

    Attributes:
        tag: the tag.
        markdown: the text, in Markdown.
    """

    tag: str
    markdown: str


def check_text(tag: object, markdown: object) -> Text:
    """Return a valid text.

    Raises:
        TypeError: The text is not a str.
        ValueError: The text has no tag, or is too long.
    """
    tag = check_tag("text", tag, "log.text(step, 'samples', text)")
    if not isinstance(markdown, str):
        raise TypeError(
            f"the text {tag} has type {type(markdown).__name__}: give a str, of bytes text.decode(), of "
            f"another object str(object)."
        )
    text = encodable(markdown)
    size = len(text.encode())
    if size > MAX_TEXT_BYTES:
        raise ValueError(
            f"the text {tag} has {size} bytes, and an entry holds {MAX_TEXT_BYTES}, which TensorBoard takes "
            f"half a minute to convert: log a part, text[:100_000], or write a file and log its path."
        )
    return Text(tag, text)


def check_tag(kind: str, tag: object, form: str) -> str:
    """Return the tag of a call as an event file can hold it.

    Args:
        kind: the values in an error, as "image".
        tag: the argument.
        form: a call with a tag.

    Raises:
        ValueError: The tag is empty, or no str.
    """
    if not isinstance(tag, str) or not tag:
        raise ValueError(f"the {kind} has the tag {tag!r}: give it a name, {form}.")
    return encodable(tag)
