"""The settings of every test: JAX at its strictest, a cache that outlives the run, a timeout."""

import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# Before jax is imported anywhere: subprocesses that tests start inherit these.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# Four virtual devices, for sharded arrays; all others stay on the first.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
# MLflow and W&B report no use and no error of a test to their makers.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import hypothesis
import pytest

from tests.support.strict_python import RACE

os.environ.setdefault("PYTHONWARNINGS", RACE)

# Traces are large graphs of small objects: collections after every 700 of them took a fifth of the CPU time.
gc.set_threshold(100_000, 10, 10)

hypothesis.settings.register_profile(
    "sowlog",
    deadline=None,  # a first example pays for a compilation
    max_examples=int(os.environ.get("SOWLOG_EXAMPLES", "20")),  # `make properties` tries more
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("sowlog")

_STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the stderr that a test's capture does not take, and let Ctrl-C end processes that tests start.

    A shell starts a job in the background with Ctrl-C ignored, which every process of the job inherits.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_STDERR] = os.dup(sys.__stderr__.fileno())


def pytest_collection_finish(session: pytest.Session) -> None:
    """Exempt imported modules from garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def light_compilation() -> Iterator[None]:
    """Compile the programs of a module with less optimization; it checks no digits of sowlog's numerics."""
    from tests.support.light_compilation import compiled_lightly  # noqa: PLC0415 - it imports JAX

    with compiled_lightly():
        yield


def pytest_timeout_set_timer(item: pytest.Item, settings) -> bool:
    """Let a test that hangs end its process, which first shows where each thread is.

    Nothing less ends every hang: a signal only raises in the test, and what hangs may hang again as it is
    unwound, or tried again by Hypothesis; a thread needs the interpreter's lock. xdist replaces the worker.
    """
    faulthandler.dump_traceback_later(settings.timeout, exit=True, file=item.config.stash[_STDERR])
    item.cancel_timeout = faulthandler.cancel_dump_traceback_later
    return True
