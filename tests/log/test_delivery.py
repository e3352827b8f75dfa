import pickle
import warnings
from collections import deque

import jax
import jax.numpy as jnp
import pytest

import sowlog
from sowlog._log.delivery import Delivery
from sowlog._log.item import Item
from sowlog._log.sinks import WriterError
from sowlog.testing import MemoryWriter
from sowlog.writers import Every, StalledError
from sowlog.writers._warnings import LossWarning
from tests.support.odd_writers import StallingWriter


def item(step, **scalars):
    """Return an item of host scalars."""
    return Item(step, 1.5, None, scalars or {"x": float(step)})


def no_pause():
    """Fail: values on the host are always ready, so no pause is needed."""
    raise AssertionError


def deliver(delivery, *steps):
    """Deliver the steps; return the errors and warnings raised."""
    handed_back = []
    for step in steps:
        try:
            delivery.deliver(deque([item(step)]), no_pause)
        except (WriterError, LossWarning) as error:
            handed_back.append(error)
    return handed_back


def test_a_stall_warns_once_and_later_writes_all_records_in_order():
    """Records of the stall are written before later ones."""
    writer = StallingWriter()
    delivery = Delivery([writer], max_pending=10)
    deliver(delivery, 0)
    writer.stalled = True
    (warning,) = deliver(delivery, 1, 2, 3)
    assert isinstance(warning, LossWarning)
    assert "StallingWriter stalls at step 1: the disk is full" in str(warning)
    writer.stalled = False
    assert deliver(delivery, 4) == []
    assert writer.steps == [0, 1, 2, 3, 4]
    delivery.flush()
    delivery.close()


def test_a_stalled_writer_costs_one_try_per_record():
    """While the first pending record fails, the others are not tried."""
    writer = StallingWriter()
    writer.stalled = True
    deliver(Delivery([writer], max_pending=100), *range(50))
    assert writer.tries == 50


def test_pending_records_are_bounded_and_their_losses_reported():
    """The oldest are dropped first, and flush reports the numbers of late and of lost records."""
    writer = StallingWriter()
    delivery = Delivery([writer], max_pending=4)
    writer.stalled = True
    assert len(deliver(delivery, *range(10))) == 1
    late = r"could not write 4 records yet, at steps 6 to 9: the disk is full"
    with pytest.raises(WriterError, match=late) as caught:
        delivery.flush()
    assert "StallingWriter lost 6 records, at steps 0 to 5" in caught.value.__notes__[0]
    writer.stalled = False
    delivery.flush()
    assert writer.steps == [6, 7, 8, 9]
    delivery.close()


def test_an_error_counts_lost_and_late_records():
    """As attributes, summed over all writers, so that no program parses the message."""
    writer, failing = StallingWriter(), AtOnceWriter()
    delivery = Delivery([writer, failing], max_pending=4)
    writer.stalled, failing.failing = True, {2, 3}
    handed_back = deliver(delivery, *range(6))
    assert [(e.lost, e.late) for e in handed_back if isinstance(e, WriterError)] == [(1, 0)]
    with pytest.raises(WriterError, match="could not write 4 records yet") as caught:
        delivery.flush()
    assert (caught.value.lost, caught.value.late) == (2 + 2, 4)
    with pytest.raises(WriterError, match="lost 4 records, at steps 2 to 5") as caught:
        delivery.close()
    assert (caught.value.lost, caught.value.late) == (4, 0)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.lost, copy.late) == (str(caught.value), 4, 0)


def test_a_writer_closed_in_a_stall_reports_its_losses():
    """A close is the last attempt, so the pending records are lost."""
    writer = StallingWriter()
    delivery = Delivery([writer], max_pending=4)
    writer.stalled = True
    deliver(delivery, 1, 2)
    with pytest.raises(WriterError, match=r"lost 2 records, at steps 1 to 2.*the disk is full"):
        delivery.close()
    assert writer.closed


def test_a_second_stall_warns_again():
    """Each series of stalls has one warning."""
    writer = StallingWriter()
    delivery = Delivery([writer], max_pending=4)
    for step in range(6):
        writer.stalled = step in (1, 2, 4)
        assert len(deliver(delivery, step)) == (step in (1, 4))
    assert writer.steps == [0, 1, 2, 3, 4, 5]


def test_another_writer_is_served_during_a_stall():
    """A stall of one writer does not delay the others."""
    writer, other = StallingWriter(), MemoryWriter()
    writer.stalled = True
    deliver(Delivery([writer, other], max_pending=4), 1, 2)
    assert [record.step for record in other.records] == [1, 2]


def test_errors_of_several_writers_are_raised_as_one():
    """The first is raised, with the second as its note."""

    class Broken(MemoryWriter):
        def write(self, record):
            raise ValueError(f"broken at {record.step}")

    with pytest.raises(WriterError, match="Broken failed at step 3") as caught:
        Delivery([Broken(), Broken()], max_pending=4).deliver(deque([item(3)]), no_pause)
    assert "Broken failed at step 3" in caught.value.__notes__[0]


def test_dropped_steps_become_a_scalar_of_the_next_record():
    """`sowlog/dropped` is the number so far, written at steps where it changed; close warns."""
    memory = MemoryWriter()
    delivery = Delivery([memory], max_pending=4)
    for step in range(6):
        if step in (2, 3, 5):
            delivery.count_drop()
        if step != 2:
            delivery.deliver(deque([item(step)]), no_pause)
    dropped = {r.step: r.values[-1] for r in memory.records if r.tags[-1] == "sowlog/dropped"}
    assert dropped == {3: 2.0, 5: 3.0}
    with pytest.raises(LossWarning, match="the full queue dropped 3 steps"):
        delivery.close()


def test_nothing_dropped_is_not_mentioned():
    """There is no scalar and no warning."""
    memory = MemoryWriter()
    delivery = Delivery([memory], max_pending=4)
    delivery.deliver(deque([item(1)]), no_pause)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        delivery.close()
    assert memory.records[0].tags == ("x",)


def test_each_series_of_failures_raises_once():
    """A written record ends a series, alone or in a batch."""
    writer = AtOnceWriter()
    writer.failing = {1, 2, 4, 7}
    delivery = Delivery([writer], max_pending=4)
    assert [len(deliver(delivery, step)) for step in range(5)] == [0, 1, 0, 0, 1]
    delivery.deliver(items(5, 6), no_pause)
    assert len(deliver(delivery, 7)) == 1


def test_every_forwards_its_steps_flush_and_close():
    """A cadence of one writer."""
    memory = MemoryWriter()
    writer = Every(3, memory)
    delivery = Delivery([writer], max_pending=4)
    deliver(delivery, *range(-3, 8))
    delivery.flush()
    delivery.close()
    assert [record.step for record in memory.records] == [-3, 0, 3, 6]
    assert memory.closed


def test_every_needs_a_cadence():
    """Zero steps is no cadence."""
    with pytest.raises(ValueError, match="steps is 0; the cadence of Every must be 1"):
        Every(0, MemoryWriter())
    with pytest.raises(TypeError, match=r"steps is 0\.5, a float"):
        Every(0.5, MemoryWriter())
    with pytest.raises(TypeError, match="10 is no writer"):
        Every(MemoryWriter(), 10)


class AtOnceWriter(StallingWriter):
    """A writer that takes batches, and keeps each batch."""

    def __init__(self):
        super().__init__()
        self.given = []
        self.failing = set()
        self.look = lambda: None
        self.seen = []

    def write(self, record):
        """Keep one record, or fail."""
        if record.step in self.failing:
            raise OSError(f"cannot write {record.step}")
        super().write(record)

    def write_all(self, records):
        """Keep all records of the batch, or none."""
        self.given.append(records)
        self.seen.append(self.look())
        if self.stalled:
            raise StalledError("the disk is full")
        if self.failing & {record.step for record in records}:
            raise OSError("cannot write one of them")
        for record in records:
            super().write(record)

    @property
    def sizes(self):
        """The size of each batch."""
        return [len(records) for records in self.given]


def items(*steps):
    """Return the items of these steps."""
    return deque(item(step) for step in steps)


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
