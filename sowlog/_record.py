"""The record: what one `log` call becomes, and all that a writer sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """The scalars of one step, complete and immutable.

    Attributes:
        step: the step given to `log`, within int64.
        wall_time: seconds since the epoch at the `log` call.
        tags: the tags that have a value at this step. Steps of one layout with nothing absent share one
            tuple object, so a writer may cache by it.
        values: float32 of shape `[len(tags)]`, read-only.
    """

    step: int
    wall_time: float
    tags: tuple[str, ...]
    values: NDArray[np.float32]
