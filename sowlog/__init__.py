"""sowlog: the metrics layer of JAX training.

A function sows a value where it is computed, a reducer accumulates it on the device, the logger writes it to
TensorBoard at every step:

    sowlog.sow(self, "entropy", entropy)                        # in a Flax module; elsewhere without self
    y, updates = sowlog.collect(model.apply)(variables, x)      # around apply or any function, inside jit
    metrics = sowlog.pack(updates["metrics"])                   # one buffer
    log(step, metrics)                                          # returns at once
"""

import importlib as _importlib
import inspect as _inspect
import sys as _sys
from types import ModuleType as _ModuleType

from sowlog import alerts, testing, writers
from sowlog._events.framing import CorruptEventFile
from sowlog._events.reading import Run, read
from sowlog._events.runs import Runs, read_all
from sowlog._explain.explaining import explain_nonfinite
from sowlog._log.alarms import AlertError, AlertWarning
from sowlog._log.logger import Logger
from sowlog._log.nonfinite import NonfiniteError, NonfiniteOrigin, NonfiniteWarning
from sowlog._log.pending import QueueFullError
from sowlog._log.sinks import WriterError
from sowlog._log.tag_budget import TagWarning
from sowlog._reduce.basic import last, max, mean, min, nonfinite, sum
from sowlog._reduce.distributions import HistogramValue, histogram, quantiles
from sowlog._reduce.moments import rms, std
from sowlog._reduce.reducer import Reducer
from sowlog._reduce.state import State
from sowlog._reduce.thresholds import pr_counts
from sowlog._reduce.values import weighted
from sowlog._sow import linen as _linen
from sowlog._sow import rules as _rules
from sowlog._sow.collecting import collect, discover
from sowlog._sow.errors import LostMetricError, UnmatchedWatchError
from sowlog._sow.gradients import sow_grad
from sowlog._sow.observing import observe, observed
from sowlog._sow.scopes import scope, stacked
from sowlog._sow.sowing import sow, sow_loss
from sowlog._sow.watches import watch
from sowlog._tree.families import families
from sowlog._tree.layout import Packed
from sowlog._tree.losses import total_loss
from sowlog._tree.microbatches import accumulate
from sowlog._tree.packing import pack
from sowlog._tree.replicas import all_reduce
from sowlog._tree.results import compute, describe
from sowlog._tree.serialization import register as _register
from sowlog._tree.sites import Description
from sowlog._tree.tags import empty_like, merge
from sowlog.writers._warnings import LossWarning

__all__ = [
    "AlertError",
    "AlertWarning",
    "CorruptEventFile",
    "Description",
    "HistogramValue",
    "Logger",
    "LossWarning",
    "LostMetricError",
    "NonfiniteError",
    "NonfiniteOrigin",
    "NonfiniteWarning",
    "Packed",
    "QueueFullError",
    "Reducer",
    "Run",
    "Runs",
    "State",
    "TagWarning",
    "UnmatchedWatchError",
    "WriterError",
    "accumulate",
    "alerts",
    "all_reduce",
    "collect",
    "compute",
    "describe",
    "discover",
    "empty_like",
    "explain_nonfinite",
    "families",
    "histogram",
    "last",
    "max",
    "mean",
    "merge",
    "min",
    "nonfinite",
    "observe",
    "observed",
    "pack",
    "pr_counts",
    "quantiles",
    "read",
    "read_all",
    "rms",
    "scope",
    "sow",
    "sow_grad",
    "sow_loss",
    "stacked",
    "std",
    "sum",
    "testing",
    "total_loss",
    "watch",
    "weighted",
    "writers",
]


_register()
_rules.install()
_linen.install()


def _publish(module: _ModuleType) -> None:
    """Set the module of public classes, and of their methods, to the one that users import them from.

    Errors, reprs and pickles then outlive a move between rooms. Methods follow their class, in whose module
    doctest looks for them. Functions keep their own module, as JAX's do.
    """
    for kind in filter(_inspect.isclass, map(vars(module).get, module.__all__)):
        private = kind.__module__
        for member in (kind, *map(_inspect.unwrap, vars(kind).values())):
            if (member is kind or _inspect.isfunction(member)) and member.__module__ == private:
                member.__module__ = module.__name__


for _module in (_sys.modules[__name__], alerts, testing, writers):
    _publish(_module)


def __getattr__(name: str) -> _ModuleType:
    """Import `sowlog.nnx` where it is first used: Flax nnx takes a second to import."""
    if name == "nnx":
        return _importlib.import_module("sowlog.nnx")
    raise AttributeError(f"module 'sowlog' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "nnx"})
