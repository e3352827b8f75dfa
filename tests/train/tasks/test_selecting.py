"""Globs of a task's results: those of sowlog."""

from hypothesis import given
from hypothesis import strategies as st

from sowlog._tree.globs import matches
from train.tasks.selecting import select

PART = st.text("ab\n[]!.", min_size=1, max_size=3)
TAGS = st.lists(PART, min_size=1, max_size=4).map("/".join)
WILD = st.sampled_from(["*", "**", "a*", "?", "*b", "[ab]"])
GLOBS = st.lists(PART | WILD, min_size=1, max_size=4).map("/".join)


@given(st.lists(GLOBS, max_size=3), st.lists(TAGS, max_size=5, unique=True))
def test_a_glob_has_the_meaning_of_all_globs_of_tags(globs: list[str], tags: list[str]) -> None:
    """As of `watch` and `fold`; the tags come in the order of the globs, each once."""
    expected: list[str] = []
    for glob in globs:
        expected += [tag for tag in tags if matches(glob, tag) and tag not in expected]
    assert select(globs, tags) == expected


def test_a_star_is_within_one_part() -> None:
    """So that a result names values of one depth."""
    tags = ["loss", "blocks/0/mlp/dead", "blocks/0/rms"]
    assert select(["blocks/*/*", "*"], tags) == ["blocks/0/rms", "loss"]
    assert select(["**"], tags) == tags
