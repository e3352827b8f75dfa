"""Events split without protobuf, compared with protobuf, and those of a set of tags that occurs once."""

import math
import struct

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from sowlog._events.parsing import parse_event
from sowlog._events.plain import Splitter, bare_event
from sowlog._events.singles import Singles

tags = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["x" * 130, "y" * 20_000]
)
values = st.floats(width=32, allow_nan=False)
steps = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 127, 128])
times = st.floats(allow_nan=False) | st.just(0.0)


def serialized(step, wall_time, scalars):
    """Return an event of plain scalars."""
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in scalars])
    return Event(step=step, wall_time=wall_time, summary=summary).SerializeToString()


def session(step, wall_time, status):
    """Return an event with the status of a session."""
    return Event(step=step, wall_time=wall_time, session_log=SessionLog(status=status)).SerializeToString()


def version(step, wall_time, text):
    """Return an event with a version of the file."""
    return Event(step=step, wall_time=wall_time, file_version=text).SerializeToString()


events = st.builds(serialized, steps, times, st.lists(st.tuples(tags, values), min_size=1, max_size=5))
versions = st.sampled_from(["brain.Event:2", "brain.Event:1", "brain.Event:", "", "ö"])
bare_events = st.builds(session, steps, times, st.integers(0, 3)) | st.builds(version, steps, times, versions)


def points(splitter, event):
    """Return the step, the wall time, and the tag and value of each scalar of a split event."""
    return event.step, event.wall_time, list(zip(splitter.names(event), event.values.tolist(), strict=True))


def by_protobuf(payload):
    """Return the same of an event that protobuf parses; it must have nothing else."""
    event = parse_event(payload)
    assert event == event._replace(restart=None, declares_restarts=None, others=[], hparams=None)
    assert event.descriptions == {}
    return event.step, event.wall_time, [(point.tag, point.value) for point in event.points]


def changed(data, payload):
    """Return an event with a byte changed, removed or added."""
    whole = bytearray(payload[:2000])
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position : position + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    return bytes(whole)


@given(payloads=st.lists(events, max_size=4))
def test_the_scalars_are_those_that_protobuf_finds(payloads):
    """For every tag, step and time, with one splitter for all events of a run."""
    splitter = Splitter()
    for payload in payloads:
        event = splitter.split(payload)
        assert event is not None
        assert points(splitter, event) == by_protobuf(payload)


@given(data=st.data(), payload=events)
def test_a_changed_event_has_the_scalars_of_protobuf_or_is_not_plain(data, payload):
    """Also where the splitter knows the tags of the event before."""
    splitter = Splitter()
    splitter.split(payload)
    payload = changed(data, payload)
    event = splitter.split(payload)
    if event is not None:
        np.testing.assert_equal(points(splitter, event), by_protobuf(payload))


@given(data=st.data(), scalars=st.lists(st.tuples(tags, values), min_size=1, max_size=3))
def test_an_event_that_is_cut_within_a_value_is_not_plain(data, scalars):
    """Also if its summary has the size that is left, and its tags are known."""
    splitter = Splitter()
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in scalars])
    whole = summary.SerializeToString()
    left = whole[: -data.draw(st.integers(1, summary.value[-1].ByteSize() + 1))]
    # A graph_def has the form of a summary, with any bytes.
    known, cut = (b"\x2a" + Event(graph_def=part).SerializeToString()[1:] for part in (whole, left))
    assert splitter.split(known) is not None
    assert splitter.split(cut) is None


@given(payload=st.binary(max_size=40))
@example(payload=b"")
@example(payload=b"\x2a\x00")
@example(payload=b"\x09")
@example(payload=b"\x09" + bytes(7))
@example(payload=b"\x10" + b"\xff" * 9 + b"\x7f\x2a\x07\x0a\x05\x15" + struct.pack("<f", 1.5))
@example(payload=b"\x2a\x07\x0a\x05\x15" + struct.pack("<f", 1.5))
@example(payload=b"\x2a\x09\x0a\x07\x0a\x00\x15" + struct.pack("<f", 1.5))
@example(payload=b"\x2a\x0a\x0a\x08\x0a\x01\xff\x15" + struct.pack("<f", 1.5))
@example(payload=b"\x2a\x87\x80\x80\x80\x80\x00\x0a\x05\x15" + struct.pack("<f", 1.5))
@example(payload=b"\x2a\x0c\x0a\x85\x80\x80\x80\x80\x00\x15" + struct.pack("<f", 1.5))
@example(payload=b"\x2a\x10\x0a\x0e\x0a\x82\x80\x80\x80\x80\x00ab\x15" + struct.pack("<f", 1.5))
@example(payload=b"\x2a\x86\x80\x80\x80\x00\x0a\x05\x15" + struct.pack("<f", 1.5))
@example(payload=b"\x1a\x8d\x80\x80\x80\x80\x00brain.Event:2")
@example(payload=b"\x1a\x01\xff")
@example(payload=b"\x2a\x02\x08\x01")
@example(payload=b"\x2a\x0d\x0a\x0b\x0a\x01a\x3a\x01b\x15" + struct.pack("<f", 1.5))
@example(payload=b"\x2a\x09\x0a\x05\x15\x00\x15\x00\x00\x0a\x00")
def test_random_bytes_are_left_to_protobuf(payload):
    """Or they are what protobuf finds in them."""
    splitter = Splitter()
    event = splitter.split(payload)
    if event is not None:
        np.testing.assert_equal(points(splitter, event), by_protobuf(payload))
    bare = bare_event(payload)
    if bare is not None:
        np.testing.assert_equal(bare, parse_event(payload))


@given(data=st.data(), payload=bare_events)
def test_versions_and_starts_are_those_that_protobuf_finds(data, payload):
    """A session that ends, or an event without a version, is left to protobuf; a changed event may be."""
    bare = bare_event(payload)
    parsed = parse_event(payload)
    if parsed.restart is not None or parsed.declares_restarts is not None:
        assert bare == parsed
    else:
        assert bare is None
    payload = changed(data, payload) if payload else payload
    bare = bare_event(payload)
    if bare is not None:
        np.testing.assert_equal(bare, parse_event(payload))


def test_a_set_of_tags_that_occurs_once_is_kept_until_it_is_released():
    """When its tags occur again, its points belong to a layout."""
    splitter = Splitter()
    singles = Singles(splitter.tags)
    first, other, again = (
        splitter.split(serialized(step, 1.5, scalars))
        for step, scalars in (
            (3, [("a", 1.0), ("b", math.inf)]),
            (4, [("b", 2.0), ("a", 3.0)]),
            (5, [("a", 4.0), ("b", 5.0)]),
        )
    )
    assert singles.keep(first, 7)
    assert singles.keep(other, 8)
    assert not singles.keep(again, 9)
    assert {tag: (columns.steps.tolist(), columns.values.tolist()) for tag, columns in singles.columns()} == {
        "a": ([3, 4], [[1.0], [3.0]]),
        "b": ([3, 4], [[math.inf], [2.0]]),
    }
    columns = singles.release(again)
    assert (columns.positions.tolist(), columns.steps.tolist(), columns.wall_times.tolist()) == (
        [7],
        [3],
        [1.5],
    )
    assert columns.values.tolist() == [[1.0, math.inf]]
    assert {tag: columns.steps.tolist() for tag, columns in singles.columns()} == {"a": [4], "b": [4]}
