import contextlib
import os
import signal
import subprocess
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import sowlog
from sowlog.testing import MemoryWriter
from sowlog.writers import DeliveryError, Record, Spooled, StalledError, TensorBoard
from sowlog.writers._warnings import LossWarning
from tests.support.full_disk import file_size_limit
from tests.support.odd_writers import AtOnceWriter, FailingWriter, GatedWriter, ServerWriter, StallingWriter
from tests.support.record_server import RecordServer
from tests.support.strict_python import STRICT_PYTHON

# A flush or a close that waits for ever is a failure.
pytestmark = pytest.mark.timeout(60)

WAIT = 20.0
"""Seconds for a wait that ends long before; a failure otherwise."""


def record(step, count=1):
    """Return a record of a step."""
    return Record(step, 1.5 + step, tuple(f"tag{i}" for i in range(count)), np.full(count, step, np.float32))


def steps(memory):
    """Return the steps of the records in memory."""
    return [each.step for each in memory.records]


@contextlib.contextmanager
def quiet():
    """Ignore the warnings of losses, which other tests look at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LossWarning)
        yield


def test_a_slow_writer_delays_neither_the_others_nor_the_log(tmp_path):
    """All steps are with the other writer while the slow one holds its first."""
    slow, memory = GatedWriter(), MemoryWriter()
    log = sowlog.Logger(
        tmp_path, writers=[Spooled(slow, tmp_path / "a.spool", timeout=0.05), memory], queue_size=4
    )
    for step in range(100):
        log(step, {"loss": 1.0})
    log.flush()
    assert steps(memory) == list(range(100))
    assert steps(slow) == []
    slow.open.set()
    log.close()
    assert steps(slow) == list(range(100))
    assert slow.closed
    assert list(tmp_path.iterdir()) == []


def test_records_reach_the_writer_with_all_their_values(tmp_path):
    """Tags, values and times, and in batches if it takes them."""
    writer = AtOnceWriter()
    spooled = Spooled(writer, tmp_path / "a.spool", timeout=WAIT)
    spooled.write_all([record(step, 3) for step in range(100)])
    spooled.flush()
    assert [(each.step, each.wall_time, each.tags) for each in writer.records] == [
        (step, 1.5 + step, ("tag0", "tag1", "tag2")) for step in range(100)
    ]
    assert max(writer.sizes) > 1
    spooled.close()


def test_flush_is_a_barrier(tmp_path):
    """On return all records are with the writer, which is flushed on the thread that writes."""
    threads = set()

    class Watching(MemoryWriter):
        flushed = 0

        def write(self, record):
            threads.add(threading.current_thread())
            super().write(record)

        def flush(self):
            threads.add(threading.current_thread())
            self.flushed = len(self.records)

        def close(self):
            threads.add(threading.current_thread())
            super().close()

    writer = Watching()
    spooled = Spooled(writer, tmp_path / "a.spool", timeout=WAIT)
    for step in range(50):
        spooled.write(record(step))
        if step % 10 == 9:
            spooled.flush()
            assert steps(writer) == list(range(step + 1))
            assert writer.flushed == step + 1
    spooled.close()
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_flush_returns_after_the_timeout_and_the_records_are_in_the_file(tmp_path):
    """A writer that hangs does not hang the training; its records are durable."""
    slow = GatedWriter()
    spooled = Spooled(slow, tmp_path / "a.spool", timeout=0.05, close_timeout=0.05)
    spooled.write_all([record(0), record(1)])
    spooled.flush()
    with pytest.raises(
        DeliveryError, match=r"2 records have not reached GatedWriter yet \(0\.05 s passed\)"
    ) as caught:
        spooled.close()
    assert (caught.value.lost, caught.value.late) == (0, 2)
    with pytest.raises(BlockingIOError, match="is open in another writer"):
        Spooled(MemoryWriter(), tmp_path / "a.spool")
    # Its thread goes on once the writer returns, forwards the records, and frees the file.
    slow.open.set()
    spooled._forwarder._thread.join(WAIT)
    assert steps(slow) == [0, 1]
    assert slow.closed
    assert list(tmp_path.iterdir()) == []


def test_a_close_that_hangs_is_an_error_after_its_timeout(tmp_path):
    """All records are there, and whether their run has ended is unknown."""
    released = threading.Event()

    class HangingWriter(MemoryWriter):
        def close(self):
            released.wait(WAIT)

    writer = HangingWriter()
    spooled = Spooled(writer, tmp_path / "a.spool", close_timeout=0.05)
    spooled.write(record(0))
    spooled.flush()
    with pytest.raises(DeliveryError, match="HangingWriter has all records, and its close has not") as caught:
        spooled.close()
    assert (caught.value.lost, caught.value.late) == (0, 0)
    assert steps(writer) == [0]
    released.set()
    spooled._forwarder._thread.join(WAIT)
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_file_is_an_error_of_flush(tmp_path):
    """Its records are forwarded nevertheless, as long as this process lives."""
    slow = GatedWriter()
    spooled = Spooled(slow, tmp_path / "a.spool", timeout=0.01)
    spooled.write_all([record(0), record(1)])
    (tmp_path / "a.spool").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.spool was deleted during the run: this process still"):
        spooled.flush()
    slow.open.set()
    spooled.close()
    assert steps(slow) == [0, 1]


def test_a_stall_warns_once_and_costs_no_record(tmp_path):
    """The records are forwarded in order when the writer works again, by the next attempt."""
    writer = StallingWriter()
    spooled = Spooled(writer, tmp_path / "a.spool", timeout=WAIT)
    log = sowlog.Logger(tmp_path, writers=[spooled])
    log(0, {"x": 0.0})
    log.flush()
    writer.stalled = True
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        for step in range(1, 20):
            log(step, {"x": 0.0})
            log.flush()
    (warning,) = issued
    assert "StallingWriter stalls: the disk is full. Training continues: the records wait in" in str(
        warning.message
    )
    assert writer.steps == [0]
    writer.stalled = False
    log.flush()
    assert writer.steps == list(range(20))
    log.close()


def test_a_stalled_writer_is_tried_again_by_itself(tmp_path, monkeypatch):
    """Without a flush and without a new record."""
    monkeypatch.setattr("sowlog.writers._forwarding._FIRST_RETRY", 0.01)
    recovered = threading.Event()

    class Recovering(MemoryWriter):
        tries = 0

        def write(self, record):
            self.tries += 1
            if self.tries < 4:
                raise StalledError("the server starts")
            super().write(record)
            recovered.set()

    writer = Recovering()
    spooled = Spooled(writer, tmp_path / "a.spool", timeout=WAIT)
    spooled.write(record(0))
    assert recovered.wait(WAIT)
    spooled.close()
    assert steps(writer) == [0]


def test_attempts_become_rarer(tmp_path):
    """Twenty records of an outage cost one attempt, and not twenty."""
    writer = StallingWriter()
    writer.stalled = True
    spooled = Spooled(writer, tmp_path / "a.spool", timeout=WAIT)
    spooled.write(record(0))
    spooled.flush()
    tried = writer.tries
    for step in range(1, 20):
        spooled.write(record(step))
    assert writer.tries <= tried + 1
    writer.stalled = False
    spooled.close()
    assert writer.steps == list(range(20))


def test_late_records_are_an_error_of_close_and_are_forwarded_by_the_next_run(tmp_path):
    """The number is an attribute of the logger's error; no record is lost."""
    writer = StallingWriter()
    writer.stalled = True
    log = sowlog.Logger(tmp_path, writers=[Spooled(writer, tmp_path / "a.spool", timeout=WAIT)])
    for step in range(5):
        log(step, {"x": float(step)})
    with (
        quiet(),
        pytest.raises(sowlog.WriterError, match="5 records have not reached StallingWriter") as caught,
    ):
        log.close()
    assert (caught.value.lost, caught.value.late) == (0, 5)
    assert writer.closed
    memory = MemoryWriter()
    with sowlog.Logger(tmp_path, writers=[Spooled(memory, tmp_path / "a.spool", timeout=WAIT)]) as log:
        log(5, {"x": 5.0})
    assert steps(memory) == list(range(6))
    assert [each.values.tolist() for each in memory.records] == [[float(step)] for step in range(6)]


def test_refused_records_are_counted_and_the_others_arrive(tmp_path):
    """One warning where a series begins, and the number at flush, once; a batch is written one by one."""
    writer = AtOnceWriter()
    writer.failing = {2, 3}
    spooled = Spooled(writer, tmp_path / "a.spool", timeout=WAIT)
    spooled.write_all([record(step) for step in range(6)])
    with pytest.raises(
        DeliveryError, match=r"refused 2 of the records, at steps 2 to 3\..*cannot write 2"
    ) as caught:
        spooled.flush()
    assert (caught.value.lost, caught.value.late) == (2, 0)
    assert "AtOnceWriter has refused the record of step 2: OSError" in str(spooled.take_warning())
    assert spooled.take_warning() is None
    spooled.flush()
    assert writer.steps == [0, 1, 4, 5]
    spooled.close()


def test_the_logger_counts_refused_records(tmp_path):
    """As those of a writer without a spool."""
    log = sowlog.Logger(tmp_path, writers=[Spooled(FailingWriter(1), tmp_path / "a.spool", timeout=WAIT)])
    for step in range(3):
        log(step, {"x": 0.0})
    with quiet(), pytest.raises(sowlog.WriterError, match="refused 1 of the records") as caught:
        log.flush()
    assert caught.value.lost == 1
    with quiet():
        log.close()


def test_the_error_of_a_flush_and_of_a_close_is_raised(tmp_path):
    """The other writer's own."""
    spooled = Spooled(FailingWriter(flush_fails=True), tmp_path / "a.spool", timeout=WAIT)
    with pytest.raises(OSError, match="cannot sync"):
        spooled.flush()
    with pytest.raises(OSError, match="cannot sync"):
        spooled.close()
    assert list(tmp_path.iterdir()) == []


def test_a_warning_of_the_writer_is_handed_on(tmp_path):
    """It is issued where the training logs."""

    class OddWriter(MemoryWriter):
        warning = None

        def write(self, record):
            super().write(record)
            self.warning = RuntimeWarning(f"odd step {record.step}")

        def take_warning(self):
            warning, self.warning = self.warning, None
            return warning

    spooled = Spooled(OddWriter(), tmp_path / "a.spool", timeout=WAIT)
    spooled.write(record(7))
    spooled.flush()
    assert str(spooled.take_warning()) == "odd step 7"
    spooled.close()


def test_a_writer_whose_warning_fails_gets_each_record_once(tmp_path):
    """The failure is a stall, and the next attempt goes on behind the record."""

    class OddWriter(MemoryWriter):
        def take_warning(self):
            if len(self.records) == 1:
                raise ValueError("no warning")

    writer = OddWriter()
    spooled = Spooled(writer, tmp_path / "a.spool", timeout=WAIT)
    spooled.write_all([record(0), record(1)])
    spooled.flush()
    spooled.close()
    assert steps(writer) == [0, 1]


def test_beyond_the_bound_new_records_are_lost_and_counted(tmp_path):
    """The file does not grow beyond it; hyperparameters are kept."""
    slow, tensorboard = GatedWriter(), TensorBoard(tmp_path)
    spooled = Spooled(slow, tmp_path / "a.spool", max_bytes=20_000, timeout=0.05)
    log = sowlog.Logger(tmp_path, writers=[spooled, tensorboard])
    with quiet():
        for step in range(100):
            with contextlib.suppress(sowlog.WriterError):
                log(step, {f"tag{i}": float(step) for i in range(20)})
        with contextlib.suppress(sowlog.WriterError):
            log.hparams({"lr": 0.5})
        full = "the spool .*a.spool is full, with 20000 bytes of records for GatedWriter, which is slower"
        with pytest.raises(sowlog.WriterError, match=full) as caught:
            log.flush()
        lost = caught.value.lost
        assert (tmp_path / "a.spool").stat().st_size < 21_000
        slow.open.set()
        log.close(ending=None)
    assert steps(slow)[:-1] == list(range(100 - lost))
    assert slow.records[-1].hparams.values == {"lr": 0.5}
    assert 0 < lost < 100
    assert len(sowlog.read(tmp_path).scalars["tag0"].steps) == 100


def test_a_full_disk_under_the_spool_is_a_stall(tmp_path):
    """The logger keeps the records, and appends them once there is space."""
    slow = GatedWriter()
    spooled = Spooled(slow, tmp_path / "a.spool", timeout=0.05)
    spooled.write(record(0))
    with (
        file_size_limit(100),
        pytest.raises(StalledError, match=r"a\.spool cannot be written: .*File too large"),
    ):
        spooled.write_all([record(1, 100), record(2, 100)])
    spooled.write_all([record(1, 100), record(2, 100)])
    slow.open.set()
    spooled.close()
    assert steps(slow) == [0, 1, 2]


def test_a_server_that_is_killed_and_started_again_has_each_record_once(tmp_path):
    """In order, whatever it was doing when it was killed."""
    server = RecordServer(tmp_path / "kept")
    spooled = Spooled(ServerWriter(server.port), tmp_path / "a.spool", timeout=WAIT)
    log = sowlog.Logger(tmp_path, writers=[spooled])
    with quiet():
        step = 0
        for _ in range(3):
            with server.running():
                for step in range(step, step + 40):  # noqa: B020 - goes on from the last
                    log(step, {"x": 1.0})
                step += 1
            for step in range(step, step + 10):  # noqa: B020
                log(step, {"x": 1.0})
            step += 1
        log.flush()
        assert len(server.steps) < step
        with server.running():
            log.flush()
            assert server.steps == list(range(step))
            log.close()
    assert not (tmp_path / "a.spool").exists()


KILLED = """
import os, signal, sys, warnings
import sowlog
from sowlog.writers import Spooled
from tests.support.odd_writers import ServerWriter

def log_and_die(first):
    warnings.simplefilter("ignore", sowlog.LossWarning)
    writer = ServerWriter(int(sys.argv[2]))
    log = sowlog.Logger("unused", writers=[Spooled(writer, sys.argv[1], timeout=0)])
    for step in range(first, first + 30):
        log(step, {"x": float(step)})
    log._background.call(int)  # All are in the spool, and none waits in the logger.
    os.kill(os.getpid(), signal.SIGKILL)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            log_and_die(int(line))
        finally:
            os._exit(1)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def test_a_killed_process_leaves_its_records_to_the_next_one(tmp_path):
    """Killed while a server answers and while none does: the server has each record once, in order."""
    server = RecordServer(tmp_path / "kept")
    command = [*STRICT_PYTHON, "-c", KILLED, str(tmp_path / "a.spool"), str(server.port)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, **pipes) as program:

        def kill(first):
            print(first, file=program.stdin, flush=True)
            assert program.stdout.readline() == f"{signal.SIGKILL.value}\n"

        kill(0)
        with server.running():
            kill(30)
        kill(60)
        with server.running():
            Spooled(ServerWriter(server.port), tmp_path / "a.spool", timeout=WAIT).close()
        program.stdin.close()
    assert server.steps == list(range(90))


def test_damage_is_a_warning(tmp_path):
    """The whole records before it are forwarded."""
    slow = GatedWriter()
    spooled = Spooled(slow, tmp_path / "a.spool", timeout=0.01)
    spooled.write_all([record(0), record(1), record(2)])
    content = (tmp_path / "a.spool").read_bytes()
    (tmp_path / "b.spool").write_bytes(content[:-10] + b"?" + content[-9:])
    slow.open.set()
    spooled.close()
    memory = MemoryWriter()
    again = Spooled(memory, tmp_path / "b.spool", timeout=WAIT)
    assert "is damaged at byte" in str(again.take_warning())
    again.close()
    assert steps(memory) == [0, 1]


def test_arguments_are_checked(tmp_path):
    """Before a file is made."""
    for arguments, error, message in (
        ({"max_bytes": 0}, ValueError, "max_bytes is 0; the file must hold 1 byte"),
        ({"timeout": -1}, ValueError, "timeout is -1; it must be 0 seconds or more"),
        ({"timeout": float("nan")}, ValueError, "timeout is nan"),
        ({"close_timeout": -1}, ValueError, "close_timeout is -1; it must be 0 seconds or more"),
        ({"timeout": "1"}, TypeError, "timeout is '1', a str"),
    ):
        with pytest.raises(error, match=message):
            Spooled(MemoryWriter(), tmp_path / "a.spool", **arguments)
    with pytest.raises(TypeError, match="3 is no writer"):
        Spooled(3, tmp_path / "a.spool")
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        Spooled(MemoryWriter(), tmp_path)
    assert list(tmp_path.iterdir()) == []
