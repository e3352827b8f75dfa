import errno
import itertools
import os
import secrets
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.record_writer import RecordWriter, masked_crc32c

from sowlog._events import framing
from sowlog._events.file import create_event_file, unique_name
from sowlog._events.framing import CorruptEventFile, frame, read_payloads
from tests.support.full_disk import file_size_limit


@given(payload=st.binary(max_size=300))
def test_a_frame_is_what_tensorboardx_writes(payload, tmp_path_factory):
    """The bytes are those of tensorboardX's own record writer."""
    path = tmp_path_factory.mktemp("frame") / "file"
    writer = RecordWriter(str(path))
    writer.write(payload)
    writer.close()
    assert frame(payload) == path.read_bytes()
    assert framing.masked_crc32c(payload) == masked_crc32c(payload)


@given(payloads=st.lists(st.binary(max_size=40), max_size=8))
def test_what_was_framed_is_read_back(payloads, tmp_path_factory):
    """Every payload is read in order, including an empty one."""
    path = tmp_path_factory.mktemp("frame") / "file"
    path.write_bytes(b"".join(map(frame, payloads)))
    assert list(read_payloads(path)) == payloads


def damaged(tmp_path: Path, bytes_: bytes) -> CorruptEventFile:
    """Return the error of reading two whole records followed by these bytes."""
    path = tmp_path / "events.out.tfevents.1.h"
    path.write_bytes(frame(b"one") + frame(b"two") + bytes_)
    read = []
    with pytest.raises(CorruptEventFile, match=r"record 2 at byte 38") as caught:
        read.extend(read_payloads(path))
    assert (caught.value.path, caught.value.offset, caught.value.record) == (path, 38, 2)
    return caught.value


@pytest.mark.parametrize("kept", range(1, 19))
def test_a_record_cut_anywhere_is_reported_as_cut(tmp_path, kept):
    """For any missing part of the last record, the error has its position and says that it is cut short."""
    assert "is cut short" in str(damaged(tmp_path, frame(b"end")[:kept]))


@pytest.mark.parametrize("bit", range(19 * 8))
def test_every_flipped_bit_is_found(tmp_path, bit):
    """The flip of any single bit of a record is an error."""
    record = bytearray(frame(b"end"))
    record[bit // 8] ^= 1 << bit % 8
    assert "damaged" in str(damaged(tmp_path, bytes(record)))


def test_a_tail_of_zeros_is_damage(tmp_path):
    """Zeros, as after a crash of the file system, are not empty records."""
    assert "damaged length" in str(damaged(tmp_path, bytes(64)))


def test_an_absurd_length_takes_no_memory(tmp_path):
    """A length of 2^62 with a valid checksum is compared with the file, not allocated."""
    length = struct.pack("<Q", 1 << 62)
    header = length + struct.pack("<I", framing.masked_crc32c(length))
    assert "is cut short" in str(damaged(tmp_path, header + b"x" * 30))


def test_payloads_before_the_damage_are_yielded(tmp_path):
    """Whole records are read before the error is raised."""
    path = tmp_path / "file"
    path.write_bytes(frame(b"one") + b"\0")
    payloads = read_payloads(path)
    assert next(payloads) == b"one"
    with pytest.raises(CorruptEventFile, match="record 1 at byte 19"):
        next(payloads)


def test_a_new_file_sorts_after_all_others_when_the_clock_went_back(tmp_path):
    """Readers take files by name, so the name of a later writer sorts later for any clock."""
    names = [
        create_event_file(tmp_path, b"", clock=lambda now=now: now).path.name
        for now in (2e9, 1e9, 1e9, 2e9, 3e9)
    ]
    assert names == sorted(names)
    assert len(set(names)) == 5


def test_two_that_name_a_file_at_once_choose_differently(tmp_path):
    """Two processes may list the folder before either creates its file."""
    assert len({unique_name(tmp_path, 1e9) for _ in range(10)}) == 10


def test_a_foreign_file_with_a_later_stamp_is_outsorted(tmp_path):
    """Files of other programs are respected as well."""
    (tmp_path / "events.out.tfevents.1999999999.host.v2").touch()
    (tmp_path / "notes.txt").touch()
    assert create_event_file(tmp_path, b"", clock=lambda: 1e9).path.name.startswith(
        "events.out.tfevents.2000000000."
    )


def test_a_record_that_does_not_fit_leaves_nothing_behind(tmp_path):
    """On a full disk the torn record is truncated, and writing continues once the disk has space."""
    file = create_event_file(tmp_path, frame(b"first"))
    with file_size_limit(50), pytest.raises(OSError, match="File too large"):
        file.append(frame(b"x" * 100))
    assert file.path.read_bytes() == frame(b"first")
    file.append(frame(b"second"))
    file.close()
    assert list(read_payloads(file.path)) == [b"first", b"second"]


def test_what_could_not_be_cut_off_at_once_is_cut_before_the_next_record(tmp_path, monkeypatch):
    """The disk may refuse the truncation; the next record is shorter than the torn one."""
    file = create_event_file(tmp_path, frame(b"first"))
    with monkeypatch.context() as refusing, file_size_limit(200):

        def refuse(fd, size):
            raise OSError(errno.EIO, "Input/output error")

        refusing.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError, match="File too large"):
            file.append(frame(b"x" * 1000))
    assert file.path.stat().st_size == 200
    file.append(frame(b"second"))
    file.close()
    assert list(read_payloads(file.path)) == [b"first", b"second"]


def test_records_go_to_the_system_in_one_write(tmp_path, monkeypatch):
    """A kill between two writes of a record would tear more records."""
    file = create_event_file(tmp_path, frame(b"first"))
    sizes = []
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: sizes.append(len(data)) or write(fd, data, at))
    file.append(frame(b"second") + frame(b"third"))
    assert sizes == [len(frame(b"second") + frame(b"third"))]
    file.close()


def test_a_file_that_is_there_is_never_opened(tmp_path, monkeypatch):
    """If two writers choose one name, the second raises and the first keeps its data."""
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 2 * size)
    monkeypatch.setattr("sowlog._events.file._counter", itertools.repeat(0))
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(()))
    first = create_event_file(tmp_path, frame(b"first"), clock=lambda: 1e9)
    with pytest.raises(FileExistsError, match="tfevents"):
        create_event_file(tmp_path, frame(b"second"), clock=lambda: 1e9)
    assert list(read_payloads(first.path)) == [b"first"]
    first.close()


def test_a_file_that_cannot_begin_leaves_no_descriptor(tmp_path):
    """No file is left either, since a writer may try again at each step."""
    opened = len(list(Path("/dev/fd").iterdir()))
    with file_size_limit(10), pytest.raises(OSError, match="File too large"):
        create_event_file(tmp_path, frame(b"first"))
    assert len(list(Path("/dev/fd").iterdir())) == opened
    assert list(tmp_path.iterdir()) == []


def test_headers_that_never_come_back_take_no_memory(tmp_path, monkeypatch):
    """The cache of headers is bounded."""
    monkeypatch.setattr(framing, "_KNOWN_HEADERS", 4)
    path = tmp_path / "file"
    path.write_bytes(b"".join(frame(bytes(size)) for size in range(20)))
    known = {}
    with path.open("rb") as file:
        for _ in range(20):
            framing._read_payload(file, 10_000, known)
    assert len(known) == 4


def test_a_folder_without_event_files_is_named(tmp_path):
    """The error has the folder and the expected content."""
    with pytest.raises(FileNotFoundError, match="holds no event file"):
        framing.event_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        framing.event_files(tmp_path / "nowhere")
