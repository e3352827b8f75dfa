import threading

import pytest

from sowlog._log import wakeup as wakeup_room
from sowlog._log.wakeup import Waiters, Wakeup

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


def test_a_wake_reaches_only_threads_whose_condition_holds(monkeypatch):
    """A flush does not run between the batches that are written before it."""
    woken, began, reached = [], threading.Event(), threading.Event()

    class Counted(Wakeup):
        def set(self):
            woken.append(reached.is_set())
            super().set()

    def is_reached():
        is_set = reached.is_set()
        began.set()
        return is_set

    monkeypatch.setattr(wakeup_room, "Wakeup", Counted)
    waiters = Waiters()
    waiting = threading.Thread(target=waiters.wait, args=(is_reached, lambda: 0, 30))
    waiting.start()
    assert began.wait(30)
    waiters.wake()
    reached.set()
    waiters.wake()
    waiting.join(30)
    assert not waiting.is_alive()
    assert woken == [True]
