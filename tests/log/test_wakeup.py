import threading

import pytest

from sowlog._log.wakeup import Wakeup

# A wait without an end is a failure.
pytestmark = pytest.mark.timeout(60)


def test_a_wakeup_that_is_set_ends_the_next_wait_only():
    """However often it was set, one wait resets it."""
    wakeup = Wakeup()
    for _ in range(3):
        wakeup.set()
    assert wakeup.wait()
    assert not wakeup.wait(0.001)


def test_a_reset_wakeup_is_waited_for():
    """An event from before the reset is forgotten."""
    wakeup = Wakeup()
    wakeup.set()
    wakeup.reset()
    assert not wakeup.wait(0.001)


def test_another_thread_ends_a_wait():
    """The wait has no poll."""
    wakeup = Wakeup()
    threading.Timer(0.02, wakeup.set).start()
    assert wakeup.wait(30)


def test_a_wait_may_be_longer_than_the_system_can_sleep():
    """As for `Stall(1e30)`: an error of the wait would end the thread that waits."""
    wakeup = Wakeup()
    wakeup.set()
    assert wakeup.wait(1e30)
