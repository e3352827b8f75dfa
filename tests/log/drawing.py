"""The values that a writer gets of one call of a logger, other than metrics."""

import numpy as np

import sowlog
from sowlog.testing import MemoryWriter


def drawn(method: str, *values: object, **options: object) -> np.ndarray:
    """Return the one picture, or the curve, that a call writes."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory]) as log:
        getattr(log, method)(0, "x", *values, **options)
    (record,) = memory.records
    (array,) = (record.images or record.pr_curves).values()
    return array
