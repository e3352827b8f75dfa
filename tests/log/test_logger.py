import gc
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sowlog._log.logger import Logger
from sowlog._log.nonfinite import NonfiniteWarning
from sowlog._log.sinks import WriterError
from sowlog._tree.packing import pack
from sowlog.testing import MemoryWriter, read_events
from sowlog.writers import Every
from sowlog.writers._warnings import LossWarning
from tests.support.odd_writers import FailingWriter, GatedWriter
from tests.support.tensorboard_reading import tensorboard_scalars
from tests.support.waiting import wait_until


@jax.jit
def step_metrics(x):
    """Return two scalars, packed."""
    return pack({"double": 2 * x, "half": x / 2})


@pytest.fixture
def memory():
    """Return a writer that keeps the records in memory."""
    return MemoryWriter()


@pytest.fixture
def log(tmp_path, memory):
    """Return a logger on the memory writer, closed after the test."""
    with Logger(tmp_path, writers=[memory]) as log:
        yield log


def test_packed_metrics_reach_tensorboard(tmp_path):
    """TensorBoard's reader finds each step once, with its own values."""
    with Logger(tmp_path) as log:
        for step in range(20):
            log(step, step_metrics(float(step)))
    series = tensorboard_scalars(tmp_path)
    assert {tag: each[:2] for tag, each in series.items()} == {
        "double": (list(range(20)), [2.0 * step for step in range(20)]),
        "half": (list(range(20)), [step / 2 for step in range(20)]),
    }


def test_the_wall_time_is_that_of_the_call(tmp_path):
    """The write may come much later."""
    gate = GatedWriter()
    with Logger(tmp_path, writers=[gate]) as log:
        before = time.time()
        log(0, {"x": 1.0})
        log(1, {"x": 1.0})
        after = time.time()
        time.sleep(0.05)
        gate.open.set()
    assert all(before <= record.wall_time <= after for record in gate.records)


def test_a_loop_runs_with_every_implicit_transfer_forbidden(log, memory):
    """Neither `log` nor the writer thread makes an implicit transfer."""
    xs = [jnp.float32(step) for step in range(5)]
    with jax.transfer_guard("disallow"):
        for step, x in enumerate(xs):
            log(step, step_metrics(x))
        log.flush()
    assert [record.values.tolist() for record in memory.records] == [[2.0 * s, s / 2] for s in range(5)]


def test_log_does_not_wait_for_the_device(log):
    """`log` returns while the device computes the step."""
    slow = jax.jit(lambda x: pack({"x": jax.lax.fori_loop(0, 100, lambda _, y: jnp.tanh(y @ y), x).sum()}))
    x = jnp.ones((500, 500))
    slow(x).buffer.block_until_ready()
    packed = slow(x)
    log(0, packed)
    assert not packed.buffer.is_ready()


def test_host_scalars_and_device_values_share_a_record(log, memory):
    """A nested dict of both is one record, with one tags tuple for all steps."""
    for step in range(3):
        log(step, {"lr": 0.5, "model": {"loss": jnp.float32(step)}})
    log.flush()
    assert [dict(zip(r.tags, r.values.tolist(), strict=True)) for r in memory.records] == [
        {"model/loss": float(step), "lr": 0.5} for step in range(3)
    ]
    assert all(record.tags is memory.records[0].tags for record in memory.records)


def test_records_cannot_be_changed(log, memory):
    """Writers share a record, so its arrays are read-only."""
    log(0, {"host": 1.0})
    log(1, step_metrics(1.0))
    log.flush()
    for record in memory.records:
        with pytest.raises(ValueError, match="read-only"):
            record.values[0] = 2.0


def test_a_host_value_beyond_float32_is_infinite(log, memory):
    """An event file's scalar is a float32; not another number, and a warning as of any infinity."""
    log(0, {"big": 1e300, "small": -1e300})
    with pytest.warns(NonfiniteWarning, match="at step 0 big became inf. Not finite as well: 1 further"):
        log.flush()
    assert memory.records[0].values.tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("step", [7, np.int32(7), np.uint8(7), np.int64(7)])
def test_python_and_numpy_integers_are_steps(log, memory, step):
    """The record holds a plain int."""
    log(step, {"x": 1.0})
    log.flush()
    assert type(memory.records[0].step) is int
    assert memory.records[0].step == 7


@pytest.mark.parametrize("step", [1.0, "1", None, True, np.float32(1), np.array([1])])
def test_anything_else_is_no_step(log, step):
    """The error has the value and the correct call."""
    with pytest.raises(TypeError, match=r"must be an integer: log\(step, metrics\)"):
        log(step, {"x": 1.0})


def test_a_step_on_the_device_is_refused(log):
    """Reading it would wait for the device; the error has the correct call."""
    with pytest.raises(TypeError, match=r"log\(int\(step\), metrics\)"):
        log(jnp.int32(3), {"x": 1.0})


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1, 2**70, pytest.param(10**5000, id="5001 digits")])
def test_a_step_beyond_int64_is_refused(log, step):
    """An event file cannot hold it."""
    with pytest.raises(ValueError, match="int64"):
        log(step, {"x": 1.0})


def test_a_traced_step_is_refused(log):
    """Inside of a transform the step has no value; the error names the place for `log`."""
    with pytest.raises(TypeError, match=r"the step is traced.*log\(step, packed\) where it is called\."):
        jax.jit(lambda step: log(step, {"x": 1.0}))(1)


def test_a_fetched_packed_tree_reaches_the_record(log, memory):
    """The buffer from jax.device_get is on the host already."""
    log(1, jax.device_get(step_metrics(3.0)))
    log.flush()
    assert memory.records[0].values.tolist() == [6.0, 1.5]


def test_flush_is_a_barrier(tmp_path):
    """All logged records are in the file when flush returns, every time."""
    with Logger(tmp_path) as log:
        for step in range(200):
            log(step, {"x": float(step)})
            log.flush()
            assert len(read_events(tmp_path)) == step + 1


def test_a_writers_error_reaches_the_next_call_once(tmp_path, memory):
    """It names writer, step and cause; training continues, and the other writer has every step."""
    failing = FailingWriter(3)
    log = Logger(tmp_path, writers=[failing, memory])
    log(3, {"x": 1.0})
    wait_until(lambda: bool(log._background._errors))
    with pytest.raises(WriterError, match=r"FailingWriter failed at step 3: OSError: no disk at 3") as caught:
        log(4, {"x": 1.0})
    assert isinstance(caught.value.__cause__, OSError)
    log(5, {"x": 1.0})
    with pytest.raises(WriterError, match=r"FailingWriter lost 1 record, at steps 3 to 3.*no disk at 3"):
        log.close()
    assert memory.records[-1].step == failing.steps[-1] == 5
    assert memory.closed


def test_a_writer_that_goes_on_failing_raises_once_and_counts(tmp_path):
    """A series of failures is one error at the next call, and a number at flush."""
    log = Logger(tmp_path, writers=[FailingWriter(*range(10))])
    raised = 0
    for step in range(10):
        try:
            log(step, {"x": 1.0})
        except WriterError:
            raised += 1
        time.sleep(0.002)
    assert raised == 1
    with pytest.raises(WriterError, match="lost 10 records, at steps 0 to 9"):
        log.flush()
    log(10, {"x": 1.0})
    log.flush()
    log.close()


def test_a_flush_that_fails_raises(tmp_path, memory):
    """The error has the cause, and the next writer is flushed nevertheless."""
    log = Logger(tmp_path, writers=[FailingWriter(flush_fails=True), memory])
    with pytest.raises(WriterError, match=r"FailingWriter\.flush\(\) failed: OSError: cannot sync"):
        log.flush()
    with pytest.raises(WriterError, match=r"FailingWriter\.close\(\) failed: OSError: cannot sync"):
        log.close()
    assert memory.closed


def test_a_buffer_donated_after_log_is_reported(tmp_path, memory):
    """A buffer donated to the next step is deleted; the next call names the lost step."""
    gate = GatedWriter()
    log = Logger(tmp_path, writers=[gate, memory])
    log(4, step_metrics(1.0))
    packed = step_metrics(1.0)
    log(5, packed)
    packed.buffer.delete()
    gate.open.set()
    with pytest.raises(WriterError, match=r"reading the device lost 1 record, at steps 5 to 5.*deleted"):
        log.flush()
    log(6, step_metrics(1.0))
    log.close()
    assert [record.step for record in memory.records] == [4, 6]


def test_log_after_close_is_an_error(tmp_path):
    """A closed logger has no writer for it."""
    log = Logger(tmp_path)
    log.close()
    log.close()
    with pytest.raises(RuntimeError, match="this Logger is closed"):
        log(0, {"x": 1.0})
    with pytest.raises(RuntimeError, match="this Logger is closed"):
        log.flush()


def log_and_raise(log):
    """Log a step, then raise."""
    log(0, {"x": 1.0})
    raise KeyError("mine")


def test_an_exception_inside_the_with_propagates_and_all_is_written(tmp_path):
    """The exception of the user propagates; all records logged before it are on disk."""
    with pytest.raises(KeyError, match="mine"), Logger(tmp_path) as log:
        log_and_raise(log)
    assert len(read_events(tmp_path)) == 1


def test_a_loggers_error_is_noted_on_the_users_exception(tmp_path):
    """Neither exception hides the other."""
    with pytest.raises(KeyError, match="mine") as caught, Logger(tmp_path, writers=[FailingWriter(0)]) as log:
        log_and_raise(log)
    assert "FailingWriter lost 1 record" in caught.value.__notes__[0]


def test_two_loggers_in_one_folder_lose_nothing(tmp_path):
    """Each has a file of its own, even within one second."""
    with Logger(tmp_path) as first, Logger(tmp_path) as second:
        for step in range(10):
            first(step, {"first": 1.0})
            second(step, {"second": 2.0})
    series = tensorboard_scalars(tmp_path)
    assert series["first"].steps == series["second"].steps == list(range(10))


def test_a_resumed_logger_continues_the_series(tmp_path):
    """The overlap is shown once, with the later values."""
    with Logger(tmp_path) as log:
        for step in range(8):
            log(step, {"x": 0.0})
    with Logger(tmp_path, resume_from=5) as log:
        for step in range(5, 10):
            log(step, {"x": 1.0})
    assert tensorboard_scalars(tmp_path)["x"][:2] == (list(range(10)), [0.0] * 5 + [1.0] * 5)


def test_resume_from_beside_writers_is_refused(tmp_path, memory):
    """The writers were created before; the error has the correct call."""
    with pytest.raises(ValueError, match=r"TensorBoard\(logdir, resume_from=5\)"):
        Logger(tmp_path, writers=[memory], resume_from=5)


def test_a_dropped_logger_writes_all_and_ends_its_thread(tmp_path, memory):
    """A logger collected without a close loses neither records nor its thread."""
    log = Logger(tmp_path, writers=[memory])
    thread = log._background._thread
    log(0, {"x": 1.0})
    del log
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert (len(memory.records), memory.closed) == (1, True)


def test_log_from_several_threads_loses_nothing(tmp_path, memory):
    """The records of each thread are written in its order."""
    with Logger(tmp_path, writers=[memory], queue_size=4) as log:
        threads = [
            threading.Thread(target=lambda k=k: [log(i, {f"t{k}": float(i)}) for i in range(100)])
            for k in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for k in range(4):
        assert [r.step for r in memory.records if r.tags == (f"t{k}",)] == list(range(100))


def test_every_logs_the_multiples_only(tmp_path, memory):
    """The metrics of the other steps are not even checked."""
    with Logger(tmp_path, writers=[memory], every=4) as log:
        for step in range(10):
            log(step, {"x": float(step)} if step % 4 == 0 else object())
    assert [(record.step, *record.values) for record in memory.records] == [(0, 0.0), (4, 4.0), (8, 8.0)]


def test_a_skipped_step_still_raises_errors(tmp_path):
    """The next call raises an earlier error at any step, and a closed logger refuses every step."""
    log = Logger(tmp_path, writers=[FailingWriter(0)], every=4)
    log(0, {"x": 1.0})
    wait_until(lambda: bool(log._background._errors))
    with pytest.raises(WriterError, match="failed at step 0"):
        log(1, {"x": 1.0})
    with pytest.raises(WriterError, match="lost 1 record"):
        log.close()
    with pytest.raises(RuntimeError, match="this Logger is closed"):
        log(2, {"x": 1.0})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, ValueError, "every is 0; it must be 1 step or more"),
        ({"every": 1.5}, TypeError, "every is 1.5, a float; it must be an integer"),
        ({"queue_size": 0}, ValueError, "queue_size is 0; it must hold at least 1"),
        ({"queue_size": None}, TypeError, "queue_size is None, a NoneType"),
        ({"on_full": "drop"}, ValueError, "on_full is 'drop'; choose one of block, drop_oldest, error"),
        ({"resume_from": 1.5}, TypeError, r"resume_from is 1.5, a float.*resume_from=int\(step\)"),
        ({"resume_from": 2**63}, ValueError, "int64"),
        ({"writers": MemoryWriter()}, TypeError, r"writers is a MemoryWriter; give a list"),
        ({"writers": 3}, TypeError, "writers is 3; give a list of writers"),
        (
            {"writers": [MemoryWriter]},
            TypeError,
            r"give a writer, MemoryWriter\(\.\.\.\)",
        ),
        ({"writers": [open]}, TypeError, "no method write and no method flush and no method close"),
    ],
)
def test_arguments_are_refused_before_a_file_is_begun(tmp_path, options, error, message):
    """An event file without a logger would hide points, or stay empty."""
    with pytest.raises(error, match=message):
        Logger(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_logger_without_a_thread_leaves_no_file(tmp_path, monkeypatch):
    """The system may refuse to start a thread; a restart in that file would hide points."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Logger(tmp_path, resume_from=3)
    assert list(tmp_path.iterdir()) == []


def test_dropped_steps_are_counted_logged_and_reported(tmp_path):
    """A slow writer costs the oldest steps; the scalar and the warning at close have their number."""
    gate = GatedWriter()
    log = Logger(tmp_path, writers=[gate], queue_size=3, on_full="drop_oldest")
    log(0, {"x": 0.0})
    while log._background._queue:
        time.sleep(0.001)
    for step in range(1, 10):
        log(step, {"x": 0.0})
    gate.open.set()
    with pytest.warns(LossWarning, match="the full queue dropped 6 steps"):
        log.close()
    assert [record.step for record in gate.records] == [0, 7, 8, 9]
    assert gate.records[1].tags == ("x", "sowlog/dropped")
    assert gate.records[1].values.tolist() == [0.0, 6.0]


def test_the_repr_names_the_place_and_whether_it_is_open(tmp_path):
    """The folder, or the writers if they were passed."""
    with Logger(tmp_path) as log:
        assert repr(log) == f"<Logger to {tmp_path}, open>"
    assert repr(log) == f"<Logger to {tmp_path}, closed>"
    with Logger("unused", writers=[MemoryWriter(), Every(2, MemoryWriter())]) as log:
        assert repr(log) == "<Logger to MemoryWriter, Every, open>"


def test_log_costs_microseconds_at_any_number_of_scalars(tmp_path):
    """A stray transfer in the call would exceed this generous bound; the benchmarks measure the cost."""
    for number in (10, 1000):
        metrics = jax.jit(lambda x, n=number: pack({f"tag{i}": x + i for i in range(n)}))(1.0)
        metrics.buffer.block_until_ready()
        costs = []
        with Logger(tmp_path / str(number)) as log:
            for step in range(200):
                begin = time.perf_counter()
                log(step, metrics)
                costs.append(time.perf_counter() - begin)
        assert sorted(costs)[100] < 150e-6


def test_a_process_wide_guard_forbids_no_read_of_ours(tmp_path):
    """With transfers disallowed in the process, the writer thread still reads the device."""
    guards = []

    class Guarded(MemoryWriter):
        def write(self, record):
            # On the CPU nothing is transferred, so the test reads the setting of the guard.
            guards.append(jax.config.jax_transfer_guard_device_to_host)
            super().write(record)

    writer = Guarded()
    before = jax.config.jax_transfer_guard
    jax.config.update("jax_transfer_guard", "disallow")
    try:
        packed = step_metrics(jax.device_put(np.float32(3)))
        with Logger(tmp_path, writers=[writer]) as log:
            log(0, packed)
    finally:
        jax.config.update("jax_transfer_guard", before)
    assert writer.records[0].values.tolist() == [6.0, 1.5]
    assert guards == ["allow"]
