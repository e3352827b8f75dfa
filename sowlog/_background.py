"""One thread, one bounded queue, errors handed back.

The thread owns its work: nothing else calls it. What is put is done in the order of the calls. Work that
raises does not end the thread; its exception is raised at the next call from outside, once. Every wait
ends: when what it waits for is reached, or when the thread made no progress for `patience` seconds.
At interpreter exit all that was put is done first; a forked child leaves its parent's work alone.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

# Long enough for one step that trains for minutes inside a single jit, short enough to end some day.
PATIENCE = 600.0
# Errors not yet handed back. A caller that never calls again must not collect them for ever.
MAX_ERRORS = 64

Item = TypeVar("Item")


class _Call:
    """Work that someone waits for: it stands in the queue between the items."""

    __slots__ = ("done", "error", "function")

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.error: BaseException | None = None
        self.done = False

    def run(self) -> None:
        """Do it, keeping what it raises for the one who waits."""
        try:
            self.function()
        except BaseException as error:
            self.error = error
        self.done = True


class Background(Generic[Item]):
    """A daemon thread behind a bounded queue.

    Args:
        work: called on the thread with each item.
        finish: called on the thread, last.
        size: how many items may wait; `put` waits for room beyond it.
        patience: seconds without progress after which a wait gives up.
    """

    def __init__(
        self,
        work: Callable[[Item], None],
        finish: Callable[[], None],
        *,
        size: int,
        patience: float = PATIENCE,
    ) -> None:
        if size < 1:
            raise ValueError(f"queue_size is {size}; it must hold at least 1 record")
        self._work = work
        self._finish = finish
        self._size = size
        self._patience = patience
        self._pid = os.getpid()
        self._queue: deque[Item | _Call] = deque()
        self._errors: deque[BaseException] = deque(maxlen=MAX_ERRORS)
        self._completed = 0
        self._last: _Call | None = None
        # Reentrant, so that a signal handler may log or flush while its own thread is inside `put`.
        lock = threading.RLock()
        self._arrived = threading.Condition(lock)
        self._progressed = threading.Condition(lock)
        self._thread = threading.Thread(target=self._run, name="sowlog-writer", daemon=True)
        self._thread.start()
        # After jax's own clean-up was registered, so it runs before it: the device still answers.
        atexit.register(self._end_at_exit)

    def put(self, item: Item) -> None:
        """Queue one item, then raise an error that the thread handed back, if there is one.

        Raises:
            RuntimeError: after `end`, or in a forked child.
            TimeoutError: if the queue was full and nothing of it was done within the patience; the
                item is not queued then.
        """
        self._require_own_process()
        with self._arrived:
            self._require_open()
            if len(self._queue) >= self._size:
                self._wait(lambda: len(self._queue) < self._size, "room in its queue")
                self._require_open()
            self._queue.append(item)
            self._arrived.notify()
            if self._errors:
                raise self._errors.popleft()

    def call(self, function: Callable[[], None]) -> None:
        """Call `function` on the thread after all that was put before, and wait for its end.

        Raises:
            BaseException: what `function` raised, or else an error handed back.
            RuntimeError: after `end`, or in a forked child.
            TimeoutError: if the thread made no progress within the patience.
        """
        self._require_own_process()
        with self._arrived:
            self._require_open()
            call = self._enqueue(function)
            self._wait_for(call)

    def end(self) -> None:
        """Do all that was put, then `finish`, then end the thread; a second call waits for the first.

        Raises:
            BaseException: what `finish` raised, or else an error handed back.
            TimeoutError: if the thread made no progress within the patience.
        """
        if os.getpid() != self._pid:
            return
        with self._arrived:
            if self._last is None:
                self._last = self._enqueue(self._finish)
            self._wait_for(self._last)
        self._thread.join(self._patience)

    def end_soon(self) -> None:
        """Let the thread end by itself when all is done; for an owner that is going away."""
        if os.getpid() != self._pid:
            return
        with self._arrived:
            if self._last is None:
                self._last = self._enqueue(self._finish)

    def _end_at_exit(self) -> None:
        """End; what this raises is shown by the interpreter and changes no exit status."""
        self.end()

    def _enqueue(self, function: Callable[[], None]) -> _Call:
        call = _Call(function)
        self._queue.append(call)
        self._arrived.notify()
        return call

    def _wait_for(self, call: _Call) -> None:
        """Wait until `call` is done and raise its error, or one that waits to be handed back."""
        self._wait(lambda: call.done, "all that was logged to be written")
        handed_back = list(self._errors)
        self._errors.clear()
        error, call.error = call.error, None
        if error is None and handed_back:
            error = handed_back.pop(0)
        if error is None:
            return
        for other in handed_back:
            error.add_note(f"Before it: {type(other).__name__}: {other}")
        raise error

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        while not reached():
            before = self._completed
            self._progressed.wait(self._patience)
            if self._completed == before and not reached():
                raise TimeoutError(
                    f"sowlog waited for {what}, and its writer thread has finished nothing for "
                    f"{self._patience:g} s, with {len(self._queue)} records queued: a device "
                    f"computation or a write to the disk hangs. The thread goes on when that does."
                )

    def _require_open(self) -> None:
        if self._last is not None:
            raise RuntimeError(
                "this Logger is closed: log and flush inside its `with` block, or make a new Logger"
            )

    def _require_own_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this Logger belongs to process {self._pid} and was carried into process {os.getpid()} by "
                f"a fork; make a new Logger in the child"
            )

    def _run(self) -> None:
        while (entry := self._take()) is not None:
            self._do(entry)
            with self._progressed:
                self._completed += 1
                self._progressed.notify_all()
        atexit.unregister(self._end_at_exit)

    def _take(self) -> Item | _Call | None:
        """Return the next entry, None after the last."""
        with self._arrived:
            while not self._queue:
                if self._last is not None:
                    return None
                self._arrived.wait()
            return self._queue.popleft()

    def _do(self, entry: Item | _Call) -> None:
        if isinstance(entry, _Call):
            entry.run()
            return
        try:
            self._work(entry)
        except BaseException as error:
            self._errors.append(error)
