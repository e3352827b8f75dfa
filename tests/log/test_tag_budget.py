"""The budget of scalar tags: a warning that names the families to fold."""

import warnings

import numpy as np
import pytest

import sowlog
from sowlog._log.tag_budget import TagBudget
from sowlog._tree.layout import PresentTags
from sowlog.testing import MemoryWriter


def warnings_of(*metrics, **settings):
    """Return the texts of the warnings of a run that logs these metrics, step by step."""
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        with sowlog.Logger("unused", writers=[MemoryWriter()], **settings) as log:
            for step, each in enumerate(metrics):
                log(step, each)
                log.flush()
    assert all(issubclass(each.category, sowlog.TagWarning) for each in issued)
    assert all(each.filename == __file__ for each in issued)
    return [str(each.message) for each in issued]


def blocks(families, layers):
    """Return metrics of some families of stacked layers."""
    return {"blocks": {f"f{'abcdefgh'[i]}": [float(n) for n in range(layers)] for i in range(families)}}


def test_the_warning_names_the_largest_families_and_the_line_to_write():
    """Once, at the line of the user."""
    metrics = {**blocks(1, 9), "gate": [0.5, 0.25], "loss": 1.0}
    (text,) = warnings_of(metrics, metrics, {**metrics, "more": 1.0}, tag_budget=11)
    assert text == (
        "the run logs 12 scalar tags, more than tag_budget=11: TensorBoard becomes slow with thousands of "
        "curves. The largest families are blocks/fa/* (9), gate/* (2). Fold families to quantiles and a heat "
        "map: Logger(..., fold=['blocks/fa/*', 'gate/*']); or raise tag_budget."
    )
    assert not warnings_of(metrics, fold=["blocks/fa/*", "gate/*"], tag_budget=11)


def test_many_families_have_a_glob_of_their_first_part():
    """Few globs are written, and they fold all families."""
    metrics = {**blocks(6, 2), "loss": 1.0}
    (text,) = warnings_of(metrics, tag_budget=12)
    assert "blocks/fe/* (2) and 1 more." in text
    assert "fold=['blocks/**']" in text
    metrics = {name: [1.0, 2.0] for name in "abcdefgh"}
    (text,) = warnings_of({name: {"x": value} for name, value in metrics.items()}, tag_budget=12)
    assert "fold=['**']" in text


def test_a_run_within_the_budget_is_silent():
    """The tags of all records count, as they are written: those of a folded family are four."""
    assert not warnings_of({"a": 1.0}, {"b": 1.0}, {"a": 1.0}, tag_budget=2)
    assert not warnings_of(blocks(2, 300), tag_budget=600)
    assert not warnings_of(blocks(2, 300), fold="**", tag_budget=8)
    assert len(warnings_of(blocks(2, 300), fold="**", tag_budget=7)) == 1
    assert len(warnings_of(blocks(4, 300))) == 1
    assert not warnings_of(blocks(4, 300), tag_budget=None)


def test_tags_that_are_no_family_have_no_glob():
    """Such a run logs fewer of them."""
    (text,) = warnings_of({"a": 1.0}, {"b": 1.0}, tag_budget=1)
    assert text.endswith("No tags are equal but for an index: log fewer of them, or raise tag_budget.")


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_without_a_tag_is_refused(budget):
    """None is no limit."""
    with pytest.raises(ValueError, match=f"tag_budget is {budget}; it must be 1 tag or more"):
        sowlog.Logger("unused", writers=[], tag_budget=budget)


def test_tags_of_a_layout_count_before_all_have_a_value():
    """Statistics of a cadence come later, and the warning need not wait for them."""
    tags = PresentTags.of(("a", "b", "c"), np.array([True, False, False]))
    assert TagBudget(3).note(tags) is None
    assert "logs 3 scalar tags" in str(TagBudget(2).note(tags))
