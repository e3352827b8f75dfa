"""All public names. Their import is that of JAX and Flax, and makes the changes to both that sows need."""

from sowlog import adapters, alerts, testing, writers
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
from sowlog._publishing import publish
from sowlog._reduce.basic import last, max, mean, min, nonfinite, sum
from sowlog._reduce.distributions import HistogramValue, histogram, quantiles
from sowlog._reduce.moments import rms, std
from sowlog._reduce.reducer import Reducer
from sowlog._reduce.state import State
from sowlog._reduce.thresholds import pr_counts
from sowlog._reduce.values import weighted
from sowlog._sow import linen, rules
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
from sowlog._tree.serialization import register
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
    "adapters",
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

register()
rules.install()
linen.install()

for _module in (adapters, alerts, testing, writers):
    publish(_module, _module.__all__)
