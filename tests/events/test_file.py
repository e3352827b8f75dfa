"""The lock and the syncs of an event file; its records and names are in test_framing."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sowlog
from sowlog._events.file import create_event_file, is_open, locked_folder
from sowlog._events.framing import frame, read_payloads


def path_of(fd):
    """Return the path of an open file."""
    return str(Path(f"/proc/self/fd/{fd}").readlink())


@pytest.fixture
def failing_sync(monkeypatch):
    """Return the numbers of the fsyncs of event files that fail, as Linux reports a failed write-back.

    Linux reports it once, and drops the unwritten pages, here their last 8 bytes.
    """
    numbers, seen, sync = set(), [], os.fsync

    def fail_or_sync(fd):
        path = path_of(fd)
        if "tfevents" not in path:
            return sync(fd)
        seen.append(path)
        if len(seen) not in numbers:
            return sync(fd)
        os.pwrite(fd, bytes(8), os.fstat(fd).st_size - 8)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail_or_sync)
    return numbers


def test_the_bytes_of_a_failed_sync_are_written_again(tmp_path, failing_sync):
    """The next sync writes the unsynced bytes again, and the sync after it writes nothing again."""
    failing_sync |= {2}
    file = create_event_file(tmp_path, frame(b"first"))
    file.sync()
    file.append(frame(b"second"))
    with pytest.raises(OSError, match="Input/output error, so 22 bytes are kept for the next flush"):
        file.sync()
    with pytest.raises(ValueError, match="record 1 at byte 21 has a damaged payload"):
        list(read_payloads(file.path))
    file.append(frame(b"third"))
    file.sync()
    assert list(read_payloads(file.path)) == [b"first", b"second", b"third"]
    assert not file._unsynced
    file.close()
    assert list(read_payloads(file.path)) == [b"first", b"second", b"third"]


def test_close_repeats_a_failed_sync(tmp_path, failing_sync):
    """No later call would write them; if the second sync fails as well, close raises."""
    failing_sync |= {1, 3, 4}
    file = create_event_file(tmp_path, frame(b"first"))
    file.close()
    assert list(read_payloads(file.path)) == [b"first"]
    file = create_event_file(tmp_path, frame(b"second"))
    opened = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(OSError, match="Input/output error"):
        file.close()
    assert len(list(Path("/dev/fd").iterdir())) == opened - 1


def test_flush_raises_while_bytes_are_unsynced(tmp_path, failing_sync):
    """The flush of the logger raises once for each failure, and is a barrier when it returns."""
    failing_sync |= {1, 2}
    with sowlog.Logger(tmp_path) as log:
        log(0, {"x": 1.0})
        for _ in range(2):
            with pytest.raises(sowlog.WriterError, match=r"flush\(\) failed: .*are kept for the next flush"):
                log.flush()
            assert sowlog.read(tmp_path).damage
        log.flush()
        assert not sowlog.read(tmp_path).damage
    assert sowlog.read(tmp_path).scalars["x"].steps.tolist() == [0]


def test_the_bytes_kept_for_a_failed_sync_are_bounded(tmp_path, monkeypatch):
    """Beyond the bound the file is synced before the next record; if that fails, nothing is appended."""
    monkeypatch.setattr("sowlog._events.appending._UNSYNCED", 100)
    file = create_event_file(tmp_path, frame(b"first"))
    for _ in range(20):
        file.append(frame(b"x" * 30))
        assert len(file._unsynced) <= 100 + 46
    file.sync()
    file.append(frame(b"y" * 200))

    def refuse(fd):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as refusing:
        refusing.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            file.append(frame(b"refused"))
    file.append(frame(b"last"))
    file.close()
    assert [payload[:1] for payload in read_payloads(file.path)] == [b"f", *[b"x"] * 20, b"y", b"l"]


def test_new_folders_are_synced_with_their_names(tmp_path, monkeypatch):
    """A synced file is lost with the name of its folder."""
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(path_of(fd)) or sync(fd))
    with locked_folder(tmp_path / "a" / "b"):
        assert set(synced) == {str(tmp_path), str(tmp_path / "a")}


def test_an_open_file_is_known_by_its_lock(tmp_path):
    """The lock lasts while the file is open, in this process too; a FIFO or a folder is not open."""
    file = create_event_file(tmp_path, frame(b"first"))
    assert is_open(file.path)
    file.close()
    assert not is_open(file.path)
    os.mkfifo(tmp_path / "fifo")
    assert not is_open(tmp_path / "fifo")
    assert not is_open(tmp_path)


def test_a_folder_that_another_program_locks_is_written_all_the_same(tmp_path, monkeypatch):
    """The wait for the lock ends."""
    monkeypatch.setattr("sowlog._events.file._LOCK_TIMEOUT", 0.05)
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    begin = time.monotonic()
    with locked_folder(tmp_path):
        assert time.monotonic() - begin >= 0.05
    os.close(fd)
    with locked_folder(tmp_path):
        pass


OTHER_PROCESS = """
import os, sys, time, sowlog
log = sowlog.Logger(sys.argv[1], resume_from=5)
for step in range(5, 8):
    log(step, {"other": 2.0})
log.flush()
if os.fork() == 0:  # as a data loader's worker, which may live on for a while
    os.close(1)
    time.sleep(60)
print(os.getpid(), flush=True)
sys.stdin.read()
os.kill(os.getpid(), 9)
"""


def log_steps(folder, first, last, tag="x", **options):
    """Log steps in a new logger."""
    with sowlog.Logger(folder, **options) as log:
        for step in range(first, last):
            log(step, {tag: float(step)})


def read_steps(folder):
    """Return the steps that `sowlog.read` shows, by tag."""
    return {tag: series.steps.tolist() for tag, series in sowlog.read(folder).scalars.items()}


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_resumed_logger_spares_another_process_until_that_ends(tmp_path):
    """A killed process writes no more, even if its children live on."""
    log_steps(tmp_path, 0, 10)
    command = [sys.executable, "-W", "ignore", "-c", OTHER_PROCESS, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as other:
        try:
            assert int(other.stdout.readline()) == other.pid
            log_steps(tmp_path, 5, 8, resume_from=5)
            assert read_steps(tmp_path) == {"other": [5, 6, 7], "x": list(range(8))}
            other.stdin.close()
            assert other.wait(30) == -9
            with pytest.warns(
                sowlog.LossWarning, match="points of other in .*, from step 6 to step 7, are hidden"
            ):
                log_steps(tmp_path, 6, 9, resume_from=6)
            assert read_steps(tmp_path) == {"other": [5], "x": list(range(9))}
        finally:
            os.killpg(other.pid, 9)


def test_a_failed_sync_writes_only_the_bytes_since_the_last_one(tmp_path, failing_sync):
    """The memory is that of a longer stretch before."""
    failing_sync |= {2}
    file = create_event_file(tmp_path, frame(b"first"))
    file.append(frame(b"long" * 100))
    file.sync()
    file.append(frame(b"short"))
    with pytest.raises(OSError, match="so 21 bytes are kept"):
        file.sync()
    file.sync()
    file.append(frame(b"last"))
    file.close()
    assert list(read_payloads(file.path)) == [b"first", b"long" * 100, b"short", b"last"]
