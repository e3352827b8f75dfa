"""Records of one layout that are read together, beside the same records read one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sowlog
from sowlog._events import blocks, reader
from sowlog._events.columns import EventLayout
from sowlog._events.framing import frame, masked_crc32c
from sowlog._events.plain import Splitter
from tests.support import event_shapes as shapes
from tests.support.event_shapes import VERSION, event, start, write_file
from tests.support.tensorboard_reading import as_series, tensorboard_scalars

steps = st.integers(0, 3) | st.sampled_from([127, 128, 2**31, 2**63 - 1, -1, -(2**63)])
streaks = st.lists(
    st.tuples(st.sampled_from(["a", "b", "ab", "text", "start"]), steps, st.integers(1, 6)),
    min_size=1,
    max_size=6,
)


def events_of(streaks):
    """Return events with a layout in a row, and others between them."""
    made = [VERSION]
    for kind, step, count in streaks:
        made += [_event_of(kind, step, number) for number in range(count)]
    return made


def _event_of(kind, step, number):
    if kind == "start":
        return start(step)
    if kind == "text":
        return event(step, shapes.tensor("t", np.array(b"note", object), plugin="text"))
    return event(step, *(shapes.plain(tag, 0.5 * number) for tag in kind), wall_time=float(number))


def contents(path, repeated):
    """Return the contents of a file as read if `repeated` records in a row begin a block."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reader, "_REPEATED", repeated)
        patched.setattr(blocks, "_BLOCK", 100)
        run = sowlog.read(path)
    texts = {tag: list(media) for tag, media in run.texts.items()}
    return as_series(run), texts, list(map(str, run.damage)), run._reader.tracker.records


@given(streaks=streaks)
def test_blocks_are_read_as_tensorboard_reads_them(streaks, tmp_path_factory):
    """Steps of any size, over restarts, with other events between."""
    folder = tmp_path_factory.mktemp("run")
    write_file(folder, events_of(streaks))
    series, *_ = contents(folder, 1)
    assert series == {tag: points for tag, points in tensorboard_scalars(folder).items() if points.steps}


@given(data=st.data(), streaks=streaks)
def test_damage_in_a_block_is_that_of_a_single_record(data, streaks, tmp_path_factory):
    """With a bit changed anywhere, and the end cut anywhere: its place, and all points before it."""
    path = write_file(tmp_path_factory.mktemp("run"), events_of(streaks))
    whole = bytearray(path.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    assert contents(path, 1) == contents(path, 10**9)


@pytest.mark.parametrize("place", [13, 14, 21, 22, -5, -8, -1, 0, 9])
def test_each_byte_of_a_block_is_checked(place, tmp_path):
    """Time, step, value, checksum and header; the last ones are in the middle of a block."""
    records = [frame(event(step, shapes.plain("a", step)).SerializeToString()) for step in range(1, 11)]
    changed = bytearray(records[6])
    changed[place] ^= 1
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(b"".join([*records[:6], bytes(changed), *records[7:]]))
    series, _, damage, _ = contents(path, 1)
    assert series["a"].steps == [1, 2, 3, 4, 5, 6]
    assert f"record 6 at byte {sum(map(len, records[:6]))} has a damaged" in damage[0]


@given(
    tags=st.lists(st.text("abö/", min_size=1, max_size=9), min_size=1, max_size=5, unique=True),
    seed=st.integers(0),
)
def test_checksums_are_those_of_each_payload(tags, seed):
    """Of any step, time and values."""
    payload = event(300, *(shapes.plain(tag, 1.0) for tag in tags)).SerializeToString()
    layout = EventLayout(tuple(tags), payload, Splitter().split(payload))
    rows = np.tile(np.frombuffer(payload, np.uint8), (50, 1))
    varies = layout.fixed != 0xFF
    rows[:, varies] = np.random.default_rng(seed % 2**32).integers(0, 256, (50, int(varies.sum())), np.uint8)
    expected = [masked_crc32c(row.tobytes()) for row in rows]
    assert blocks._Checksums(layout)(rows).tolist() == expected


@pytest.mark.parametrize("count", [1, 2])
def test_the_columns_of_a_block_keep_none_of_its_bytes(count):
    """Else each block that ends early would keep as much as one read of the file."""
    payload = event(300, shapes.plain("a", 1.0)).SerializeToString()
    layout = EventLayout(("a",), payload, Splitter().split(payload))
    rows = np.tile(np.frombuffer(payload, np.uint8), (count, 1))
    columns = layout.decode_rows(rows, np.arange(count))
    assert not any(
        np.shares_memory(rows, part) for part in (columns.steps, columns.wall_times, columns.values)
    )


@given(tag=st.text("ab", min_size=1, max_size=20))
def test_a_changed_bit_is_another_pattern_if_it_does_not_vary(tag):
    """Each bit of the header and of the payload, for sizes that are no multiple of a word as well."""
    payload = event(300, shapes.plain(tag, 1.0)).SerializeToString()
    layout = EventLayout((tag,), payload, Splitter().split(payload))
    record = np.frombuffer(frame(payload), np.uint8)
    bits = np.unpackbits(record[:-4], bitorder="little")
    flipped = np.packbits(bits ^ np.eye(len(bits), dtype=np.uint8), axis=1, bitorder="little")
    rows = np.concatenate([flipped, np.tile(record[-4:], (len(bits), 1))], axis=1)
    fixed = np.concatenate([np.full(12, 0xFF, np.uint8), layout.fixed])
    assert (blocks._Pattern(layout)(rows) == (np.unpackbits(fixed, bitorder="little") == 0)).all()


def test_a_long_run_of_one_tag_is_parsed_by_no_record(tmp_path, monkeypatch):
    """But for the first of each size of a step; a refresh reads on behind a block."""
    payloads = []

    def counted(path, **place):
        for payload in read_payloads(path, **place):
            payloads.append(payload)
            yield payload

    read_payloads = reader.read_payloads
    monkeypatch.setattr(reader, "read_payloads", counted)
    path = write_file(tmp_path, [VERSION, *(event(step, shapes.plain("a", step)) for step in range(20_000))])
    run = sowlog.read(tmp_path)
    assert len(payloads) < 4 * 1100
    assert run.scalars["a"].values.tolist() == list(range(20_000))
    with path.open("ab") as file:
        file.write(frame(event(20_000, shapes.plain("a", 20_000)).SerializeToString()))
    assert run.refresh()
    assert run.scalars["a"].steps.tolist() == list(range(20_001))
