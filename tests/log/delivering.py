"""Items for a delivery, and their delivery one by one."""

from collections import deque

from sowlog._log.item import Item
from sowlog._log.sinks import WriterError
from sowlog.writers._warnings import LossWarning


def item(step, **scalars):
    """Return an item of host scalars."""
    return Item(step, 1.5, None, scalars or {"x": float(step)})


def items(*steps):
    """Return the items of these steps."""
    return deque(item(step) for step in steps)


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
