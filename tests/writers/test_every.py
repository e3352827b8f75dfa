import pytest

from sowlog._log.delivery import Delivery
from sowlog.testing import MemoryWriter
from sowlog.writers import Every
from tests.log.delivering import deliver


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
