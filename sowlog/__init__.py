"""sowlog: the metrics layer of JAX training.

A module sows a value where it is computed, a reducer accumulates it on the device, the logger writes it to
TensorBoard at every step:

    sowlog.sow(self, "entropy", entropy)                        # in a Flax module
    y, updates = sowlog.collect(model.apply)(variables, x)      # around apply, inside jit
    metrics = sowlog.pack(updates["metrics"])                   # one buffer
    log(step, metrics)                                          # returns at once
"""

from sowlog import _serialization, testing, writers
from sowlog._collecting import collect, discover
from sowlog._distributions import HistogramValue, histogram, quantiles
from sowlog._events import CorruptEventFile
from sowlog._layout import Packed
from sowlog._logger import Logger
from sowlog._losses import total_loss
from sowlog._microbatches import accumulate
from sowlog._packing import pack
from sowlog._pending import QueueFullError
from sowlog._reading import Run, read
from sowlog._recording import LostMetricError
from sowlog._reducers import last, max, mean, min, nonfinite, rms, std, sum
from sowlog._replicas import all_reduce
from sowlog._results import compute
from sowlog._sinks import WriterError
from sowlog._sowing import sow, sow_loss
from sowlog._state import Reducer, State
from sowlog._tree import empty_like, merge
from sowlog._values import weighted
from sowlog._warnings import LossWarning

__all__ = [
    "CorruptEventFile",
    "HistogramValue",
    "Logger",
    "LossWarning",
    "LostMetricError",
    "Packed",
    "QueueFullError",
    "Reducer",
    "Run",
    "State",
    "WriterError",
    "accumulate",
    "all_reduce",
    "collect",
    "compute",
    "discover",
    "empty_like",
    "histogram",
    "last",
    "max",
    "mean",
    "merge",
    "min",
    "nonfinite",
    "pack",
    "quantiles",
    "read",
    "rms",
    "sow",
    "sow_loss",
    "std",
    "sum",
    "testing",
    "total_loss",
    "weighted",
    "writers",
]

_serialization.register()
