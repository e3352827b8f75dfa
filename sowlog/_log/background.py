"""One thread, one bounded queue, errors handed back.

The thread owns its work: nothing else calls it. What is put is done in the order of the calls, a few items at
once: a thread that is woken for each item works with cold caches. Work that raises does not end the thread;
its exception is raised at the next call from outside, once, and a Warning is issued there. Every wait ends:
when what it waits for is reached, or when the thread made no progress for `patience` seconds. At the exit of
the interpreter, or of a child of multiprocessing, all that was put is done first; a forked child leaves its
parent's work alone.

KeyboardInterrupt may be raised at any instruction of a call: every item that was queued is done, and the
thread can be ended. A signal handler may log, flush or close while no call runs on its thread, or while that
call waits. Inside of the lock it may log; a wait there would never end, and is refused.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, cast

from sowlog._log import pending
from sowlog._log.exit_hooks import call_at_exit
from sowlog._log.pending import Bounds, Call, Item, Kept, OnFull
from sowlog._log.wakeup import Wakeup

# Long enough for one step that trains for minutes inside a single jit, short enough to end some day.
PATIENCE = 600.0
# Waking the thread for each of a fast loop's steps costs both threads more than the work itself (150 us of
# CPU time a step instead of 40), so it naps while items keep coming. In seconds.
IDLE_WAIT = 0.01
# Items handed over together. More gain nothing: what they make no longer fits the core's cache.
MAX_BATCH = 16
JOIN_TIMEOUT = 1.0

Pause = Callable[[], None]


class Background(Generic[Item]):
    """A daemon thread behind a bounded queue.

    Args:
        work: called on the thread with the items that wait, a few at once, at most half as many as may wait,
            and with a function that pauses for a moment, if nothing calls for haste. It takes each item off
            the left end once that is done: until then it counts as waiting.
        finish: called on the thread, last.
        size: how many items may wait beside the one that is being done; of those that have a `nbytes` in
            bytes, MAX_PENDING_BYTES or one may wait.
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
        idle_wait: float = IDLE_WAIT,
    ) -> None:
        pending.check_bounds(size, on_full)
        self._work = work
        self._size = size
        self._half = max(1, size // 2)
        self._batch_size = min(self._half, MAX_BATCH)
        self._on_full = on_full
        self._on_drop = on_drop
        self._context = context
        self._patience = patience
        self._idle_wait = idle_wait
        self._pid = os.getpid()
        self._queue: deque[Item | Kept[Item] | Call] = deque()
        self._batch: deque[Item] = deque()
        self._bounds = Bounds(self._queue, self._batch, size=size, on_drop=on_drop)
        # Not yet handed back: no more than there were items to queue, as each put hands back one.
        self._errors: deque[BaseException] = deque()
        self._completed = 0
        self._asleep = False
        self._last = Call(finish)
        self._ending = False
        # The garbage collector ends a dropped logger from any thread, inside of the lock as well: reentrant.
        # It guards the queue for a few instructions; every wait is outside of it.
        self._lock = threading.RLock()
        self._arrived = Wakeup()
        self._waiters: list[Wakeup] = []
        self._thread = threading.Thread(target=self._run, name="sowlog-writer", daemon=True)
        self._thread.start()
        # After jax's own clean-up was registered, so it runs before it: the device still answers.
        self._cancel_exit_hook = call_at_exit(self.end)

    def put(self, item: Item, *, is_kept: bool = False) -> None:
        """Queue one item, then raise an error that the thread handed back, if there is one.

        Args:
            item: what to queue.
            is_kept: whether it is queued and done however much waits.

        Raises:
            RuntimeError: after `end`, or in a forked child.
            QueueFullError: if the queue is full and is to raise; the item is not queued then.
            TimeoutError: if the queue was full and nothing of it was done within the patience; the
                item is not queued then.
        """
        self._require_own_process()
        while not self._try_put(item, is_kept=is_kept):
            self._wait_for_room(item)

    def _try_put(self, item: Item, *, is_kept: bool) -> bool:
        """Queue one item, or return False if it has to wait for room."""
        with self._lock:
            if not is_kept and self._bounds.is_full(item) and not self._make_room(item):
                return False
            self._append(Kept(item) if is_kept else item)
            if self._asleep or len(self._queue) >= self._half:
                self._arrived.set()
        if self._errors:
            self._hand_back_next()
        return True

    def check(self) -> None:
        """Raise as `put` does, with nothing to put."""
        self.require_open()
        if self._errors:
            self._hand_back_next()

    @property
    def is_open(self) -> bool:
        """Whether `put` queues an item: neither `end` nor `end_soon` was called."""
        return not self._ending

    def require_open(self) -> None:
        """Raise where `put` would queue nothing.

        Raises:
            RuntimeError: after `end`, or in a forked child.
        """
        self._require_own_process()
        if self._ending:
            raise pending.closed_error()

    def call(self, function: Callable[[], None]) -> None:
        """Call `function` on the thread after all that was put before, and wait for its end.

        Raises:
            BaseException: what `function` raised, or else an error handed back.
            RuntimeError: after `end`, or in a forked child.
            TimeoutError: if the thread made no progress within the patience.
        """
        self._require_own_process()
        call = Call(function)
        with self._lock:
            self._append(call)
        self._arrived.set()
        self._wait_for(call)

    def end(self) -> None:
        """Do all that was put, then `finish`, then end the thread; a second call waits for the first.

        Raises:
            BaseException: what `finish` raised, or else an error handed back.
            TimeoutError: if the thread made no progress within the patience.
        """
        if os.getpid() != self._pid:
            return
        self.end_soon()
        self._wait_for(self._last)
        # It has but to leave its context; only a handler that ends all in the middle of this would wait long.
        self._thread.join(JOIN_TIMEOUT)

    def end_soon(self) -> None:
        """Let the thread end by itself when all is done; for an owner that is going away."""
        if os.getpid() != self._pid:
            return
        # The end is no entry of the queue: a call that KeyboardInterrupt cut short can be made again.
        with self._lock:
            self._ending = True
        self._arrived.set()

    def _make_room(self, item: Item) -> bool:
        """Make room as the rule says, or return False if the item has to wait for it."""
        if self._on_full == "error":
            self._on_drop()
            raise pending.queue_full_error(self._size, exceeds_bytes=self._bounds.exceeds_bytes(item))
        if self._on_full == "drop_oldest":
            self._bounds.drop_oldest(item)
            return True
        return False

    def _wait_for_room(self, item: Item) -> None:
        try:
            self._wait(lambda: not self._bounds.is_full(item), "room in its queue")
        except TimeoutError:
            self._on_drop()
            raise

    def _append(self, entry: Item | Kept[Item] | Call) -> None:
        if self._ending:
            raise pending.closed_error()
        self._queue.append(entry)

    def _wait_for(self, call: Call) -> None:
        """Wait until `call` is done and raise its error, or one that waits to be handed back."""
        self._wait(lambda: call.done, "all that was logged to be written")
        with self._lock:
            errors = [*([call.error] if call.error else []), *self._errors]
            call.error = None
            self._errors.clear()
        if errors:
            pending.hand_back_all(errors)

    def _hand_back_next(self) -> None:
        with self._lock:
            error = self._errors.popleft() if self._errors else None
        if error is not None:
            pending.hand_back(error)

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        if cast(Any, self._lock)._is_owned():
            raise pending.interrupted_error()
        progressed = Wakeup()
        self._waiters.append(progressed)
        try:
            while not reached():
                before = self._progress()
                # A batch that is not finished wakes no waiting thread, but counts as progress.
                if not progressed.wait(self._patience) and self._progress() == before and not reached():
                    waiting = len(self._queue) + len(self._batch)
                    raise pending.hanging_error(what, seconds=self._patience, waiting=waiting)
        finally:
            self._waiters.remove(progressed)

    def _progress(self) -> tuple[int, int]:
        return self._completed, len(self._batch)

    def _require_own_process(self) -> None:
        if os.getpid() != self._pid:
            raise pending.forked_error(self._pid)

    def _run(self) -> None:
        with self._context():
            while not self._last.done:
                self._run_next()
                self._completed += 1
                self._batch.clear()
                for progressed in tuple(self._waiters):
                    progressed.set()
        self._cancel_exit_hook()

    def _run_next(self) -> None:
        """Do the next call, or the items up to it; the last call when there is nothing more."""
        while not (self._queue or self._ending):
            self._wait_for_work()
        with self._lock:
            call = self._last if self._ending and not self._queue else self._take()
        if call is not None:
            call.run()
        else:
            self._run_batch()

    def _take(self) -> Call | None:
        """Take the next call off the queue and return it, or take the items up to it in hand."""
        while self._queue and len(self._batch) < self._batch_size:
            entry = self._queue[0]
            if isinstance(entry, Call):
                return None if self._batch else cast(Call, self._queue.popleft())
            self._batch.append(cast(Item, entry.item if isinstance(entry, Kept) else entry))
            self._queue.popleft()
        return None

    def _wait_for_work(self) -> None:
        """Nap, which an ordinary item does not end; if none came by then, sleep until one comes."""
        self._idle_unless(lambda: bool(self._queue or self._ending))
        self._asleep = True
        if not (self._queue or self._ending):
            self._arrived.wait()
        self._asleep = False

    def _pause(self) -> None:
        """Nap, unless half of what may wait does, or somebody waits."""
        self._idle_unless(self._is_urgent)

    def _idle_unless(self, is_reached: Callable[[], bool]) -> None:
        self._arrived.reset()
        if not is_reached():
            self._arrived.wait(self._idle_wait)

    def _is_urgent(self) -> bool:
        with self._lock:
            has_call = any(isinstance(entry, Call) for entry in self._queue)
            return self._ending or has_call or len(self._queue) >= self._half

    def _run_batch(self) -> None:
        try:
            self._work(self._batch, self._pause)
        except BaseException as error:
            self._errors.append(error)
