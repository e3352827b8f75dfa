"""Globs of tags with line ends."""

import numpy as np
import pytest

import sowlog
from sowlog._cli.selecting import matching
from sowlog._tree.globs import matches
from sowlog.writers._console.progress import Progress
from sowlog.writers.record import Record


@pytest.mark.parametrize(
    ("glob", "tag", "is_match"),
    [
        ("**", "a\nb", True),
        ("**", "\n", True),
        ("a/**", "a/\n/b", True),
        ("*", "a\n", True),
        ("a?", "a\n", True),
        ("loss", "loss\n", False),
        ("**/loss", "eval/loss\n", False),
        ("lo*s", "loss\n", False),
    ],
)
def test_a_line_end_is_a_character_like_others(glob, tag, is_match):
    """In each place that takes globs, as a tag may be any text."""
    assert matches(glob, tag) == is_match
    assert bool(matching([tag], [glob])) == is_match
    progress = Progress([glob])
    assert len(progress.note(Record(0, 0.0, (tag,), np.ones(1, np.float32)))) == is_match
    tags = [f"{tag}/x_0", f"{tag}/x_1"]
    assert bool(sowlog.families(tags, f"{glob}/*")) == is_match
