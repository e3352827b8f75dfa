"""The names and numbers of JSON lines; the docstring of `sowlog.writers.json_lines` has the whole form."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sowlog._events.framing import open_regular
from sowlog._events.whole_file import write_whole

METRICS_NAME = "metrics.jsonl"
"""The file in a folder."""

JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
"""The ends of the names of files."""

# Nine digits are any float32 exactly, at a third of the time that the shortest text of a double takes.
JSON_NUMBER = "%.8e"
"""The form of a float32 in a line."""

CURVE_ROWS = (
    "true_positives",
    "false_positives",
    "true_negatives",
    "false_negatives",
    "precision",
    "recall",
)
"""The rows of a precision-recall curve."""

NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""The numbers that JSON lacks, by the names under which Python, JavaScript and protobuf parse them."""

OPENING = b'{"step":'
"""The first bytes of each line."""

LONGEST_LINE = 1 << 28
"""No line is longer, in bytes."""

LARGEST_IMAGE = 1 << 28
"""No file of an image is larger, in bytes."""


def nonfinite_name(value: float) -> str:
    """Return the name of a number that JSON lacks, or ""."""
    if math.isfinite(value):
        return ""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def scalar_piece(tag: str) -> str:
    """Return the text of a scalar, with a place for its value in the form of `%`."""
    return f"{json.dumps(tag).replace('%', '%%')}:{JSON_NUMBER}"


def null_piece(piece: str) -> str:
    """Return the text of a scalar whose value JSON lacks."""
    return f"{(piece % 0).removesuffix(JSON_NUMBER % 0)}null"


def save_image(lines: Path, tag: str, step: int, image: bytes, shape: Sequence[int]) -> dict[str, Any]:
    """Write an encoded image in the folder beside a file of lines; return the reference to it.

    The image is written once, whole and synced, under a name by its content.

    Args:
        lines: the file of lines.
        tag: the tag.
        step: the step.
        image: the encoded image.
        shape: height, width and channels.
    """
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", tag)[:80]
    name = f"{readable}-{step}-{hashlib.sha256(image).hexdigest()[:12]}.{_suffix_of(image)}"
    folder = lines.with_suffix(".images")
    if not (folder / name).exists():
        folder.mkdir(exist_ok=True)
        write_whole(folder / name, lambda file: file.write(image))
    return {"file": f"{folder.name}/{name}", "shape": list(shape)}


def _suffix_of(image: bytes) -> str:
    return {b"\xff\xd8": "jpg", b"GI": "gif"}.get(image[:2], "png")


def image_path(reference: Mapping[str, Any]) -> PurePosixPath:
    """Return the path of an image, relative to the folder of the lines.

    Raises:
        ValueError: It is outside of that folder, or no file has such a name.
    """
    path = PurePosixPath(reference["file"])
    if b"\0" in os.fsencode(path):
        raise ValueError(f"the file of an image, {path!s:.80}, has a character that no name of a file has")
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the file of an image, {path}, is outside of the folder of the lines")
    return path


def read_image(path: Path) -> bytes:
    """Return the encoded image in a file.

    Raises:
        OSError: The file cannot be read, is not regular, or is larger than an image.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_IMAGE:
            raise OSError(
                errno.EFBIG, f"it has {size} bytes, and an image {LARGEST_IMAGE} at most", str(path)
            )
        return file.read(LARGEST_IMAGE)
