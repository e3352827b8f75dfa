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
def test_a_batch_is_at_most_half_of_the_queue(size, at_once):
    """And never has items that were queued after a call."""
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
def test_a_call_or_a_half_full_queue_ends_a_pause(wake):
    """A pause of a minute delays neither a flush nor a queue that fills."""
    pausing = threading.Event()

    def work(items, pause):
        pausing.set()
        pause()
        items.clear()

    background = Background(work, lambda: None, size=4, patience=10, idle_wait=60)
    background.put(0)
    # The thread begins with an idle wait, which half of the queue ends.
    background.put(1)
    assert pausing.wait(10)
    if wake == "call":
        background.call(int)
    else:
        background.put(2)
        background.put(3)
        background.call(int)
    background.end()


def test_an_ended_thread_is_collected():
    """A process that makes thousands of loggers, such as a notebook, keeps no closed one."""
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
    """A wait for room, a flush and an end need no poll interval."""
    background = Background(lambda items, pause: items.popleft(), lambda: None, size=1, patience=30)
    begin = time.monotonic()
    for item in range(5):
        background.put(item)
    background.call(int)
    background.end()
    assert time.monotonic() - begin < 25
