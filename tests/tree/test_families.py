"""Families: tags that are equal but for an index."""

import jax
import jax.numpy as jnp
import pytest

import sowlog
from sowlog._reduce.notes import NO_NOTE
from sowlog._tree.families import families_of
from sowlog._tree.sites import Site, Tag


def families(tags):
    """Return the name, and the tags by index, of each family by glob."""
    found = families_of(tags)
    return {
        each.glob: (each.name, {i: tags[at] for i, at in zip(each.indices, each.positions, strict=True)})
        for each in found
    }


@pytest.mark.parametrize(
    ("tags", "glob", "name"),
    [
        (["x/00", "x/01"], "x/*", "x"),
        (["layers_0/x", "layers_1/x"], "layers_*/x", "layers/x"),
        (["layers/0/rms", "layers/1/rms"], "layers/*/rms", "layers/rms"),
        (["h0/x", "h1/x"], "h*/x", "h/x"),
        (["a/0", "a/1"], "a/*", "a"),
        (["0/x", "1/x"], "*/x", "x"),
        (["block-0", "block-1"], "block-*", "block"),
    ],
)
def test_tags_equal_but_for_a_number_at_the_end_of_a_part_are_a_family(tags, glob, name):
    """The separator of the number is no part of the name."""
    assert families(tags) == {glob: (name, {0: tags[0], 1: tags[1]})}


@pytest.mark.parametrize(
    "tags",
    [
        ["loss", "lr"],
        ["x/0"],
        ["0", "1"],
        ["a/b2c/x", "a/b3c/x"],
        ["x/p50", "x/p99"],
        ["p1/x", "p5/x"],
        [f"x/{'9' * 5000}", "x/1"],
    ],
    ids=lambda tags: tags[0][:9],
)
def test_tags_without_an_index_are_none(tags):
    """A single tag is none, and neither are percentiles."""
    assert families(tags) == {}


def test_the_largest_family_of_a_tag_counts():
    """Of three blocks with two Dense modules each, the blocks are the axis; of equal ones the first."""
    tags = [f"block_{block}/Dense_{dense}/x" for block in range(3) for dense in range(2)]
    assert list(families(tags)) == ["block_*/Dense_0/x", "block_*/Dense_1/x"]
    tags = [f"encoder_{part}/layer_{layer}/x" for part in range(2) for layer in range(3)]
    assert list(families(tags)) == ["encoder_0/layer_*/x", "encoder_1/layer_*/x"]
    tags = [f"a_{a}/b_{b}" for a in range(2) for b in range(2)]
    assert list(families(tags)) == ["a_*/b_0", "a_*/b_1"]


def test_indices_are_ordered_as_numbers():
    """Names of modules are not padded; an index may be absent."""
    tags = ["h10", "h9", "loss", "h2"]
    assert families(tags) == {"h*": ("h", {2: "h2", 9: "h9", 10: "h10"})}


def packed_tags(layer, layers):
    """Return the tags of a function that sows in each layer of a scan, in part_1 of training."""

    def stack(x):
        with sowlog.scope("part_1"):
            return jax.lax.scan(sowlog.stacked(layer), x, length=layers)[0]

    return sowlog.pack({"train": sowlog.collect(stack)(jnp.ones(()))[1]["metrics"]}).layout.scalars


def test_stacked_values_are_a_family_by_their_site():
    """Names may hold other numbers; each quantile is a family of its own."""

    def layer(x, _):
        sowlog.sow("entropy", x, sowlog.mean)
        sowlog.sow("q", x, sowlog.quantiles(percents=(50, 90)))
        return x, None

    found = families(packed_tags(layer, 3))
    assert set(found) == {"train/part_1/entropy/*", "train/part_1/q/p50/*", "train/part_1/q/p90/*"}
    name, members = found["train/part_1/q/p90/*"]
    assert name == "train/part_1/q/p90"
    assert members == {i: f"{name}/{i:02}" for i in range(3)}


def test_several_stacked_axes_are_one_index():
    """Of layers and experts, in row-major order."""

    def layer(x, _):
        sowlog.sow("load", jnp.ones(4), sowlog.mean(axis=()))
        return x, None

    name = "train/part_1/load"
    members = {4 * i + expert: f"{name}/{i:02}/{expert:02}" for i in range(3) for expert in range(4)}
    assert families(packed_tags(layer, 3)) == {f"{name}/*/*": (name, members)}


def test_the_indices_may_stand_before_the_name_of_a_result():
    """As those of a stacked histogram's nonfinite elements, also where a name before has the same number."""
    tags = [
        Tag.of(f"b/00/h/{i:02}/{j:02}/nonfinite", Site(NO_NOTE, None, (i, j)))
        for i in range(2)
        for j in range(3)
    ]
    assert families(tags) == {"b/00/h/*/*/nonfinite": ("b/00/h/nonfinite", dict(enumerate(map(str, tags))))}


def test_globs_choose_the_tags_that_are_searched():
    """A str is one glob; a glob may choose some members of a family."""
    tags = ["a/x/0", "a/x/1", "b_0/x", "b_1/x", "b_2/x"]
    both = {"a/x": ("a/x/0", "a/x/1"), "b/x": ("b_0/x", "b_1/x", "b_2/x")}
    assert sowlog.families(tags) == sowlog.families(iter(tags), ["a/**", "b_*/x"]) == both
    assert sowlog.families(tags, "a/**") == {"a/x": both["a/x"]}
    assert sowlog.families(tags, ["b_0/*", "b_2/*"]) == {"b/x": ("b_0/x", "b_2/x")}
    assert sowlog.families(tags, ()) == sowlog.families(["x", "y"]) == {}


def test_families_of_one_name_are_the_first():
    """As the logger folds it."""
    assert sowlog.families(["x/0", "x/1", "x_0", "x_1"]) == {"x": ("x/0", "x/1")}
