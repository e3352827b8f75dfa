import dataclasses
import json

import numpy as np
import pytest

import sowlog
from sowlog._tree.layout import PresentTags
from sowlog.testing import MemoryWriter
from sowlog.writers import HParams, Record
from sowlog.writers._record_bytes import RecordDecoder, RecordEncoder


def through_bytes(record):
    """Return a record that was encoded and decoded."""
    return RecordDecoder().decode(RecordEncoder().encode(record))


def assert_equal(found, expected):
    """Compare two records field by field, bit for bit."""
    assert (found.step, found.wall_time, found.tags) == (
        expected.step,
        expected.wall_time,
        tuple(expected.tags),
    )
    assert found.values.tobytes() == expected.values.tobytes()
    assert found.values.dtype == np.float32
    assert not found.values.flags.writeable
    assert list(found.histograms) == list(expected.histograms)
    for tag, value in found.histograms.items():
        other = expected.histograms[tag]
        np.testing.assert_array_equal(value.counts, np.asarray(other.counts, np.float64) + other.residues)
        np.testing.assert_array_equal(value.edges, other.edges)
        for name in ("min", "max", "sum", "sum_squares", "nan", "positive_inf", "negative_inf"):
            np.testing.assert_array_equal(getattr(value, name), getattr(other, name))
    for name in ("images", "pr_curves"):
        arrays, others = getattr(found, name), getattr(expected, name)
        assert list(arrays) == list(others)
        for tag, array in arrays.items():
            np.testing.assert_array_equal(array, others[tag], strict=True)
    assert (found.unfolded is None) == (expected.unfolded is None)
    if expected.unfolded is not None:
        assert_equal(found.unfolded, expected.unfolded)
    for name in ("hparams", "ending", "texts", "layout", "is_of_logger"):
        assert getattr(found, name) == getattr(expected, name)


def test_all_values_of_a_run_come_back(tmp_path):
    """The records of a logger, of every kind of value."""
    memory = MemoryWriter()
    elements = np.array([0.5, -2.0, 1e30, np.nan, -np.inf], np.float32)
    with sowlog.Logger(tmp_path, writers=[memory], on_nonfinite="ignore") as log:
        log.hparams({"lr": 0.1, "name": "é", "flag": True}, metrics=["loss"])
        log.layout({"loss": {"both": ["loss", "eval/*"]}})
        log(2**62, {"loss": np.nan, "big": np.inf, "h": sowlog.histogram.of(elements)})
        log.image(1, "image", np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
        log.text(1, "samples", "a **b**\n\u2028")
        log.pr_curve(1, "curve", np.array([0, 1, 1]), np.array([0.25, 0.5, 0.75], np.float32))
    assert len(memory.records) == 7
    for record in memory.records:
        assert_equal(through_bytes(record), record)


@pytest.mark.parametrize("step", [-(2**63), 0, 2**63 - 1])
def test_steps_and_odd_tags_come_back(step):
    """Any int64, and any tag that Python has."""
    tags = ("a b", "損失", "\udc80", "\n", "", "%s")
    record = Record(step, 1e9 + 1 / 3, tags, np.array([1e-45, -0.0, np.inf, np.nan, 0.1, 3e38], np.float32))
    assert_equal(through_bytes(record), record)


def test_steps_of_one_layout_share_their_tags():
    """A writer behind the spool caches by identity, as every writer may."""
    encoder, decoder = RecordEncoder(), RecordDecoder()
    tags = ("a", "b")
    contents = [encoder.encode(Record(step, 1.5, tags, np.zeros(2, np.float32))) for step in range(3)]
    first, second, third = map(decoder.decode, contents)
    assert first.tags is second.tags is third.tags


def test_absent_values_and_many_layouts():
    """More sets of tags than are cached."""
    encoder, decoder = RecordEncoder(), RecordDecoder()
    whole = tuple(f"tag{i}" for i in range(8))
    for step in range(200):
        present = np.array([bool(step >> bit & 1) for bit in range(8)])
        tags = PresentTags.of(whole, present)
        record = Record(step, 1.5, tags, np.arange(len(tags), dtype=np.float32))
        assert_equal(decoder.decode(encoder.encode(record)), record)


def test_every_field_comes_back():
    """Also that of a logger's own record, and the layers of folded families; a new field must be added."""
    whole = Record(3, 1.5, ("a/0", "a/1"), np.array([0.5, 1.5], np.float32))
    record = dataclasses.replace(whole, tags=("a/max",), values=whole.values[1:], unfolded=whole)
    record = dataclasses.replace(record, is_of_logger=True)
    record.values.flags.writeable = False
    assert_equal(through_bytes(record), record)
    assert {field.name for field in dataclasses.fields(Record)} == {
        *("step", "wall_time", "tags", "values", "histograms", "images", "hparams", "ending", "texts"),
        *("layout", "pr_curves", "is_of_logger", "unfolded"),
    }


def test_an_empty_record_comes_back():
    """Without tags, without arrays."""
    assert_equal(through_bytes(Record(3, 1.5)), Record(3, 1.5))
    record = Record(0, 1.5, hparams=HParams({"lr": 1}, ("loss",)), ending="failure")
    assert_equal(through_bytes(record), record)
    assert json.dumps(dict(through_bytes(record).hparams.values)) == '{"lr": 1}'
