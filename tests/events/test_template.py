import math
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

import sowlog
from sowlog._events import protos
from sowlog._events.template import event_head
from sowlog._tree.layout import ABSENT, PresentTags
from sowlog.writers import TensorBoard, tensorboard
from sowlog.writers.record import Record

# NaN payloads are left out: a Python float does not carry them through protobuf.
floats = st.floats(width=32, allow_nan=False) | st.just(math.nan)
tags = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), min_size=1, max_size=20)
steps = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -1, 127, 128, 2**31, 2**63 - 1, -(2**63)])
times = st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.7e9, 5e-324])


def by_protobuf(path, records):
    """Write the records with protobuf and tensorboardX's record writer, and return the bytes."""
    writer = RecordWriter(str(path))
    for record in filter(lambda record: record.tags, records):
        pairs = zip(record.tags, record.values.tolist(), strict=True)
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in pairs])
        event = Event(wall_time=record.wall_time, step=record.step, summary=summary)
        writer.write(event.SerializeToString())
    writer.close()
    return path.read_bytes()


def by_sowlog(folder, records):
    """Return the bytes of the records after the file's opening, without descriptions, by our writer."""
    writer = TensorBoard(folder)
    opening = writer.path.stat().st_size
    for record in records:
        writer.write(record)
    writer.close()
    return writer.path.read_bytes()[opening:]


@st.composite
def runs(draw):
    """Draw records whose tag sets alternate between a few, of which some tags may be absent."""
    layouts = [tuple(draw(tags)) for _ in range(draw(st.integers(1, 3)))]
    records = []
    for _ in range(draw(st.integers(1, 6))):
        layout = draw(st.sampled_from(layouts))
        values = np.array(draw(st.lists(floats, min_size=len(layout), max_size=len(layout))), np.float32)
        present = np.array(draw(st.lists(st.booleans(), min_size=len(layout), max_size=len(layout))))
        if not present.all():
            layout, values = PresentTags.of(layout, present), values[present]
        records.append(Record(draw(steps), draw(times), layout, values))
    return records


@given(records=runs())
@example(records=[Record(0, 0.0, ("",), np.zeros(1, np.float32))])
@example(records=[Record(-1, -0.0, ("a",), np.array([-0.0], np.float32))])
def test_the_file_is_what_protobuf_would_have_written(records, tmp_path_factory):
    """The bytes are equal, for any tags, values, steps and times, with several templates in turn."""
    folder = tmp_path_factory.mktemp("run")
    assert by_sowlog(folder, records) == by_protobuf(folder / "expected", records)


def test_a_thousand_tags_are_what_protobuf_would_have_written(tmp_path):
    """The length of the summary then takes three bytes."""
    many = tuple(f"decoder/block_{i:04d}/attention/entropy" for i in range(1000))
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    records = [Record(step, 1.7e9 + step, many, values * step) for step in range(3)]
    assert by_sowlog(tmp_path, records) == by_protobuf(tmp_path / "expected", records)


def test_absences_at_a_thousand_tags_are_what_protobuf_would_have_written(tmp_path):
    """The first, the last, one, most or all but one are absent; the length takes one byte to three."""
    many = tuple(f"decoder/block_{i:04d}/attention/entropy" for i in range(1000))
    generator = np.random.default_rng(0)
    masks = [generator.random(1000) < share for share in (0.001, 0.01, 0.5, 0.99)]
    absences = ([0], [999], [0, 1, 500, 998, 999], range(1, 1000), range(999))
    masks += [np.isin(np.arange(1000), absent, invert=True) for absent in absences]
    values = generator.standard_normal(1000).astype(np.float32)
    records = [
        Record(step, 1.7e9 + step, PresentTags.of(many, present), (values * step)[present])
        for step, present in enumerate(masks)
    ]
    records.append(Record(9, 1.7e9, many, values))
    assert by_sowlog(tmp_path, records) == by_protobuf(tmp_path / "expected", records)


@given(step=steps, time=times)
def test_the_head_is_protobufs(step, time):
    """Step and wall time are encoded as protobuf encodes them, zeros left out."""
    assert event_head(step, time) == Event(step=step, wall_time=time).SerializeToString()


@pytest.fixture
def built(monkeypatch):
    """Return the list of the tag sets that templates were built for."""
    built = []
    make = tensorboard._make_template
    monkeypatch.setattr(tensorboard, "_make_template", lambda tags: built.append(tags) or make(tags))
    return built


def record(step, *names):
    """Return a record with a tags tuple of its own."""
    return Record(step, 1.5, tuple(names), np.full(len(names), step, np.float32))


def test_alternating_tag_sets_do_not_rebuild(tmp_path, built):
    """Training, evaluation and a rare set keep a template each, even if each tuple is a new object."""
    by_sowlog(tmp_path, [record(i, *(["a", "b"], ["c"], ["a"])[i % 3]) for i in range(300)])
    assert sorted(built) == [("a",), ("a", "b"), ("c",)]


def test_absences_that_change_do_not_rebuild(tmp_path, built):
    """A layout has one template for any absent values, with numbers on the host or without."""
    layout = sowlog.pack(dict.fromkeys("abcdef", 1.0)).layout
    with sowlog.Logger(tmp_path / "packed") as log, sowlog.Logger(tmp_path / "mixed") as mixed:
        for step in range(60):
            words = np.full(6, step, np.float32).view(np.uint32)
            words[[step % 6, step % 5]] = ABSENT
            log(step, sowlog.Packed(words, layout))
            states = {tag: sowlog.sum.of(step, weight=step % n) for n, tag in enumerate("ab", 2)}
            mixed(step, {"host": 1.0, **states})
    assert sorted(built) == [tuple("abcdef"), ("a", "b", "host")]
    series = sowlog.read(tmp_path / "packed").scalars
    for index, tag in enumerate("abcdef"):
        present = [step for step in range(60) if index not in (step % 6, step % 5)]
        assert series[tag].steps.tolist() == series[tag].values.tolist() == present
    series = sowlog.read(tmp_path / "mixed").scalars
    assert series["host"].steps.tolist() == list(range(60))
    for n, tag in enumerate("ab", 2):
        assert series[tag].steps.tolist() == [step for step in range(60) if step % n]


def test_the_templates_kept_are_bounded(tmp_path):
    """A run whose tag set changes at every step does not grow."""
    writer = TensorBoard(tmp_path)
    for i in range(300):
        writer.write(record(i, f"tag{i}"))
    assert len(writer._recent) <= 64
    assert writer._template_of.cache_info().currsize <= 64
    assert protos.scalar_summary.cache_info().maxsize == protos._PIECES
    writer.close()


def test_a_tuple_that_is_gone_gives_its_place_to_no_other(tmp_path):
    """Tuples created and dropped at every step may share an address; each record has its own tags."""
    writer = TensorBoard(tmp_path)
    expected = [record(i, f"tag{i % 7}", f"other{i % 3}") for i in range(500)]
    for each in expected:
        writer.write(record(each.step, *each.tags))
    writer.close()
    folder = tmp_path / "expected"
    assert writer.path.read_bytes().endswith(by_protobuf(folder, expected))


def test_a_value_may_look_like_any_byte(tmp_path):
    """Values with the bytes of keys or lengths are only values."""
    bits = [0x01010101, 0x02020202, 0x0A0A0A0A, 0x2A2A2A2A, 0xFFFFFF7F]
    values = np.array(bits, np.uint32).view(np.float32)
    path = tmp_path / "run"
    data = by_sowlog(path, [Record(1, 1.5, tuple("abcde"), values)])
    assert all(struct.pack("<I", word) in data for word in bits)


def test_a_tag_that_is_no_unicode_is_refused_by_name(tmp_path):
    """A lone surrogate has no UTF-8; nothing is written, and the next record is."""
    writer = TensorBoard(tmp_path)
    size = writer.path.stat().st_size
    with pytest.raises(ValueError, match="surrogate"):
        writer.write(record(1, "bad\ud800"))
    assert writer.path.stat().st_size == size
    writer.write(record(2, "good"))
    writer.close()
