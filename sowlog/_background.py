"""One thread, one bounded queue, errors handed back.

The thread owns its work: nothing else calls it. What is put is done in the order of the calls, a few items at
once: a thread that is woken for each item works with cold caches. Work that raises does not end the thread;
its exception is raised at the next call from outside, once, and a Warning is issued there. Every wait ends:
when what it waits for is reached, or when the thread made no progress for `patience` seconds. At the exit of
the interpreter, or of a child of multiprocessing, all that was put is done first; a forked child leaves its
parent's work alone.
"""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, Literal, TypeVar, cast, get_args

from sowlog._warnings import warn_user

# Long enough for one step that trains for minutes inside a single jit, short enough to end some day.
PATIENCE = 600.0
# Waking the thread for each of a fast loop's steps costs both threads more than the work itself (150 us of
# CPU time a step instead of 40), so it naps while items keep coming. In seconds.
NAP = 0.01
# Items handed over together. More gain nothing: what they make no longer fits the core's cache.
MAX_ITEMS = 16
# A signal handler that waits itself, just as a wait begins, hears what that wait would have: look now and
# then whether it is over. In seconds.
LOOK = 0.1
PARTING = 1.0
# Finalizers of multiprocessing run by falling priority. This one comes before those that close a queue (10)
# or end a pool (15), to which a user's writer may write.
EXIT_PRIORITY = 100

Item = TypeVar("Item")
Pause = Callable[[], None]
OnFull = Literal["block", "drop_oldest", "error"]


class QueueFullError(RuntimeError):
    """An item was not queued, since as many as allowed were waiting."""


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
        work: called on the thread with the items that wait, a few at once, at most half as many as may wait,
            and with a function that pauses for a moment, if nothing calls for haste. It takes each item off
            the left end once that is done: until then it counts as waiting.
        finish: called on the thread, last.
        size: how many items may wait beside the one that is being done.
        on_full: what `put` does when so many wait: wait for room, drop the oldest, or raise.
        on_drop: called for each item that is not done for want of room.
        context: makes a context manager that the thread lives in.
        patience: seconds without progress after which a wait gives up.
        nap: seconds that the thread rests while items keep coming.
    """

    def __init__(
        self,
        work: Callable[[deque[Item], Pause], None],
        finish: Callable[[], None],
        *,
        size: int,
        on_full: OnFull = "block",
        on_drop: Callable[[], None] = lambda: None,
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
        patience: float = PATIENCE,
        nap: float = NAP,
    ) -> None:
        if size < 1:
            raise ValueError(f"queue_size is {size}; it must hold at least 1 record")
        if on_full not in get_args(OnFull):
            raise ValueError(f"on_full is {on_full!r}; choose one of {', '.join(get_args(OnFull))}")
        self._work = work
        self._size = size
        self._half = max(1, size // 2)
        self._at_once = min(self._half, MAX_ITEMS)
        self._on_full = on_full
        self._on_drop = on_drop
        self._context = context
        self._patience = patience
        self._nap = nap
        self._pid = os.getpid()
        self._queue: deque[Item | _Call] = deque()
        self._in_hand: deque[Item] = deque()
        # Not yet handed back: no more than there were items to queue, as each put hands back one.
        self._errors: deque[BaseException] = deque()
        self._completed = 0
        self._asleep = False
        self._last = _Call(finish)
        self._ending = False
        # Reentrant, so that a signal handler may log or flush while its own thread is inside `put`. Entered
        # itself, never through its conditions: their `__enter__` is Python code, in which a handler that
        # raises (Ctrl-C does) would leave the lock held for good.
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._progressed = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, name="sowlog-writer", daemon=True)
        self._thread.start()
        # After jax's own clean-up was registered, so it runs before it: the device still answers.
        atexit.register(self._end_at_exit)
        self._cancel_finalizer = self._register_finalizer()

    def put(self, item: Item) -> None:
        """Queue one item, then raise an error that the thread handed back, if there is one.

        Raises:
            RuntimeError: after `end`, or in a forked child.
            QueueFullError: if the queue is full and is to raise; the item is not queued then.
            TimeoutError: if the queue was full and nothing of it was done within the patience; the
                item is not queued then.
        """
        self._require_own_process()
        with self._lock:
            if self._is_full():
                self._make_room()
            self._append(item)
            if self._asleep or len(self._queue) >= self._half:
                self._arrived.notify()
            if self._errors:
                _hand_back(self._errors.popleft())

    def check(self) -> None:
        """Raise as `put` does, with nothing to put."""
        self._require_own_process()
        with self._lock:
            if self._ending:
                raise _closed()
            if self._errors:
                _hand_back(self._errors.popleft())

    def call(self, function: Callable[[], None]) -> None:
        """Call `function` on the thread after all that was put before, and wait for its end.

        Raises:
            BaseException: what `function` raised, or else an error handed back.
            RuntimeError: after `end`, or in a forked child.
            TimeoutError: if the thread made no progress within the patience.
        """
        self._require_own_process()
        with self._lock:
            call = _Call(function)
            self._append(call)
            self._arrived.notify()
            self._wait_for(call)

    def end(self) -> None:
        """Do all that was put, then `finish`, then end the thread; a second call waits for the first.

        Raises:
            BaseException: what `finish` raised, or else an error handed back.
            TimeoutError: if the thread made no progress within the patience.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._begin_end()
            self._wait_for(self._last)
        # It has but to leave its context; only a handler that ends all in the middle of this would wait long.
        self._thread.join(PARTING)

    def end_soon(self) -> None:
        """Let the thread end by itself when all is done; for an owner that is going away."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._begin_end()

    def _begin_end(self) -> None:
        # Nothing is queued for it, so that a call which an interrupt cut short anywhere can be made again.
        self._ending = True
        self._arrived.notify()

    def _end_at_exit(self) -> None:
        """End; what this raises is shown by the interpreter and changes no exit status."""
        self.end()

    def _register_finalizer(self) -> Callable[[], None]:
        """End with the process in a child of multiprocessing; return the function that undoes it.

        Such a child leaves by `os._exit`, which runs no exit hook of the interpreter. In other processes the
        interpreter's hook is enough, and comes later.
        """
        if multiprocessing.parent_process() is None:
            return lambda: None
        finalizer = multiprocessing.util.Finalize(None, self._end_at_exit, exitpriority=EXIT_PRIORITY)
        return finalizer.cancel

    def _is_full(self) -> bool:
        return len(self._queue) + len(self._in_hand) > self._size

    def _make_room(self) -> None:
        if self._on_full == "drop_oldest":
            self._drop_oldest()
        elif self._on_full == "error":
            self._on_drop()
            raise QueueFullError(
                f"{self._size} records wait for the writers, and this one was dropped: log less often "
                f"(every=), allow more (queue_size=), or choose on_full='block' or 'drop_oldest'"
            )
        else:
            self._wait_for_room()

    def _wait_for_room(self) -> None:
        try:
            self._wait(lambda: not self._is_full(), "room in its queue")
        except TimeoutError:
            self._on_drop()
            raise

    def _drop_oldest(self) -> None:
        # A copy, as a signal handler that logs may change the queue meanwhile, and drop the very item.
        for entry in tuple(self._queue):
            if not isinstance(entry, _Call):
                try:
                    self._queue.remove(entry)
                except ValueError:
                    return
                self._on_drop()
                return

    def _append(self, entry: Item | _Call) -> None:
        # One function, in which nothing is called before the append: there, a signal handler might end all.
        if self._ending:
            raise _closed()
        self._queue.append(entry)

    def _wait_for(self, call: _Call) -> None:
        """Wait until `call` is done and raise its error, or one that waits to be handed back."""
        self._wait(lambda: call.done, "all that was logged to be written")
        errors = [*([call.error] if call.error else []), *self._errors]
        call.error = None
        self._errors.clear()
        if not errors:
            return
        # An error before a warning: only one can be raised, and the other becomes its note.
        errors.sort(key=lambda error: isinstance(error, Warning))
        for other in errors[1:]:
            errors[0].add_note(f"Before it: {type(other).__name__}: {other}")
        _hand_back(errors[0])

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        last, since = self._progress(), time.monotonic()
        while not reached():
            self._wait_for_progress()
            if self._progress() != last:
                last, since = self._progress(), time.monotonic()
            elif time.monotonic() - since >= self._patience and not reached():
                waiting = len(self._queue) + len(self._in_hand)
                raise TimeoutError(
                    f"sowlog waited for {what}, and its writer thread has finished nothing for "
                    f"{self._patience:g} s, with {waiting} records queued: a device "
                    f"computation or a write to the disk hangs. The thread goes on when that does."
                )

    def _wait_for_progress(self) -> None:
        try:
            self._progressed.wait(min(LOOK, self._patience))
        except BaseException:
            # A handler that raises just as the wait has let go of the lock leaves it free, and what it raised
            # would be hidden by the error of who gives it back.
            if not cast(Any, self._lock)._is_owned():
                self._lock.acquire()
            raise

    def _progress(self) -> tuple[int, int]:
        return self._completed, len(self._in_hand)

    def _require_own_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this Logger belongs to process {self._pid} and was carried into process {os.getpid()} by "
                f"a fork; make a new Logger in the child"
            )

    def _run(self) -> None:
        with self._context():
            while not self._last.done:
                self._take_and_do()
                with self._lock:
                    self._completed += 1
                    self._in_hand.clear()
                    self._progressed.notify_all()
        atexit.unregister(self._end_at_exit)
        self._cancel_finalizer()

    def _take_and_do(self) -> None:
        """Do the next call, or the items up to it; the last call when there is nothing more."""
        with self._lock:
            while not (self._queue or self._ending):
                self._rest()
            call = self._take() if self._queue else self._last
        if call is not None:
            call.run()
        else:
            self._work_on_items()

    def _take(self) -> _Call | None:
        """Take the next call off the queue and return it, or take the items up to it in hand."""
        while self._queue and len(self._in_hand) < self._at_once:
            entry = self._queue[0]
            if isinstance(entry, _Call):
                return None if self._in_hand else cast(_Call, self._queue.popleft())
            self._in_hand.append(entry)
            self._queue.popleft()
        return None

    def _rest(self) -> None:
        """Nap, which an ordinary item does not end; if none came by then, sleep until one comes."""
        self._arrived.wait(self._nap)
        if not (self._queue or self._ending):
            self._asleep = True
            self._arrived.wait()
            self._asleep = False

    def _pause(self) -> None:
        """Nap, unless half of what may wait does, or somebody waits."""
        with self._lock:
            is_asked_for = self._ending or any(isinstance(entry, _Call) for entry in self._queue)
            if len(self._queue) < self._half and not is_asked_for:
                self._arrived.wait(self._nap)

    def _work_on_items(self) -> None:
        try:
            self._work(self._in_hand, self._pause)
        except BaseException as error:
            self._errors.append(error)


def _closed() -> RuntimeError:
    return RuntimeError("this Logger is closed: log and flush inside its `with` block, or make a new Logger")


def _hand_back(error: BaseException) -> None:
    if not isinstance(error, Warning):
        raise error
    warn_user(error)
