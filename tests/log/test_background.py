import threading
import time

import pytest

from sowlog._log.background import Background
from sowlog._log.pending import QueueFullError

# A wait without an end is a failure.
pytestmark = pytest.mark.timeout(60)


class Recorder:
    """Work that records its items, and raises for the chosen ones."""

    def __init__(self, failing=()):
        self.done = []
        self.failing = failing
        self.finished = 0
        self.gate = threading.Event()
        self.gate.set()

    def work(self, items, pause):
        """Wait for the gate before each item, then do it."""
        failed = []
        while items:
            self.gate.wait()
            self.done.append(items[0])
            failed += [items[0]] if items[0] in self.failing else []
            items.popleft()
        if failed:
            raise ValueError(f"cannot do {failed}")

    def finish(self):
        """Count."""
        self.finished += 1


@pytest.fixture
def start():
    """Return a function that starts a Background, ended after the test."""
    started = []

    def start(recorder, *, size=8, patience=10.0, **options):
        background = Background(recorder.work, recorder.finish, size=size, patience=patience, **options)
        started.append((recorder, background))
        return background

    yield start
    for recorder, background in started:
        recorder.gate.set()
        background.end_soon()


def test_items_are_done_in_order_on_another_thread(start):
    """One thread, first in first out."""
    recorder = Recorder()
    threads = []
    background = start(recorder)
    for item in range(100):
        background.put(item)
    background.call(lambda: threads.append(threading.current_thread()))
    assert recorder.done == list(range(100))
    assert threads[0] is not threading.current_thread()


def test_an_error_is_raised_at_the_next_call_once(start):
    """The next call re-raises it and queues its own item, and later calls raise nothing."""
    recorder = Recorder(failing=[1])
    background = start(recorder)
    background.put(1)
    with pytest.raises(ValueError, match=r"cannot do \[1\]"):
        background.call(lambda: None)
    background.put(2)
    background.call(lambda: None)
    assert recorder.done == [1, 2]


def test_put_raises_an_earlier_error_and_still_queues(start):
    """The call that re-raises an error still queues its item."""
    recorder = Recorder(failing=[1])
    background = start(recorder)
    background.put(1)
    while not recorder.done or background._completed < 1:
        time.sleep(0.001)
    with pytest.raises(ValueError, match=r"cannot do \[1\]"):
        background.put(2)
    background.end()
    assert recorder.done == [1, 2]


def test_a_calls_own_error_comes_back_to_it(start):
    """`call` raises the exception of its function, with earlier errors as notes."""

    def fail():
        raise OSError("no disk")

    background = start(Recorder(failing=[1]))
    background.put(1)
    with pytest.raises(OSError, match="no disk") as caught:
        background.call(fail)
    assert caught.value.__notes__ == ["Before it: ValueError: cannot do [1]"]
    background.end()


def test_end_does_all_and_finishes_once(start):
    """After `end` all items are done, `finish` ran last, and a second `end` changes nothing."""
    recorder = Recorder()
    background = start(recorder)
    for item in range(5):
        background.put(item)
    background.end()
    background.end()
    assert (recorder.done, recorder.finished) == (list(range(5)), 1)
    assert not background._thread.is_alive()


def test_a_call_after_the_end_is_refused(start):
    """`put` and `call` raise RuntimeError."""
    background = start(Recorder())
    background.end()
    with pytest.raises(RuntimeError, match="this Logger is closed"):
        background.put(1)
    with pytest.raises(RuntimeError, match="this Logger is closed"):
        background.call(lambda: None)


def test_a_full_queue_makes_put_wait_for_room(start):
    """The bound holds: `put` returns only after an item is done."""
    recorder = Recorder()
    recorder.gate.clear()
    background = start(recorder, size=2)
    background.put(0)
    while background._queue:
        time.sleep(0.001)
    background.put(1)
    background.put(2)
    threading.Timer(0.05, recorder.gate.set).start()
    background.put(3)
    assert recorder.gate.is_set()
    background.end()
    assert recorder.done == [0, 1, 2, 3]


@pytest.mark.parametrize("wait", ["put", "call", "end"])
def test_every_wait_ends_when_the_work_hangs(start, wait):
    """If the device or the disk hangs, `put`, `call` and `end` raise TimeoutError and name the wait."""
    recorder = Recorder()
    recorder.gate.clear()
    background = start(recorder, size=1, patience=0.05)
    background.put(0)
    while background._queue:
        time.sleep(0.001)
    background.put(1)
    waits = {"put": lambda: background.put(2), "call": lambda: background.call(int), "end": background.end}
    with pytest.raises(TimeoutError, match=r"finished nothing for 0\.05 s"):
        waits[wait]()
    recorder.gate.set()


@pytest.mark.parametrize("later", ["call", "end"])
def test_a_later_wait_raises_the_error_of_an_abandoned_call(start, later):
    """A flush that times out, or that Ctrl-C interrupts, may still fail, and its losses are reported once."""

    def fail():
        raise OSError("no disk")

    recorder = Recorder()
    recorder.gate.clear()
    background = start(recorder, patience=0.05)
    background.put(0)
    with pytest.raises(TimeoutError, match="finished nothing"):
        background.call(fail)
    background._patience = 10
    recorder.gate.set()
    with pytest.raises(OSError, match="no disk"):
        background.call(int) if later == "call" else background.end()
    background.end()


def test_slow_progress_is_no_hang(start):
    """Patience is measured from the last item done, not from the beginning of the wait."""
    recorder = Recorder()

    def work(items, pause):
        while items:
            time.sleep(0.03)
            items.popleft()

    background = Background(work, recorder.finish, size=16, patience=0.1)
    for item in range(10):
        background.put(item)
    background.end()
    assert recorder.finished == 1


def test_many_threads_may_put(start):
    """No item of several threads is lost or repeated, and the order of each thread is kept."""
    recorder = Recorder()
    background = start(recorder, size=4)

    def put_all(name):
        for number in range(200):
            background.put((name, number))

    threads = [threading.Thread(target=put_all, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    background.end()
    assert sorted(recorder.done) == [(name, number) for name in range(4) for number in range(200)]
    for name in range(4):
        own = [number for owner, number in recorder.done if owner == name]
        assert own == sorted(own)


def test_the_queue_must_hold_something():
    """A size below one is refused."""
    with pytest.raises(ValueError, match="queue_size is 0"):
        Background(print, int, size=0)


@pytest.fixture
def full(start):
    """Return a function that starts a Background whose queue of two is full, its thread held at item 0."""

    def full(on_full):
        recorder = Recorder()
        recorder.gate.clear()
        recorder.dropped = 0

        def count():
            recorder.dropped += 1

        background = start(recorder, size=2, on_full=on_full, on_drop=count)
        background.put(0)
        while background._queue:
            time.sleep(0.001)
        background.put(1)
        background.put(2)
        return recorder, background

    return full


def test_drop_oldest_makes_room_and_counts(full):
    """The newest items are kept, no call waits, and each drop is counted."""
    recorder, background = full("drop_oldest")
    for item in range(3, 7):
        background.put(item)
    recorder.gate.set()
    background.end()
    assert (recorder.done, recorder.dropped) == ([0, 5, 6], 4)


def test_drop_oldest_never_drops_a_flush(full):
    """A flush holds no step, and its caller waits for it."""
    recorder, background = full("drop_oldest")
    flushed = []
    waiting = threading.Thread(target=background.call, args=(lambda: flushed.append(list(recorder.done)),))
    waiting.start()
    while len(background._queue) < 3:
        time.sleep(0.001)
    for item in range(3, 7):
        background.put(item)
    recorder.gate.set()
    waiting.join(10)
    background.end()
    assert len(flushed) == 1
    assert recorder.done == [0, 5, 6]


def test_a_full_queue_may_raise(full):
    """The item is not queued, the error names the remedies, and the drop is counted."""
    recorder, background = full("error")
    with pytest.raises(QueueFullError, match=r"2 records wait for the writers.*every=.*queue_size="):
        background.put(3)
    recorder.gate.set()
    background.call(int)
    background.put(4)
    background.end()
    assert (recorder.done, recorder.dropped) == ([0, 1, 2, 4], 1)


def test_an_item_whose_wait_times_out_counts_as_dropped(start):
    """A writer that hangs ends the wait for room with TimeoutError, and that item is not done later."""
    recorder = Recorder()
    recorder.gate.clear()
    dropped = []
    background = start(recorder, size=1, patience=0.05, on_drop=lambda: dropped.append(1))
    background.put(0)
    while background._queue:
        time.sleep(0.001)
    background.put(1)
    with pytest.raises(TimeoutError, match="room in its queue"):
        background.put(2)
    recorder.gate.set()
    background.end()
    assert (recorder.done, len(dropped)) == ([0, 1], 1)


def test_an_unknown_rule_is_refused():
    """The message lists the rules."""
    with pytest.raises(ValueError, match="on_full is 'drop'; choose one of block, drop_oldest, error"):
        Background(print, int, size=1, on_full="drop")


def test_a_warning_is_issued_at_the_next_call(start):
    """A Warning raised by the work is issued, not raised."""

    def warn(items, pause):
        raise RuntimeWarning(f"late {items.popleft()}")

    background = Background(warn, lambda: None, size=4)
    background.put(1)
    with pytest.warns(RuntimeWarning, match="late 1"):
        background.call(int)
    background.end()


def test_items_in_work_count_as_queued(start):
    """Whatever the size of the batch, the queue and the batch hold no more than the bound and one."""
    recorder = Recorder()
    recorder.gate.clear()
    background = start(recorder, size=4, on_full="error")
    with background._lock:
        for item in range(4):
            background.put(item)
    while len(background._batch) < 2:
        time.sleep(0.001)
    background.put(4)
    with pytest.raises(QueueFullError, match="4 records wait"):
        background.put(5)
    recorder.gate.set()
    background.end()
    assert recorder.done == [0, 1, 2, 3, 4]


def test_check_raises_the_errors_of_put(start):
    """An error of the thread reaches a call without an item as well."""
    background = start(Recorder(failing=[1]))
    background.check()
    background.put(1)
    while not background._errors:
        time.sleep(0.001)
    with pytest.raises(ValueError, match=r"cannot do \[1\]"):
        background.check()
    background.check()


def test_a_put_that_waits_while_another_thread_ends_all_is_refused(start):
    """Its item would never be done."""
    recorder = Recorder()
    recorder.gate.clear()
    background = start(recorder, size=1)
    background.put(0)
    while background._queue:
        time.sleep(0.001)
    background.put(1)
    refused = []

    def put():
        with pytest.raises(RuntimeError, match="this Logger is closed"):
            background.put(2)
        refused.append(True)

    waiting = threading.Thread(target=put)
    waiting.start()
    while not background._waiters._wakeups:
        time.sleep(0.001)
    background.end_soon()
    recorder.gate.set()
    waiting.join(10)
    background.end()
    assert (refused, recorder.done) == ([True], [0, 1])


def test_an_item_put_to_an_idle_thread_is_done_at_once(start):
    """The thread waits only while items keep coming; the first item after a pause wakes it."""
    recorder = Recorder()
    background = start(recorder)
    while not background._asleep:
        time.sleep(0.001)
    background.put(1)
    while not recorder.done:
        time.sleep(0.0005)
    assert not background._asleep


def test_items_that_come_in_an_idle_wait_are_done_after_it(start):
    """No flush is needed."""
    recorder = Recorder()
    background = start(recorder, size=100)
    background.call(int)
    background.put(1)
    background.put(2)
    deadline = time.monotonic() + 10
    while len(recorder.done) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert recorder.done == [1, 2]
