"""Globs of tags: line ends, and globs that are none."""

import numpy as np
import pytest

import sowlog
import sowlog.testing
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


@pytest.mark.parametrize(
    ("globs", "error", "message"),
    [
        (3, TypeError, "is 3; give a glob of tags or a list of them"),
        (b"x", TypeError, "is b'x'; give a glob of tags or a list of them"),
        (["x", 3], TypeError, "has 3, of type int: give globs of tags"),
        ("", ValueError, "has '', with an empty part: write a glob of parts"),
        (["x", "a//b"], ValueError, "has 'a//b', with an empty part"),
    ],
)
def test_what_is_no_glob_is_named(tmp_path, globs, error, message):
    """By each function that takes globs, with its own name, before anything is computed."""
    takers = {
        "expect of total_loss": lambda: sowlog.total_loss({"losses": {}}, expect=globs),
        r"stacked of observe\('grads'\)": lambda: sowlog.observe("grads", stacked=globs),
        "names of assert_sown": lambda: sowlog.testing.assert_sown(lambda: None, names=globs),
        "globs of families": lambda: sowlog.families([], globs),
        "fold of Logger": lambda: sowlog.Logger(tmp_path, fold=globs),
    }
    for name, take in takers.items():
        with pytest.raises(error, match=f"^{name} {message}"):
            take()
