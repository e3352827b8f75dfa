"""Items that are ready together, written as one batch."""

from collections import deque

import jax
import jax.numpy as jnp
import pytest

import sowlog
from sowlog._log.delivery import Delivery
from sowlog._log.item import Item
from sowlog._log.sinks import WriterError
from sowlog.testing import MemoryWriter
from sowlog.writers import StalledError
from sowlog.writers._warnings import LossWarning
from tests.log.delivering import item, items, no_pause
from tests.support.odd_writers import AtOnceWriter


def test_ready_items_are_written_as_one_batch():
    """In their order; each item is popped after the write."""
    writer = AtOnceWriter()
    waiting = items(*range(5))
    writer.look = lambda: len(waiting)
    Delivery([writer], max_pending=8).deliver(waiting, no_pause)
    assert (writer.sizes, writer.steps, len(waiting)) == ([5], [0, 1, 2, 3, 4], 0)
    assert writer.seen == [5]


def test_one_bad_record_costs_no_other():
    """A failed batch is written again one by one."""
    writer = AtOnceWriter()
    writer.failing = {2}
    delivery = Delivery([writer], max_pending=8)
    with pytest.raises(WriterError, match="AtOnceWriter failed at step 2: OSError: cannot write 2"):
        delivery.deliver(items(*range(4)), no_pause)
    assert writer.steps == [0, 1, 3]
    with pytest.raises(WriterError, match="AtOnceWriter lost 1 record, at steps 2 to 2"):
        delivery.close()


def test_a_batch_is_immutable():
    """A writer may keep it, for a thread of its own."""
    writer = AtOnceWriter()
    delivery = Delivery([writer], max_pending=8)
    delivery.deliver(items(0, 1), no_pause)
    delivery.deliver(items(2, 3), no_pause)
    assert [[record.step for record in records] for records in writer.given] == [[0, 1], [2, 3]]


def test_a_stall_of_several_warns_once_keeps_them_and_costs_one_try_each():
    """During the stall the batch is not tried again; afterwards each record is written once, in order."""
    writer = AtOnceWriter()
    delivery = Delivery([writer], max_pending=8)
    writer.stalled = True
    with pytest.raises(LossWarning, match="AtOnceWriter stalls at step 0: the disk is full"):
        delivery.deliver(items(0, 1, 2), no_pause)
    delivery.deliver(items(3, 4), no_pause)
    assert (writer.sizes, writer.tries) == ([3], 1)
    writer.stalled = False
    delivery.deliver(items(5, 6), no_pause)
    delivery.deliver(items(7, 8), no_pause)
    assert (writer.sizes, writer.steps) == ([3, 2], list(range(9)))
    writer.stalled = True
    with pytest.raises(LossWarning, match="stalls at step 9"):
        delivery.deliver(items(9, 10), no_pause)
    writer.stalled = False
    delivery.close()
    assert writer.steps == list(range(11))


def test_a_failure_and_a_later_stall_are_both_reported():
    """Late records are reported with the cause of the stall."""

    class FailsThenStalls(AtOnceWriter):
        def write(self, record):
            if record.step > 1:
                raise StalledError("the disk is full")
            raise OSError("cannot write 1")

    writer = FailsThenStalls()
    writer.failing = {1}
    delivery = Delivery([writer], max_pending=2)
    with pytest.raises(WriterError, match="failed at step 1: OSError: cannot write 1") as caught:
        delivery.deliver(items(1, 2, 3, 4), no_pause)
    assert "stalls at step 2: the disk is full" in caught.value.__notes__[0]
    with pytest.raises(WriterError, match="could not write 2 records yet, at steps 3 to 4: the disk is full"):
        delivery.flush()


def test_a_writer_that_panics_is_only_one_that_fails():
    """A BaseException, such as a panic in Rust, stops neither training nor the other writers."""

    class Panic(BaseException):
        pass

    class Panicking(AtOnceWriter):
        def write(self, record):
            raise Panic("in Rust")

        def write_all(self, records):
            raise Panic("in Rust")

        def flush(self):
            raise Panic("in Rust")

        def close(self):
            raise Panic("in Rust")

    memory = MemoryWriter()
    delivery = Delivery([Panicking(), memory], max_pending=8)
    with pytest.raises(WriterError, match="Panicking failed at step 0: Panic: in Rust"):
        delivery.deliver(items(0, 1), no_pause)
    with pytest.raises(WriterError, match=r"flush\(\) failed: Panic: in Rust") as caught:
        delivery.flush()
    assert "Panicking lost 2 records, at steps 0 to 1" in caught.value.__notes__[0]
    with pytest.raises(WriterError, match=r"close\(\) failed: Panic: in Rust"):
        delivery.close()
    assert (len(memory.records), memory.closed) == (2, True)


def test_a_slow_writer_makes_progress_record_by_record():
    """Each item of a batch is popped when it is written, which renews the patience of a wait."""
    waiting, left = items(*range(4)), []

    class Slow(MemoryWriter):
        def write(self, record):
            left.append(len(waiting))

    Delivery([Slow(), AtOnceWriter()], max_pending=8).deliver(waiting, no_pause)
    assert left == [4, 3, 2, 1]


@jax.jit
def slowly(x):
    """Return x after a few tenths of a second."""
    turn = jnp.eye(300)
    return sowlog.pack({"x": jax.lax.fori_loop(0, 800, lambda _, y: y @ turn, jnp.full((300, 300), x))[0, 0]})


@pytest.mark.parametrize(("waits", "sizes"), [(False, []), (True, [2])])
def test_a_pause_lets_the_device_finish_more_steps(waits, sizes):
    """An unfinished step delays a finished one by the pause only, and may become ready in it."""
    writer = AtOnceWriter()
    slow, paused = slowly(3.0), []

    def pause():
        paused.append(slow.buffer.is_ready())
        if waits:
            jax.block_until_ready(slow)

    Delivery([writer], max_pending=8).deliver(deque([item(0), Item(1, 1.5, slow)]), pause)
    assert (paused, writer.steps) == ([False], [0, 1])
    assert writer.sizes == sizes  # A single record comes by `write`.
