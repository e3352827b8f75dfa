"""Waiting for another process or thread."""

import time
from collections.abc import Callable


def wait_until(reached: Callable[[], bool], *, seconds: float = 120.0) -> None:
    """Poll until a condition on another process or thread holds; fail once the time is over.

    A process that imports JAX takes two seconds to begin, and half a minute on a busy machine.
    """
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds:g} s"
        time.sleep(0.1)


def wait_until_equal(read: Callable[[], object], expected: object, *, seconds: float = 120.0) -> None:
    """Poll as `wait_until`, until `read` returns the expected value; a failure shows both values."""
    deadline = time.monotonic() + seconds
    while (found := read()) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == expected
