"""Files of any size and content: bounded memory and time, and an error that names the place."""

import os
import resource
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sowlog
from sowlog._events import framing
from sowlog._events.framing import frame, pack_header
from sowlog._events.wire import value_places
from tests.support import event_shapes as shapes
from tests.support.event_shapes import VERSION, Event, event, write_file

MEMORY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
from sowlog._events.reading import read
run = read(sys.argv[1])
print(len(run.scalars["x"].steps), run.damage[0])
"""


@pytest.mark.parametrize("header", [b"", pack_header(3 << 27)])
def test_a_sparse_file_of_10_gb_is_read_in_bounded_memory(tmp_path, header):
    """Its zeros are no record; a payload that is larger than the memory is checked before it is held."""
    path = write_file(tmp_path, [VERSION, event(0, shapes.plain("x", 1.0))])
    with path.open("ab") as file:
        file.write(header)
    os.truncate(path, 10 << 30)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), str(_address_space() + (2 << 26))],
        capture_output=True,
        text=True,
        check=True,
    )
    count, _, damage = done.stdout.partition(" ")
    assert count == "1"
    assert ("has a damaged payload of" if header else "has a damaged length field") in damage


def _address_space():
    """Return the bytes of address space that the reader's imports take."""
    code = "import resource; from sowlog._events.reading import read; print(open('/proc/self/statm').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0]) * resource.getpagesize()


def test_steps_beyond_a_billion_are_numbers_like_others(tmp_path):
    """No array has the length of a run."""
    steps = [0, 10**9, 2**62]
    write_file(tmp_path, [VERSION, *(event(step, shapes.plain("x", 1.0)) for step in steps)])
    assert sowlog.read(tmp_path).scalars["x"].steps.tolist() == steps


def test_a_tag_of_100_kb_is_a_tag(tmp_path):
    """Scalars and other kinds; the table repeats the tag without a copy."""
    tag = "t" * 100_000
    write_file(
        tmp_path,
        [VERSION, *(event(s, shapes.plain(tag, s), shapes.tensor(f"{tag}x", [s])) for s in range(9))],
    )
    run = sowlog.read(tmp_path)
    assert run.scalars[tag].values.tolist() == list(range(9))
    assert len(run.scalars[f"{tag}x"].steps) == 9
    assert len({id(text) for text in run.to_numpy()["tag"]}) == 2


def test_a_file_that_is_deleted_while_it_is_read_is_read_whole(tmp_path, monkeypatch):
    """One that is deleted before it is opened is damage with its name."""
    paths = [
        write_file(tmp_path, [VERSION, event(n, shapes.plain("x", n))], name=f"events.out.tfevents.{n}.host")
        for n in range(3)
    ]
    opened = framing.open_regular

    def delete(path):
        file = opened(path)
        path.unlink()
        paths[2].unlink(missing_ok=True)
        return file

    monkeypatch.setattr(framing, "open_regular", delete)
    run = sowlog.read(tmp_path)
    assert run.scalars["x"].steps.tolist() == [0, 1]
    assert [str(damage) for damage in run.damage] == [
        f"{paths[2]} is skipped, since it cannot be read as a file: No such file or directory."
    ]


@given(payload=st.binary(max_size=60))
def test_places_of_values_are_those_that_protobuf_finds(payload):
    """In any bytes that protobuf parses, unknown fields and groups included."""
    try:
        values = list(Event.FromString(payload).summary.value)
    except Exception:
        return
    assert len(value_places(payload)) == len(values)


GROUP = bytes(
    [(100 << 3 | 3) & 0x7F | 0x80, 100 << 3 >> 7, 0x08, 0x01, (100 << 3 | 4) & 0x7F | 0x80, 100 << 3 >> 7]
)


@given(
    parts=st.lists(
        st.sampled_from(
            [
                event(1, shapes.plain("a", 1.0), shapes.plain("b", 2.0)).SerializeToString(),
                event(2).SerializeToString(),
                Event(graph_def=b"graph").SerializeToString(),
                Event(file_version="brain.Event:2").SerializeToString(),
                struct.pack("<BBI", 0xFD, 0x7F, 7),
                struct.pack("<BBQ", 0xF9, 0x7F, 7),
                GROUP,
            ]
        ),
        max_size=6,
    )
)
def test_merged_messages_have_the_values_that_protobuf_merges(parts):
    """The last field of an event counts, and two summaries are joined."""
    payload = b"".join(parts)
    values = list(Event.FromString(payload).summary.value)
    places = value_places(payload)
    assert [payload[first:last] for first, last in places] == [value.SerializeToString() for value in values]


@pytest.mark.parametrize(
    "payload",
    [b"\x2a", b"\x2a\x05\x0a", b"\x2a\x02\x0a\x05", b"\x0f", b"\xff" * 11, b"\x2b\x08", b"\x2d\x00"],
)
def test_bytes_that_are_no_message_are_an_error(payload):
    """Cut short at each kind of field, or of a wire type that does not exist."""
    with pytest.raises(ValueError, match="holds no Event"):
        value_places(payload)


def test_damage_in_hyperparameters_is_named(tmp_path):
    """Their plugin's data is a message of its own."""
    value = shapes.keras_hparams({"a": 1})
    value.metadata.plugin_data.content = b"\xff"
    write_file(tmp_path, [VERSION, event(0, value)])
    (damage,) = sowlog.read(tmp_path).damage
    assert "has hyperparameters that are no HParamsPluginData" in str(damage)


def test_values_other_than_scalars_take_no_memory(tmp_path):
    """Of 40 tensors of 1 MB each, reading holds one at a time, and keeps their places."""
    array = np.zeros(1 << 18, np.float32)
    write_file(tmp_path, [VERSION, *(event(step, shapes.raw_tensor("t", array)) for step in range(40))])
    tracemalloc.start()
    try:
        run = sowlog.read(tmp_path)
        kept, peak = tracemalloc.get_traced_memory()
        assert run.tensors["t"].values[39].shape == array.shape
    finally:
        tracemalloc.stop()
    assert kept < 1 << 20
    assert peak < 8 << 20


def test_a_large_payload_with_a_right_checksum_is_read(tmp_path, monkeypatch):
    """It is checked in parts, then read."""
    monkeypatch.setattr(framing, "_UNCHECKED", 1000)
    monkeypatch.setattr(framing, "_READ_AHEAD", 512)
    array = np.arange(1000.0)
    path = write_file(
        tmp_path, [VERSION, event(0, shapes.tensor("t", array)), event(1, shapes.plain("x", 1.0))]
    )
    run = sowlog.read(tmp_path)
    np.testing.assert_array_equal(run.tensors["t"].values[0], array)
    assert run.scalars["x"].steps.tolist() == [1]
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    (damage,) = sowlog.read(tmp_path).damage
    assert (damage.record, "has a damaged payload" in str(damage)) == (1, True)
    assert frame(b"x")[:12] == pack_header(1)
