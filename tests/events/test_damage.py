"""Event files that are cut short, changed or followed by other bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event

from sowlog import Logger
from sowlog._events.framing import frame, read_payloads
from sowlog._events.reading import read
from tests.support.tensorboard_reading import as_series, tensorboard_scalars


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Return the bytes of a small event file of ten steps."""
    folder = tmp_path_factory.mktemp("sample")
    with Logger(folder) as log:
        for step in range(10):
            log(step, {"a": float(step), "b": -float(step)})
    (path,) = folder.iterdir()
    return path.read_bytes()


def read_bytes(folder, content):
    """Write the content as an event file and read it, with checks that hold for any content."""
    path = folder / "events.out.tfevents.1.host"
    path.write_bytes(content)
    run = read(path)
    for steps, values in run.scalars.values():
        assert len(steps) == len(values)
        assert steps.tolist() == list(range(len(steps)))
    assert run.damage == () or run.damage[0].path == path
    return run


@given(data=st.data())
def test_a_cut_file_is_read_to_its_last_whole_record(data, sample, tmp_path_factory):
    """The error has the byte at which the torn record begins."""
    size = data.draw(st.integers(0, len(sample)))
    run = read_bytes(tmp_path_factory.mktemp("cut"), sample[:size])
    for damage in run.damage:
        assert "is cut short" in str(damage)
        assert damage.offset < size


@given(data=st.data())
def test_a_flipped_bit_is_reported_where_it_is(data, sample, tmp_path_factory):
    """All records before it are read, and none after it."""
    bit = data.draw(st.integers(0, len(sample) * 8 - 1))
    flipped = bytearray(sample)
    flipped[bit // 8] ^= 1 << bit % 8
    run = read_bytes(tmp_path_factory.mktemp("flip"), flipped)
    (damage,) = run.damage
    assert damage.offset <= bit // 8
    assert damage.record >= len(run.scalars.get("a", ([],))[0])


@given(
    tail=st.binary(min_size=1, max_size=100)
    | st.integers(1, 5000).map(bytes)
    | st.integers(0, 2**64 - 1).map(lambda length: struct.pack("<Q", length) + bytes(30))
)
def test_rubbish_after_the_records_is_reported(tail, sample, tmp_path_factory):
    """Random bytes, zeros and absurd lengths end the file, with all ten steps read."""
    run = read_bytes(tmp_path_factory.mktemp("tail"), sample + tail)
    assert len(run.scalars["a"].steps) == 10
    assert run.damage[0].offset == len(sample)


@given(payload=st.binary(max_size=60))
def test_a_whole_record_that_is_no_event_crashes_nothing(payload, sample, tmp_path_factory):
    """A valid checksum does not make an Event: the payload has no points, or is damage."""
    run = read_bytes(tmp_path_factory.mktemp("rubbish"), sample + frame(payload))
    assert len(run.scalars["a"].steps) == 10
    assert len(run.damage) <= 1
    for damage in run.damage:
        assert (damage.offset, damage.record) == (len(sample), 11)


@given(data=st.data())
def test_a_changed_payload_with_a_right_checksum_is_still_sorted_right(data, sample, tmp_path_factory):
    """Decoded by layout or by protobuf, the points are the same."""
    folder = tmp_path_factory.mktemp("changed")
    path = folder / "events.out.tfevents.1.host"
    path.write_bytes(sample)
    payloads = [bytearray(payload) for payload in read_payloads(path)]
    payload = payloads[data.draw(st.integers(1, 10))]
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(b"".join(frame(bytes(payload)) for payload in payloads))
    run = read(path)
    parsed, broken = [], 0
    for payload in payloads:
        try:
            event = Event.FromString(bytes(payload))
        except Exception:
            broken += 1
            continue
        parsed += [
            (event.step, v.tag) for v in event.summary.value if v.WhichOneof("value") == "simple_value"
        ]
    assert len(run.damage) == broken
    if not broken:
        found = [(step, tag) for tag, (steps, _) in run.scalars.items() for step in steps.tolist()]
        assert sorted(found) == sorted(parsed)


def test_a_step_that_is_no_varint_of_its_size_is_not_guessed(tmp_path, sample):
    """A set high bit extends the step into the next field; protobuf decides its meaning."""
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(sample)
    payloads = list(read_payloads(path))
    changed = bytearray(payloads[5])
    changed[10] |= 0x80
    path.write_bytes(b"".join(map(frame, [*payloads[:5], bytes(changed), *payloads[6:]])))
    run = read(path)
    assert run.scalars["a"].steps.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [damage.record for damage in run.damage] == [5]


def test_damage_in_one_file_leaves_the_next_whole(tmp_path, sample):
    """The file of the resumed run follows the torn file of the killed process."""
    (tmp_path / "events.out.tfevents.1.host").write_bytes(sample[:-5])
    with Logger(tmp_path, resume_from=7) as log:
        for step in range(7, 12):
            log(step, {"a": 100.0 + step})
    run = read(tmp_path)
    assert run.scalars["a"].steps.tolist() == list(range(12))
    assert run.scalars["a"].values.tolist() == [*range(7), *range(107, 112)]
    assert [damage.path.name for damage in run.damage] == ["events.out.tfevents.1.host"]
    assert as_series(run) == tensorboard_scalars(tmp_path)
