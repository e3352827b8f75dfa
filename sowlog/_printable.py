"""Texts of others, as of a server or of a file: bounded, in UTF-8, without control characters."""

# Of the message of an error, which may hold a page of a server.
_MESSAGE = 4000


def encodable(text: str) -> str:
    """Return text that UTF-8 can encode: bytes of file names that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def clipped(text: str, most: int) -> str:
    """Return a text of at most so many characters, cut in its middle.

    Example:
        >>> clipped("0123456789", 6), clipped("0123", 6)
        ('012…89', '0123')
    """
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"


def printable(text: str, *, most: int = 100) -> str:
    r"""Return a text with control characters escaped, as a terminal would obey them, and cut in its middle.

    Example:
        >>> printable("a\x1b[31m\nb")
        'a\\x1b[31m\\nb'
    """
    text = clipped(text, most)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def describe_cause(cause: BaseException | None) -> str:
    """Return the kind and the message of an error, bounded and without a full stop.

    Example:
        >>> describe_cause(OSError("the disk is full."))
        'OSError: the disk is full'
    """
    return clipped(f"{type(cause).__name__}: {cause}".rstrip(": ."), _MESSAGE)
