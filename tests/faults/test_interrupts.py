"""A signal handler that raises, as that of Ctrl-C does, at each place where the interpreter runs handlers."""

import dis
import functools
import sys
import threading

import pytest

from sowlog import _background
from sowlog._background import Background

FILES = {_background.__file__, threading.__file__}
# After these instructions, and nowhere else, CPython looks whether a signal came.
CHECKS = {"RESUME", "JUMP_BACKWARD", "CALL", "CALL_KW", "CALL_FUNCTION_EX"}


class Interrupt(BaseException):
    """What the handler raises."""


@functools.cache
def instructions(code):
    """Return the names of the instructions of some code, by their place."""
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


class InterruptAt:
    """Within, the handler runs at the n-th place that is reached; then `raised` is set."""

    def __init__(self, place):
        self.raised = False
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
            if self._left == 0 and not self.raised:
                self.raised = True
                raise Interrupt
        return self._look


@pytest.fixture
def full():
    """Return a function that starts a Background with a full queue, and the list of what `finish` saw."""

    def full():
        done, finished = [], []

        def work(items, pause):
            threading.Event().wait(0.01)  # so that the calls have to wait
            done.append(items.popleft())

        background = Background(work, lambda: finished.append(list(done)), size=1, patience=10)
        background.put(0)
        background.put(1)
        return background, finished

    return full


CALLS = {
    "put": lambda background: background.put(2),
    "call": lambda background: background.call(int),
    "end": lambda background: background.end(),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("call", CALLS)
def test_an_interrupt_anywhere_comes_out_and_leaves_all_in_order(full, call):
    """Another thread can end it then: all that was put before is done, and `finish` ran once."""
    for place in range(1, 1000):
        background, finished = full()
        interrupt = InterruptAt(place)
        try:
            with interrupt:
                CALLS[call](background)
        except Interrupt:
            pass
        other = threading.Thread(target=background.end, daemon=True)
        other.start()
        other.join(20)
        assert not other.is_alive(), place
        assert [seen[:2] for seen in finished] == [[0, 1]], place
        if not interrupt.raised:
            break
    assert place > 20
