import contextlib
import gc
import threading
import time
import weakref

import pytest

from sowlog._log.background import Background

# A wait without an end is a failure.
pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(("size", "at_once"), [(1, 1), (2, 1), (8, 4), (9, 4), (100, 16)])
def test_work_gets_what_waits_but_no_more_than_half(size, at_once):
    """And never what was put after a call that somebody waits for."""
    given = []

    def work(items, pause):
        given.append(list(items))
        items.clear()

    background = Background(work, lambda: None, size=size)
    with background._lock:
        for item in range(size):
            background.put(item)
    background.call(int)
    assert [item for items in given for item in items] == list(range(size))
    assert max(map(len, given)) == at_once
    background.end()


@pytest.mark.parametrize("wake", ["call", "half"])
def test_a_pause_ends_when_haste_is_called_for(wake):
    """A pause of a minute holds up nobody who waits, nor a queue that fills."""
    pausing = threading.Event()

    def work(items, pause):
        pausing.set()
        pause()
        items.clear()

    background = Background(work, lambda: None, size=4, patience=10, idle_wait=60)
    background.put(0)
    # The first rest is a nap as well, which half of the queue ends.
    background.put(1)
    assert pausing.wait(10)
    if wake == "call":
        background.call(int)
    else:
        background.put(2)
        background.put(3)
        background.call(int)
    background.end()


def test_what_has_ended_is_forgotten():
    """A process that makes thousands of loggers, as a notebook may, keeps none of those it closed."""
    background = Background(lambda items, pause: items.clear(), lambda: None, size=1)
    background.put(0)
    background.end()
    gone = weakref.ref(background)
    del background
    gc.collect()
    assert gone() is None


def test_the_thread_lives_in_the_given_context():
    """The context is entered and left on the thread itself."""
    threads = []

    @contextlib.contextmanager
    def context():
        threads.append(threading.current_thread().name)
        yield
        threads.append(threading.current_thread().name)

    background = Background(print, lambda: None, size=1, context=context)
    background.end()
    assert threads == ["sowlog-writer"] * 2


def test_progress_ends_a_wait_at_once():
    """A wait for room, a flush and an end need no poll."""
    background = Background(lambda items, pause: items.popleft(), lambda: None, size=1, patience=30)
    begin = time.monotonic()
    for item in range(5):
        background.put(item)
    background.call(int)
    background.end()
    assert time.monotonic() - begin < 25
