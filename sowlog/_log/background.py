"""One daemon thread, one bounded queue, errors re-raised on the next call.

The work runs on the thread alone, in the order of the calls, and in batches: a thread that wakes for each
item works with cold caches. An exception of the work does not end the thread: the next call re-raises it,
once, or issues it if it is a Warning. Every wait ends, at its condition or after `patience` seconds without
progress. The exit of the interpreter, or of a child of multiprocessing, waits for all queued items; a forked
child leaves the queue of its parent alone.

KeyboardInterrupt may be raised at any instruction of a call: every queued item is still done, and the thread
can be ended. A signal handler may log, flush or close while no call runs on its thread, or while that call
waits. Inside of the lock a handler may log, but a wait there would never end and raises RuntimeError.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, cast

from sowlog._log import pending
from sowlog._log.entries import Call, Entry, ItemT, Kept, Several, take_first
from sowlog._log.exit_hooks import call_at_exit
from sowlog._log.pending import Bounds, OnFull
from sowlog._log.wakeup import Waiters, Wakeup

# Longer than a step that trains for minutes inside one jit, short enough to end a hang. In seconds.
PATIENCE = 600.0
# Waking the thread for each step of a fast loop costs both threads more than the work itself (150 us of CPU
# time a step instead of 40), so the thread waits this long for more items first. In seconds.
IDLE_WAIT = 0.01
# A batch makes room at its end, so a long queue has larger ones, whose write costs below 1 us for each item.
BATCH, BATCH_SHARE, MAX_BATCH = 16, 1 / 16, 64
JOIN_TIMEOUT = 1.0  # All work is done by then: the thread only leaves its context.
Pause = Callable[[], None]


class Background(Generic[ItemT]):
    """A daemon thread behind a bounded queue.

    Args:
        work: called on the thread with a batch of the queued items, at most half of `size`, and with a
            function that pauses unless a call or a filling queue is waiting. The work pops each item off the
            left end when it is done; until then the item counts as queued.
        finish: called on the thread, last.
        size: the bound of the queue, in items beside the one in work. Items with an attribute `nbytes` are
            bounded by MAX_PENDING_BYTES as well, or by one item if it is larger.
        on_full: the rule for a full queue: wait for room, drop the oldest items, or raise.
        on_drop: called for each item that is dropped for want of room.
        context: makes a context manager that is entered and left on the thread.
        patience: seconds without progress after which a wait raises TimeoutError.
        idle_wait: seconds that the thread waits for more items before it sleeps or writes.
        on_idle: called on the thread before it sleeps; returns the longest sleep in seconds, None for any.
    """

    def __init__(  # noqa: PLR0913 - the ends of a thread: its work, its bounds and its waits
        self,
        work: Callable[[deque[ItemT], Pause], None],
        finish: Callable[[], None],
        *,
        size: int,
        on_full: OnFull = "block",
        on_drop: Callable[[], None] = lambda: None,
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
        patience: float = PATIENCE,
        idle_wait: float = IDLE_WAIT,
        on_idle: Callable[[], float | None] = lambda: None,
    ) -> None:
        pending.check_bounds(size, on_full)
        self._work, self._context = work, context
        self._half = max(1, size // 2)
        self._batch_size = min(self._half, max(BATCH, int(size * BATCH_SHARE)), MAX_BATCH)
        self._patience, self._idle_wait, self._on_idle = patience, idle_wait, on_idle
        self._pid = os.getpid()
        self._queue: deque[Entry[ItemT]] = deque()
        self._batch: deque[ItemT] = deque()
        self._bounds = Bounds(self._queue, self._batch, size=size, on_full=on_full, on_drop=on_drop)
        # To be re-raised. Bounded by the number of items, as each `put` takes one.
        self._errors: deque[BaseException] = deque()
        self._abandoned: list[Call] = []
        self._completed = 0
        self._asleep = False
        self._last = Call(finish)
        self._ending = False
        # The garbage collector may end a dropped logger inside of the lock, so the lock is reentrant. It
        # guards the queue for a few instructions; every wait is outside of it.
        self._lock = threading.RLock()
        self._arrived = Wakeup()
        self._waiters = Waiters()
        self._thread = threading.Thread(target=self._run, name="sowlog-writer", daemon=True)
        self._thread.start()
        # Exit hooks run in reverse order: this one is registered after the clean-up of jax, and so runs
        # before it, while the device still answers.
        self._cancel_exit_hook = call_at_exit(self.end)

    def put(self, item: ItemT | Several[ItemT], *, is_kept: bool = False) -> None:
        """Queue one item, or several, then re-raise the next error of the thread, if there is one.

        Args:
            item: the item.
            is_kept: whether the bound is ignored, so that the item is never dropped or refused.

        Raises:
            RuntimeError: The call follows `end`, or is made in a forked child.
            QueueFullError: The queue is full and the rule is "error"; the item is not queued then.
            TimeoutError: The queue is full and the thread makes no progress within the patience; the item
                is not queued then.
        """
        pending.require_process(self._pid)
        while True:
            with self._lock:
                if is_kept or not self._bounds.is_full(item) or self._bounds.make_room(item):
                    self._append(Kept(cast(ItemT, item)) if is_kept else item)
                    break
            self._wait_for_room(item)
        if self._asleep or self._bounds.held >= self._half:
            self._arrived.set()
        if self._errors:
            self._hand_back_next()

    def check(self) -> None:
        """Raise the same errors as `put`, without an item."""
        self.require_open()
        if self._errors:
            self._hand_back_next()

    @property
    def is_open(self) -> bool:
        """Whether `put` queues an item: neither `end` nor `end_soon` was called."""
        return not self._ending

    def require_open(self) -> None:
        """Raise if `put` would refuse an item.

        Raises:
            RuntimeError: The call follows `end`, or is made in a forked child.
        """
        pending.require_process(self._pid)
        if self._ending:
            raise pending.closed_error()

    def call(self, function: Callable[[], None]) -> None:
        """Call `function` on the thread after all items queued before, and wait for its return.

        Raises:
            BaseException: `function` failed, or the thread failed earlier.
            RuntimeError: The call follows `end`, or is made in a forked child.
            TimeoutError: The thread made no progress within the patience.
        """
        pending.require_process(self._pid)
        call = Call(function)
        with self._lock:
            self._append(call)
        self._arrived.set()
        self._wait_for(call)

    def wake(self) -> None:
        """Let a sleeping thread call `on_idle`."""
        self._arrived.set()

    def end(self) -> None:
        """Do all queued items, then `finish`, then end the thread; a second call waits for the first.

        Raises:
            BaseException: `finish` failed, or the thread failed earlier.
            TimeoutError: The thread made no progress within the patience.
        """
        if os.getpid() != self._pid:
            return
        # A call that cannot wait ends nothing.
        pending.require_other_thread(self._thread)
        self.end_soon()
        self._wait_for(self._last)
        self._thread.join(JOIN_TIMEOUT)

    def end_soon(self) -> None:
        """End the thread once all queued items are done, without waiting; for an owner that is collected."""
        if os.getpid() != self._pid:
            return
        # KeyboardInterrupt may cut this call short, so the end is a flag, which a second call sets again, and
        # no entry of the queue.
        with self._lock:
            self._ending = True
        self._arrived.set()

    def _wait_for_room(self, item: ItemT | Several[ItemT]) -> None:
        try:
            self._wait(lambda: not self._bounds.is_full(item), "room in its queue")
        except TimeoutError:
            self._bounds.count_drops(item)
            raise

    def _append(self, entry: Entry[ItemT]) -> None:
        if self._ending:
            raise pending.closed_error()
        self._queue.append(entry)
        self._bounds.note(entry)

    def _wait_for(self, call: Call) -> None:
        """Wait until `call` is done, and re-raise its error or an earlier one of the thread."""
        try:
            self._wait(lambda: call.done, "all logged records to be written")
        except BaseException:
            # Ctrl-C or the timeout may hide an error of the call, so the next wait re-raises it.
            self._abandoned.append(call)
            raise
        with self._lock:
            # Calls run in order, so the abandoned ones are done as well.
            calls = dict.fromkeys((call, *self._abandoned))
            errors = [*(each.error for each in calls if each.error), *self._errors]
            call.error = None
            self._abandoned.clear()
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
        pending.require_other_thread(self._thread)
        if not self._waiters.wait(reached, self._progress, self._patience):
            raise pending.hanging_error(what, seconds=self._patience, waiting=self._bounds.held)

    def _progress(self) -> tuple[int, int]:
        # An unfinished batch wakes no waiter, but each of its items is progress.
        return self._completed, len(self._batch)

    def _run(self) -> None:
        with self._context():
            while not self._last.done:
                self._run_next()
                self._completed += 1
                self._batch.clear()
                self._waiters.wake()
        self._cancel_exit_hook()

    def _run_next(self) -> None:
        """Run the next call or the items before it; run the last call if the queue is empty and ending."""
        while not (self._queue or self._ending):
            self._wait_for_work()
        with self._lock:
            call = self._last if self._ending and not self._queue else self._take()
        run = self._run_batch if call is None else call.run
        run()

    def _take(self) -> Call | None:
        """Move the items before the next call to the batch, or pop that call and return it."""
        while self._queue and len(self._batch) < self._batch_size:
            entry = self._queue[0]
            if isinstance(entry, Call):
                return None if self._batch else cast(Call, self._queue.popleft())
            try:
                self._batch.append(take_first(self._queue))
            except BaseException as error:
                # As MemoryError, of one item: those behind it still come.
                self._errors.append(error)
        return None

    def _wait_for_work(self) -> None:
        """Wait for `idle_wait`, which a single item does not cut short; then sleep until an item comes."""
        self._idle_unless(lambda: bool(self._queue or self._ending))
        self._asleep = True
        while not (self._queue or self._ending):
            self._arrived.wait(self._idle())
        self._asleep = False

    def _idle(self) -> float | None:
        try:
            return self._on_idle()
        except BaseException as error:
            self._errors.append(error)
            return self._idle_wait

    def _pause(self) -> None:
        """Wait for `idle_wait`, unless the queue is half full or a call waits."""
        self._idle_unless(self._is_urgent)

    def _idle_unless(self, is_reached: Callable[[], bool]) -> None:
        self._arrived.reset()
        if not is_reached():
            self._arrived.wait(self._idle_wait)

    def _is_urgent(self) -> bool:
        with self._lock:
            has_call = any(isinstance(entry, Call) for entry in self._queue)
            return self._ending or has_call or self._bounds.held >= self._half

    def _run_batch(self) -> None:
        try:
            self._work(self._batch, self._pause)
        except BaseException as error:
            self._errors.append(error)
