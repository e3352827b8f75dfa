"""The record: what one `log` call becomes, and all that a writer sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sowlog._distributions import HistogramValue


def _no_histograms() -> Mapping[str, HistogramValue]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """The results of one step, complete and immutable.

    Attributes:
        step: the step given to `log`, within int64.
        wall_time: seconds since the epoch at the `log` call.
        tags: the tags that have a value at this step. Steps of one layout with nothing absent share one
            tuple object, so a writer may cache by it.
        values: float32 of shape `[len(tags)]`, read-only.
        histograms: the histograms of the step by tag, as NumPy arrays.
    """

    step: int
    wall_time: float
    tags: tuple[str, ...]
    values: NDArray[np.float32]
    histograms: Mapping[str, HistogramValue] = field(default_factory=_no_histograms)
