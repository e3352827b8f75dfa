"""Signal handlers that raise, as that of Ctrl-C, at each instruction where the interpreter runs them."""

import contextlib
import dis
import functools
import os
import signal
import sys
import threading

import pytest

from sowlog._log import background, entries, pending, wakeup
from sowlog._log.background import Background
from sowlog._log.entries import Call, Several
from tests.support.waiting import wait_until

FILES = {background.__file__, entries.__file__, pending.__file__, wakeup.__file__, threading.__file__}
# CPython checks for signals after these instructions only.
CHECKS = {"RESUME", "JUMP_BACKWARD", "CALL", "CALL_KW", "CALL_FUNCTION_EX"}


class Interrupt(BaseException):
    """The exception of a handler."""


def interrupt():
    """Raise, as the handler of Ctrl-C."""
    raise Interrupt


@functools.cache
def instructions(code):
    """Return the names of the instructions of a code object by offset."""
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


class InterruptAt:
    """A context in which a handler raises at the n-th checked instruction, and sets `came`."""

    def __init__(self, place):
        self.came = False
        self._left = place
        self._before = {}

    def __enter__(self):
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _enter(self, frame, event, arg):
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        return self._look

    def _look(self, frame, event, arg):
        if event == "opcode":
            before = self._before.get(frame)
            self._before[frame] = instructions(frame.f_code)[frame.f_lasti]
            self._left -= before in CHECKS
            if self._left == 0 and not self.came:
                self.came = True
                interrupt()
        return self._look


class Full:
    """A Background with a full queue, which records its work and counts its ends."""

    def __init__(self):
        self.done, self.finished = [], 0
        self.background = Background(self._work, self._finish, size=2, patience=10)
        for item in range(3):
            self.background.put(item)
        # The queue begins with a call, as of another thread.
        self.background._queue.appendleft(Call(int))

    def _work(self, items, pause):
        threading.Event().wait(0.002)  # so that the calls have to wait
        self.done.append(items.popleft())

    def _finish(self):
        self.finished += 1

    def call(self, name):
        """Make a call."""
        calls = {
            "put": lambda: self.background.put(3),
            "put several": lambda: self.background.put(Several(int, range(3, 6))),
            "call": lambda: self.background.call(int),
        }
        calls.get(name, self.background.end)()

    def end(self):
        """End it from another thread, which would wait forever for a lock still held."""
        other = threading.Thread(target=self.background.end, daemon=True)
        other.start()
        other.join(20)
        assert not other.is_alive()
        assert self.finished == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("call", ["put", "put several", "call", "end"])
def test_an_interrupt_anywhere_is_raised_and_loses_no_item(call):
    """All items queued before are done, and the thread ends once."""
    for place in range(1, 1000):
        full = Full()
        with contextlib.suppress(Interrupt), InterruptAt(place) as at:
            full.call(call)
        full.end()
        assert full.done[:3] == [0, 1, 2], place
        assert full.done[3:] in ([], [3], [3, 4, 5]), place
        assert full.background._bounds.held == 0, place
        if not at.came:
            break
    assert place > 20


@pytest.fixture
def handle():
    """Return a function that installs a handler of SIGUSR1 for the test."""
    former = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, lambda number, frame: handler())
    signal.signal(signal.SIGUSR1, former)


@pytest.mark.parametrize("waiting", ["put", "call", "end"])
def test_a_handler_may_flush_while_the_interrupted_call_waits(handle, waiting):
    """Both waits end, each by its own wakeup."""
    gate, flushed, done = threading.Event(), [], []

    def work(items, pause):
        gate.wait()
        done.append(items.popleft())

    full = Background(work, int, size=1, patience=30)
    full.put(0)
    wait_until(lambda: not full._queue)
    full.put(1)

    def flush():
        gate.set()
        with contextlib.suppress(RuntimeError):  # after `end`
            full.call(lambda: flushed.append(list(done)))

    def interrupt_wait():
        wait_until(lambda: bool(full._waiters._wakeups))
        os.kill(os.getpid(), signal.SIGUSR1)

    handle(flush)
    other = threading.Thread(target=interrupt_wait)
    other.start()
    {"put": lambda: full.put(2), "call": lambda: full.call(int)}.get(waiting, full.end)()
    other.join()
    full.end()
    assert done == ([0, 1, 2] if waiting == "put" else [0, 1])
    assert flushed == ([] if waiting == "end" else [[0, 1]])


def test_a_handler_that_waits_inside_of_the_lock_is_refused():
    """The wait would need a lock that the interrupted call holds."""
    background = Background(lambda items, pause: items.clear(), int, size=1, patience=30)
    with background._lock, pytest.raises(RuntimeError, match=r"signal handler.*set a flag in the handler"):
        background.call(int)
    background.end()
