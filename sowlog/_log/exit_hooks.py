"""Exit hooks, for the interpreter and for children of multiprocessing."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
from collections.abc import Callable

# A user's writer may write to a queue or a pool of multiprocessing. Finalizers run by falling priority, so
# this one comes before those that close a queue (10) or end a pool (15).
_PRIORITY = 100


def call_at_exit(function: Callable[[], None]) -> Callable[[], None]:
    """Call `function` at the exit of this process; return a function that cancels the call.

    A child of multiprocessing exits by `os._exit`, which runs no exit hook of the interpreter, so it gets a
    finalizer as well. An exception of `function` is printed, and the exit status does not change.
    """
    atexit.register(function)
    if multiprocessing.parent_process() is None:
        return lambda: atexit.unregister(function)
    finalizer = multiprocessing.util.Finalize(None, function, exitpriority=_PRIORITY)

    def cancel() -> None:
        atexit.unregister(function)
        finalizer.cancel()

    return cancel
