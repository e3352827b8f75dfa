"""Singles: events split into values without protobuf, compared with protobuf."""

import math
import struct

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from sowlog._events.points import parse_event
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


events = st.builds(serialized, steps, times, st.lists(st.tuples(tags, values), min_size=1, max_size=5))


def points(singles):
    """Return the points by tag, in order."""
    return {
        tag: list(
            zip(
                columns.steps.tolist(),
                columns.wall_times.tolist(),
                columns.values[:, 0].tolist(),
                strict=True,
            )
        )
        for tag, columns in singles.columns()
    }


def by_protobuf(*payloads):
    """Return the points by tag of events that protobuf parses."""
    found = {}
    for payload in payloads:
        for point in parse_event(payload).points:
            found.setdefault(point.tag, []).append((point.step, point.wall_time, point.value))
    return found


@given(payloads=st.lists(events, max_size=4))
def test_the_points_are_those_that_protobuf_finds(payloads):
    """For every tag, step and time; an event whose tags are kept already needs a layout."""
    singles, kept = Singles(), []
    for position, payload in enumerate(payloads):
        names = [point.tag for point in parse_event(payload).points]
        known = [[point.tag for point in parse_event(other).points] for other in kept]
        assert singles.keep(payload, position) == (names not in known)
        if names not in known:
            kept.append(payload)
    assert points(singles) == by_protobuf(*kept)


@given(data=st.data(), payload=events)
def test_a_changed_event_has_the_points_of_protobuf_or_is_not_kept(data, payload):
    """With any byte changed, removed or added, a kept event has the points that protobuf finds."""
    changed = bytearray(payload[:2000])
    position = data.draw(st.integers(0, len(changed) - 1))
    changed[position : position + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    singles = Singles()
    singles.keep(payload, 0)
    singles.release(tuple(point.tag for point in parse_event(payload).points))
    if singles.keep(bytes(changed), 1):
        wanted = by_protobuf(bytes(changed))
        found = points(singles)
        assert list(found) == sorted(wanted, key=list(found).index)
        for tag, rows in found.items():
            np.testing.assert_array_equal(rows, wanted[tag])


@given(payload=st.binary(max_size=40))
@example(payload=b"")
@example(payload=b"\x2a\x00")
@example(payload=b"\x2a\x07\x0a\x05\x15" + struct.pack("<f", 1.5))
@example(payload=b"\x2a\x09\x0a\x07\x0a\x00\x15" + struct.pack("<f", 1.5))
@example(payload=b"\x2a\x0a\x0a\x08\x0a\x01\xff\x15" + struct.pack("<f", 1.5))
def test_random_bytes_are_left_to_protobuf(payload):
    """Random bytes are kept with the points that protobuf finds, or not kept."""
    singles = Singles()
    if singles.keep(payload, 0):
        assert points(singles) == by_protobuf(payload)


def test_a_released_event_is_removed():
    """Its set of tags occurs twice, so its points belong to a layout."""
    singles = Singles()
    payload = serialized(3, 1.5, [("a", 1.0), ("b", math.inf)])
    assert singles.keep(payload, 7)
    assert not singles.keep(payload, 9)
    assert singles.release(("b", "a")) == singles.release(("unknown",)) == []
    (columns,) = singles.release(("a", "b"))
    assert (columns.positions.tolist(), columns.steps.tolist(), columns.wall_times.tolist()) == (
        [7],
        [3],
        [1.5],
    )
    assert columns.values.tolist() == [[1.0, math.inf]]
    assert points(singles) == {}
