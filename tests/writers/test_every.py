import math

import pytest

import sowlog
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


def test_records_of_the_logger_pass_at_any_step():
    """Alerts, origins of NaN, and heat maps, those of the cadence and of close; no scalars come with them."""
    memory, losses = MemoryWriter(), [1.0, 50.0, 1.0, 1.0, 1.0, math.nan]
    settings = {"fold": "x/*", "heat_map_every": 4, "on_nonfinite": lambda origin: None}
    with sowlog.Logger("unused", writers=[Every(10, memory)], **settings) as log:
        log.alert(sowlog.alerts.Range("loss", high=10), lambda alert: None)
        for step, loss in enumerate(losses):
            log(step, {"x": [1.0, 2.0], "loss": loss})
    first, *others = memory.records
    assert first.step == 0
    assert "x/max" in first.tags
    assert sorted((record.step, *record.tags, *record.images, *record.texts) for record in others) == [
        (1, "alerts/range/loss"),
        (3, "x/layers"),
        (5, "alerts/range/loss"),
        (5, "sowlog/nonfinite"),
        (5, "x/layers"),
    ]
    assert all(record.is_of_logger for record in others)


def test_every_needs_a_cadence():
    """Zero steps is no cadence."""
    with pytest.raises(ValueError, match="steps is 0; the cadence of Every must be 1"):
        Every(0, MemoryWriter())
    with pytest.raises(TypeError, match=r"steps is 0\.5, a float"):
        Every(0.5, MemoryWriter())
    with pytest.raises(TypeError, match="10 is no writer"):
        Every(MemoryWriter(), 10)
