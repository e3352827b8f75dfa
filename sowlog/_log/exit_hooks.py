"""What runs at the exit of a process, of multiprocessing's children too."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
from collections.abc import Callable

# Finalizers of multiprocessing run by falling priority. This one comes before those that close a queue (10)
# or end a pool (15), to which a user's writer may write.
_PRIORITY = 100


def call_at_exit(function: Callable[[], None]) -> Callable[[], None]:
    """Call `function` at the exit of this process; return the function that undoes it.

    A child of multiprocessing leaves by `os._exit`, which runs no exit hook of the interpreter; in other
    processes that hook is enough, and comes later. What `function` raises is shown; the exit status stays.
    """
    atexit.register(function)
    if multiprocessing.parent_process() is None:
        return lambda: atexit.unregister(function)
    finalizer = multiprocessing.util.Finalize(None, function, exitpriority=_PRIORITY)

    def cancel() -> None:
        atexit.unregister(function)
        finalizer.cancel()

    return cancel
