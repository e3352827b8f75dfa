"""Pending work of the logger's thread: its bounds, and the errors of a full queue."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Literal, cast, get_args

from sowlog._log.entries import Call, Entry, ItemT, Kept, Several, size_of
from sowlog.writers._arguments import check_count
from sowlog.writers._warnings import warn_user

OnFull = Literal["block", "drop_oldest", "error"]


# A queue of a thousand images could hold gigabytes, so images and texts are bounded by bytes as well.
MAX_PENDING_BYTES = 1 << 25


class QueueFullError(RuntimeError):
    """A step was dropped because the queue is full and `on_full` is "error".

    Example:
        >>> import threading, warnings, sowlog, sowlog.testing
        >>> class SlowWriter(sowlog.testing.MemoryWriter):
        ...     def write(self, record):
        ...         disk_is_ready.wait()
        >>> disk_is_ready = threading.Event()
        >>> log = sowlog.Logger("unused", writers=[SlowWriter()], queue_size=2, on_full="error")
        >>> for step in range(4):
        ...     log(step, {"loss": 1.0})
        Traceback (most recent call last):
            ...
        sowlog.QueueFullError: 2 records wait for the writers, ...
        >>> disk_is_ready.set()
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", sowlog.LossWarning)
        ...     log.close()
    """


def check_bounds(size: int, on_full: OnFull) -> None:
    """Check the size of a queue and its rule for a full one.

    Raises:
        TypeError: The size is not an integer.
        ValueError: The size is below 1, or the rule is unknown.
    """
    check_count(size, "queue_size", "it must hold at least 1 record")
    if on_full not in get_args(OnFull):
        raise ValueError(f"on_full is {on_full!r}; choose one of {', '.join(get_args(OnFull))}.")


def _bytes_of(item: Any) -> int:
    """Return the bytes that a queued item holds; 0 for an item bounded by number only."""
    return getattr(item, "nbytes", 0)


class Bounds(Generic[ItemT]):
    """The bounds of a queue: the number of items, and the bytes of those that hold many.

    Args:
        queue: the queue.
        batch: the items in work, which count as queued.
        size: the largest number of queued items, beside the one in work.
        on_full: the rule for a full queue.
        on_drop: called for each item that is dropped or refused.
    """

    def __init__(
        self,
        queue: deque[Entry[ItemT]],
        batch: deque[ItemT],
        *,
        size: int,
        on_full: OnFull,
        on_drop: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._batch = batch
        self._size = size
        self._on_full = on_full
        self._on_drop = on_drop
        # Beside the queue, so that a count reads no long queue; the device arrays of an entry go with it.
        self._several: deque[weakref.ref[Several[ItemT]]] = deque()

    def note(self, entry: Entry[ItemT]) -> None:
        """Count the items of a queued entry; without this call, after KeyboardInterrupt, it counts as one."""
        if not self._several and not isinstance(entry, Several):
            return
        while self._several and not self._several[0]():
            self._several.popleft()
        if isinstance(entry, Several):
            self._several.append(weakref.ref(entry))

    @property
    def held(self) -> int:
        """The number of queued items, with those in work."""
        entries = len(self._queue) + len(self._batch)
        return entries + self._further() if self._several else entries

    def _further(self) -> int:
        """Return the number of items of entries beyond one for each."""
        # Copied at once, since another thread may queue.
        return sum(len(each) - 1 for known in tuple(self._several) if (each := known()))

    def is_full(self, item: ItemT | Several[ItemT]) -> bool:
        """Return whether the queue has no room for an item; several have room where one has."""
        size = _bytes_of(item)
        return self.held > self._size or (size > 0 and self._exceeds_bytes(size))

    def count_drops(self, item: ItemT | Several[ItemT]) -> None:
        """Count an item, or several, as dropped."""
        for _ in range(size_of(item)):
            self._on_drop()

    def make_room(self, item: ItemT | Several[ItemT]) -> bool:
        """Apply the rule for a full queue; return False if the item has to wait for room.

        Raises:
            QueueFullError: The queue is full and the rule is "error".
        """
        if self._on_full == "error":
            self.count_drops(item)
            raise self._full_error(item)
        if self._on_full == "drop_oldest":
            self._drop_oldest(item)
            return True
        return False

    def _exceeds_bytes(self, size: int) -> bool:
        """Return whether so many bytes and the queued ones are more than the bound; one item never is."""
        held = size and sum(map(_bytes_of, (*self._droppable(), *self._batch)))
        return held > 0 and held + size > MAX_PENDING_BYTES

    def _drop_oldest(self, item: ItemT | Several[ItemT]) -> None:
        """Drop the oldest items that may be dropped, until there is room for a new one."""
        if self.held > self._size:
            exempt = sum(isinstance(entry, Kept | Call) for entry in tuple(self._queue))
            excess = max(1, self.held - exempt - self._size)
            while excess > 0 and (dropped := self._drop_first(lambda _: True, excess)):
                excess -= dropped
        while self._exceeds_bytes(_bytes_of(item)) and self._drop_first(lambda old: _bytes_of(old) > 0, 1):
            pass

    def _drop_first(self, is_chosen: Callable[[ItemT | Several[ItemT]], bool], most: int) -> int:
        """Drop the first item that is chosen, of several at most so many; return their number, 0 for none."""
        # A signal handler may log at any place of the loop, so that it goes over a copy.
        for index, entry in enumerate(tuple(self._queue)):
            if isinstance(entry, Kept | Call) or not is_chosen(cast(Any, entry)):
                continue
            # KeyboardInterrupt between the count and the drop must not hide a loss, so the count comes first.
            if isinstance(entry, Several) and most < len(entry):
                for _ in range(most):
                    self._on_drop()
                entry.drop(most)
                return most
            dropped = size_of(entry)
            self.count_drops(cast(Any, entry))
            # The handler may have dropped it.
            if index < len(self._queue) and self._queue[index] is entry:
                del self._queue[index]
            return dropped
        return 0

    def _droppable(self) -> Iterator[ItemT | Several[ItemT]]:
        """Yield the items that may be dropped, from a copy of the queue."""
        for entry in tuple(self._queue):
            if not isinstance(entry, Kept | Call):
                yield cast(Any, entry)

    def _full_error(self, item: ItemT | Several[ItemT]) -> QueueFullError:
        """Return the error for an item that the full queue refuses."""
        queued, remedy = f"{self._size} records wait", "log less often (every=), allow more (queue_size=)"
        if self._exceeds_bytes(_bytes_of(item)):
            queued = f"images and texts of {MAX_PENDING_BYTES >> 20} MiB wait"
            remedy = "log fewer or smaller ones"
        return QueueFullError(
            f"{queued} for the writers, and this one was dropped: {remedy}, or choose on_full='block' or "
            f"'drop_oldest'."
        )


def closed_error() -> RuntimeError:
    """Return the error for a call after the end."""
    return RuntimeError("this Logger is closed: log and flush inside its `with` block, or make a new Logger.")


class _Process:
    """This process: to ask the system for its number at each `log` would cost as much as the lock."""

    number = os.getpid()

    @classmethod
    def note_fork(cls) -> None:
        cls.number = os.getpid()


os.register_at_fork(after_in_child=_Process.note_fork)


def require_process(pid: int) -> None:
    """Raise in a forked child, which has no writer thread.

    Raises:
        RuntimeError: This process is not the one of that number.
    """
    if _Process.number != pid:
        raise RuntimeError(
            f"this Logger belongs to process {pid} and was copied into process {_Process.number} by a fork: "
            f"make a new Logger in the child."
        )


def interrupted_error() -> RuntimeError:
    """Return the error for a signal handler whose wait would never end."""
    return RuntimeError(
        "a signal handler has interrupted a call of this Logger and waits for the same Logger, a wait that "
        "would never end: set a flag in the handler, and flush or close in the training loop."
    )


def require_other_thread(thread: threading.Thread) -> None:
    """Raise on the thread that a wait is for.

    Raises:
        RuntimeError: This thread is the one.
    """
    if threading.current_thread() is thread:
        raise RuntimeError(
            "a callback of an alert or of on_nonfinite runs on the thread that writes the records, as do "
            "writers, so its wait for them would never end: set a flag in the callback, and flush or close "
            "in the training loop."
        )


def hanging_error(what: str, *, seconds: float, waiting: int) -> TimeoutError:
    """Return the error for a wait during which the thread made no progress."""
    return TimeoutError(
        f"sowlog waited for {what}, and its writer thread has finished nothing for {seconds:g} s, with "
        f"{waiting} records queued: a device computation or a write to the disk hangs. The thread continues "
        f"as soon as the computation or the write returns."
    )


class SeveralWarningsError(Exception):
    """The warnings of one call of the thread, raised there and issued one by one in the other.

    Attributes:
        warnings: the warnings.
    """

    def __init__(self, warnings: Sequence[Warning]) -> None:
        super().__init__(*map(str, warnings))
        self.warnings = tuple(warnings)


def hand_back(error: BaseException) -> None:
    """Raise an error of the thread, or issue it if it is a warning or several."""
    hand_back_all([error])


def hand_back_all(raised: Sequence[BaseException]) -> None:
    """Raise the first error, with the others and the warnings as its notes; else issue all warnings."""
    several = [one.warnings if isinstance(one, SeveralWarningsError) else (one,) for one in raised]
    flat = list(itertools.chain.from_iterable(several))
    errors = [error for error in flat if not isinstance(error, Warning)]
    warnings = [error for error in flat if isinstance(error, Warning)]
    for other in [*errors[1:], *warnings] if errors else []:
        errors[0].add_note(f"Before it: {type(other).__name__}: {other}")
    if errors:
        raise errors[0]
    for warning in warnings:
        warn_user(warning)
