"""Assertions and helpers for tests of a user's model and training."""

from sowlog.testing.checks import HostSyncError, assert_sown, count_traces, forbid_host_sync, sown_structure
from sowlog.testing.events import read_events
from sowlog.testing.laws import assert_invariant, assert_reducer_laws
from sowlog.testing.memory import MemoryWriter
from sowlog.testing.runs import assert_metric, assert_same_curves

__all__ = [
    "HostSyncError",
    "MemoryWriter",
    "assert_invariant",
    "assert_metric",
    "assert_reducer_laws",
    "assert_same_curves",
    "assert_sown",
    "count_traces",
    "forbid_host_sync",
    "read_events",
    "sown_structure",
]
