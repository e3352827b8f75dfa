import errno
import os

import pytest

from sowlog.writers import _spool
from sowlog.writers._spool import Spool


def contents(*numbers, size=100):
    """Return the bytes of some records."""
    return [bytes([number]) * size for number in numbers]


def pending(spool):
    """Return the numbers of the records in a spool."""
    return [content[0] for content in spool.peek(most=10**9, size=2**40)]


def test_records_come_in_order_and_are_dropped_once_they_are_forwarded(tmp_path):
    """A file without pending records is as short as a new one, and closing removes it."""
    spool = Spool(tmp_path / "a.spool")
    spool.append(contents(1, 2, 3))
    spool.append(contents(4))
    assert (spool.count, pending(spool)) == (4, [1, 2, 3, 4])
    spool.drop(spool.peek(most=3, size=10**6))
    assert (spool.count, pending(spool)) == (1, [4])
    spool.drop(spool.peek(most=3, size=10**6))
    assert (spool.count, spool.size, pending(spool)) == (0, 0, [])
    assert spool.path.stat().st_size < 100
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_batch_is_bounded_by_number_and_bytes(tmp_path):
    """A record that is larger than the bound comes alone."""
    spool = Spool(tmp_path / "a.spool")
    spool.append([*contents(1, 2), *contents(3, size=10_000), *contents(4)])
    assert len(spool.peek(most=1, size=10**6)) == 1
    assert len(spool.peek(most=9, size=1000)) == 2
    spool.drop(spool.peek(most=2, size=10**6))
    assert [content[0] for content in spool.peek(most=9, size=1000)] == [3]
    spool.close()


def test_pending_records_are_there_when_the_file_is_opened_again(tmp_path):
    """Those that were dropped are not."""
    spool = Spool(tmp_path / "a.spool")
    spool.append(contents(1, 2, 3))
    spool.drop(spool.peek(most=1, size=10**6))
    spool.close()
    again = Spool(tmp_path / "a.spool")
    assert (again.count, pending(again), again.damage) == (2, [2, 3], "")
    again.append(contents(4))
    assert pending(again) == [2, 3, 4]
    again.close()


def killed(path):
    """Leave a spool as a kill does."""
    spool = Spool(path)
    spool.append(contents(1, 2, 3))
    spool._file.release()


@pytest.mark.parametrize("cut", [1, 4, 50, 104, 110, 115])
def test_a_cut_record_is_dropped_without_a_word(tmp_path, cut):
    """Its write never returned."""
    killed(tmp_path / "a.spool")
    os.truncate(tmp_path / "a.spool", (tmp_path / "a.spool").stat().st_size - cut)
    spool = Spool(tmp_path / "a.spool")
    assert (pending(spool), spool.damage) == ([1, 2], "")
    spool.append(contents(4))
    assert pending(spool) == [1, 2, 4]
    spool.close()


@pytest.mark.parametrize("size", range(20))
def test_a_kill_in_the_first_moment_leaves_a_new_spool(tmp_path, size):
    """A cut head is written again."""
    Spool(tmp_path / "a.spool")._file.release()
    os.truncate(tmp_path / "a.spool", size)
    spool = Spool(tmp_path / "a.spool")
    assert (spool.count, spool.damage) == (0, "")
    spool.close()


def test_a_kill_between_the_last_drop_and_its_end(tmp_path):
    """The file is already short, and its head not yet written: nothing is pending, and nothing is skipped."""
    spool = Spool(tmp_path / "a.spool")
    spool.append(contents(1, 2, 3))
    spool._file.overwrite(0, _spool._head(spool._file.end))
    spool._file.shorten(_spool._HEAD.size)
    spool._file.release()
    again = Spool(tmp_path / "a.spool")
    assert (again.count, again.damage) == (0, "")
    again.append(contents(4))
    assert pending(again) == [4]
    again.close()


@pytest.mark.parametrize("call", ["ftruncate", "pwrite"])
def test_an_error_while_the_file_is_emptied_costs_no_later_record(call, tmp_path, monkeypatch):
    """The next append empties it, or fails; a kill after that leaves the new records, and no old one."""
    spool = Spool(tmp_path / "a.spool")
    spool.append(contents(1, 2))
    works, calls = getattr(os, call), iter([True, False, False] if call == "pwrite" else [False, False])

    def fails(*arguments):
        if not next(calls, True):
            raise OSError(errno.EIO, "Input/output error")
        return works(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(OSError, match="Input/output error"):
            spool.drop(spool.peek(most=2, size=10**6))
        assert (spool.count, spool.size, pending(spool)) == (0, 0, [])
        with pytest.raises(OSError, match="Input/output error"):
            spool.append(contents(3))
        spool.append(contents(3, 4, 5))
    assert (spool.count, pending(spool)) == (3, [3, 4, 5])
    spool.release()
    again = Spool(tmp_path / "a.spool")
    assert (again.damage, pending(again)) == ("", [3, 4, 5])
    again.close()


def test_damaged_records_are_kept_beside_the_spool(tmp_path):
    """Those before are pending, and the description names the file with the others."""
    killed(tmp_path / "a.spool")
    whole = (tmp_path / "a.spool").read_bytes()
    place = whole.index(bytes([2]) * 100)
    (tmp_path / "a.spool").write_bytes(whole[: place + 50] + b"?" + whole[place + 51 :])
    spool = Spool(tmp_path / "a.spool")
    assert pending(spool) == [1]
    assert "is damaged at byte 136: the records from there on are not forwarded" in spool.damage
    assert bytes([3]) * 100 in (tmp_path / "a.spool.damaged").read_bytes()
    spool.close()


def test_a_damaged_head_costs_no_record(tmp_path):
    """All records of the file are pending again, and the description says so."""
    killed(tmp_path / "a.spool")
    whole = (tmp_path / "a.spool").read_bytes()
    (tmp_path / "a.spool").write_bytes(whole[:8] + b"?" + whole[9:])
    spool = Spool(tmp_path / "a.spool")
    assert pending(spool) == [1, 2, 3]
    assert "may be forwarded once more" in spool.damage
    spool.close()


def test_a_backlog_that_never_ends_does_not_grow_the_file(tmp_path, monkeypatch):
    """Forwarded records leave the file, although some are always pending."""
    monkeypatch.setattr(_spool, "_MIN_COMPACTION", 1000)
    spool = Spool(tmp_path / "a.spool")
    spool.append(contents(0, 0))
    sizes = []
    for number in range(1, 200):
        spool.append(contents(number))
        spool.drop(spool.peek(most=1, size=10**6))
        sizes.append(spool.path.stat().st_size)
    assert max(sizes) < 2000
    assert pending(spool) == [198, 199]
    spool.sync()
    spool.close()
    again = Spool(tmp_path / "a.spool")
    assert pending(again) == [198, 199]
    again.drop(again.peek(most=2, size=10**6))
    again.close()
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_another_program_is_not_touched(tmp_path):
    """A path that was mistaken costs nothing."""
    (tmp_path / "a.spool").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is a file of another program, and no spool"):
        Spool(tmp_path / "a.spool")
    assert (tmp_path / "a.spool").read_bytes() == b"mine"


def test_a_spool_has_one_writer_at_a_time(tmp_path):
    """Two runs with one spool would forward each other's records."""
    spool = Spool(tmp_path / "a.spool")
    with pytest.raises(BlockingIOError, match="a spool belongs to one writer of one run"):
        Spool(tmp_path / "a.spool")
    spool.close()
