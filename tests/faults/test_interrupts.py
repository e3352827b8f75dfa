"""A signal handler at each place where the interpreter runs one: it raises, as Ctrl-C's does, or logs."""

import contextlib
import dis
import functools
import sys
import threading
import time

import pytest

from sowlog._log import background, pending
from sowlog._log.background import Background
from sowlog._log.pending import Call

FILES = {background.__file__, pending.__file__, threading.__file__}
# After these instructions, and nowhere else, CPython looks whether a signal came.
CHECKS = {"RESUME", "JUMP_BACKWARD", "CALL", "CALL_KW", "CALL_FUNCTION_EX"}


class Interrupt(BaseException):
    """What a handler raises."""


def interrupt():
    """Raise, as the handler of Ctrl-C does."""
    raise Interrupt


@functools.cache
def instructions(code):
    """Return the names of the instructions of some code, by their place."""
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


class SignalAt:
    """Within, the handler runs at the n-th place that is reached; then `came` is set."""

    def __init__(self, place, handler):
        self.came = False
        self._handler = handler
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
                self._handler()
        return self._look


class Full:
    """A Background with a full queue; what it did, and how often it was to finish."""

    def __init__(self, on_full="block"):
        self.done, self.finished, self.dropped = [], 0, 0
        options = {"on_full": on_full, "on_drop": self._drop, "patience": 10}
        self.background = Background(self._work, self._finish, size=2, **options)
        self.put = [0, 1, 2]
        for item in self.put:
            self.background.put(item)
        # Someone else waits too: the queue begins with what is no item.
        self.background._queue.appendleft(Call(int))

    def _work(self, items, pause):
        threading.Event().wait(0.002)  # so that the calls have to wait
        self.done.append(items.popleft())

    def _finish(self):
        self.finished += 1

    def _drop(self):
        self.dropped += 1

    def call(self, name):
        """Make a call; an item that is put is noted once it was taken."""
        item = len(self.put)
        calls = {"put": lambda: self.background.put(item), "call": lambda: self.background.call(int)}
        calls.get(name, self.background.end)()
        if name == "put":
            self.put.append(item)

    def end(self):
        """End it from another thread, which must not wait for a lock that was left held."""
        other = threading.Thread(target=self.background.end, daemon=True)
        other.start()
        other.join(20)
        assert not other.is_alive()
        assert self.finished == 1


@contextlib.contextmanager
def refused_if_closed():
    """Take the error of what is closed, and no other."""
    try:
        yield
    except RuntimeError as error:
        if "this Logger is closed" not in str(error):
            raise


CALLS = ["put", "call", "end"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("call", CALLS)
def test_an_interrupt_anywhere_comes_out_and_leaves_all_in_order(call):
    """All that was put before is done, and the end comes once."""
    for place in range(1, 1000):
        full = Full()
        with contextlib.suppress(Interrupt), SignalAt(place, interrupt) as signal:
            full.call(call)
        full.end()
        assert full.done[:3] == [0, 1, 2], place
        if not signal.came:
            break
    assert place > 20


@pytest.mark.timeout(120)
@pytest.mark.parametrize("handled", CALLS)
@pytest.mark.parametrize(
    ("on_full", "call"), [("block", "put"), ("block", "call"), ("block", "end"), ("drop_oldest", "put")]
)
def test_a_handler_that_logs_flushes_or_closes_anywhere_costs_nothing(on_full, call, handled):
    """A call that returns did what it says, one that comes after a close says so, none waits in vain."""
    for place in range(1, 1000):
        full = Full(on_full)

        def handle(full=full):
            with refused_if_closed():
                full.call(handled)

        begin = time.monotonic()
        with refused_if_closed(), SignalAt(place, handle) as signal:
            full.call(call)
        assert time.monotonic() - begin < 8, place
        full.end()
        assert len(full.done) + full.dropped == len(full.put), place
        if not signal.came:
            break
    assert place > 10
