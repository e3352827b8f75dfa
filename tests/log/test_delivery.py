import pickle
import warnings
from collections import deque

import pytest

from sowlog._log.delivery import Delivery
from sowlog._log.sinks import WriterError
from sowlog.testing import MemoryWriter
from sowlog.writers._warnings import LossWarning
from tests.log.delivering import deliver, item, items, no_pause
from tests.support.odd_writers import AtOnceWriter, StallingWriter


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
