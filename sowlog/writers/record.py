"""The record: what one `log` call becomes, and all that a writer sees."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sowlog._reduce.distributions import HistogramValue

Ending = Literal["success", "failure"]


@dataclass(frozen=True, slots=True)
class HParams:
    """What a run was started with, and what it is judged by.

    Attributes:
        values: a number, text or truth value by dotted name, read-only.
        metrics: tags of scalars of the same run; none means all.
    """

    values: Mapping[str, bool | float | str]
    metrics: tuple[str, ...]


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


def _no_values() -> NDArray[np.float32]:
    values = np.empty(0, np.float32)
    values.flags.writeable = False
    return values


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """What was logged in one call, complete and immutable: of most calls, the results of a step.

    Attributes:
        step: the step given to `log`, within int64; 0 for what belongs to the run as a whole.
        wall_time: seconds since the epoch at the `log` call.
        tags: the tags that have a value at this step. Steps of one layout with nothing absent share one
            tuple object, so a writer may cache by it; with some absent they are a tuple of their own.
        values: float32 of shape `[len(tags)]`, read-only.
        histograms: the histograms of the step by tag, as NumPy arrays.
        images: uint8 arrays of shape [H, W, 1, 3 or 4] by tag, read-only.
        hparams: what the run was started with, in the one record that tells it.
        ending: how a run that told its hparams ended, in its last record.
    """

    step: int
    wall_time: float
    tags: tuple[str, ...] = ()
    values: NDArray[np.float32] = field(default_factory=_no_values)
    histograms: Mapping[str, HistogramValue] = field(default_factory=_nothing)
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=_nothing)
    hparams: HParams | None = None
    ending: Ending | None = None
