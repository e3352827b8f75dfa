"""The exit of a process in bounded time, though other threads may wait for ever."""

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Generator
from typing import NoReturn

from train.system import streams

LINGERING = 3.0
"""Seconds that an exit waits for other threads: the run is on disk, or its loss was reported."""

# Set once threads that this program does not end may hold up the exit of this process.
_IS_BOUNDED = threading.Event()


def end(status: int, line: str = "") -> NoReturn:
    """End this process at once, without a wait for its other threads."""
    if line:
        print(line, file=streams.errors())
    streams.flush()
    # No exit hook runs, and a loader's processes would go on.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


@contextlib.contextmanager
def deadline(seconds: float, *, status: int, line: str) -> Generator[None]:
    """End this process, even one that hangs, if the body of the `with` takes longer."""
    timer = _start(seconds, status, line)
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def abandoned() -> Generator[None]:
    """Bound the exit of this process if the body of the `with` fails, as its threads are then left."""
    try:
        yield
    except BaseException:
        bound()
        raise


def bound() -> None:
    """Bound the exit of this process, as it may have threads that this program does not end."""
    _IS_BOUNDED.set()


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run the program, and exit with the status that it returns.

    The interpreter waits at its exit for every thread that is no daemon: orbax's, which wait 300 s for the
    parts of a failed save, and those of a user's loader, such as one that fills a bounded queue without a
    reader. If there may be such threads, the wait is bounded. In a run of several processes JAX's own exit
    hook waits for the others, so nothing is cut short there.
    """
    status = 1
    try:
        status = main()
    except SystemExit as error:  # argparse's.
        status = error.code if isinstance(error.code, int) else 1
        raise
    finally:
        # Only a process of several imports that module.
        if _IS_BOUNDED.is_set() and "train.parallel.joining" not in sys.modules:
            _start(LINGERING, status, "")
    sys.exit(status)


def _start(seconds: float, status: int, line: str) -> threading.Timer:
    timer = threading.Timer(seconds, end, (status, line))
    timer.daemon = True
    timer.start()
    return timer
