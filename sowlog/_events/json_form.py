"""The names and numbers of JSON lines; the docstring of `sowlog.writers.json_lines` has the whole form."""

from __future__ import annotations

import json
import math

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
