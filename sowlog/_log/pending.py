"""What waits for the logger's thread: items, calls, and the rules that bound them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, TypeVar, cast, get_args

from sowlog.writers._arguments import check_count
from sowlog.writers._warnings import warn_user

Item = TypeVar("Item")
OnFull = Literal["block", "drop_oldest", "error"]


# Bytes that may wait: of images, a queue of a thousand could hold gigabytes.
MAX_PENDING_BYTES = 1 << 25


class QueueFullError(RuntimeError):
    """An item was not queued, since as many as allowed were waiting.

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
    """Check what bounds a queue.

    Raises:
        TypeError: if the size is no integer.
        ValueError: for a size or a rule out of range.
    """
    check_count(size, "queue_size", "it must hold at least 1 record")
    if on_full not in get_args(OnFull):
        raise ValueError(f"on_full is {on_full!r}; choose one of {', '.join(get_args(OnFull))}.")


class Call:
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


class Kept(Generic[Item]):
    """An item that is done however much waits."""

    __slots__ = ("item",)

    def __init__(self, item: Item) -> None:
        self.item = item


def _bytes_of(item: Any) -> int:
    """Return the bytes that an item holds while it waits; 0 for one that only counts."""
    return getattr(item, "nbytes", 0)


class Bounds(Generic[Item]):
    """How much may wait: items by number, and those that hold many bytes by their weight too.

    Args:
        queue: what waits.
        batch: the items that are being done, which count as waiting.
        size: how many items may wait beside the one that is being done.
        on_drop: called for each item that is dropped.
    """

    def __init__(
        self,
        queue: deque[Item | Kept[Item] | Call],
        batch: deque[Item],
        *,
        size: int,
        on_drop: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._batch = batch
        self._size = size
        self._on_drop = on_drop

    def is_full(self, item: Item) -> bool:
        """Return whether there is no room for an item."""
        return len(self._queue) + len(self._batch) > self._size or self.exceeds_bytes(item)

    def exceeds_bytes(self, item: Item) -> bool:
        """Return whether an item that holds many bytes has to wait for others of its kind."""
        size = _bytes_of(item)
        held = size and sum(map(_bytes_of, (*self._droppable(), *self._batch)))
        return held > 0 and held + size > MAX_PENDING_BYTES

    def drop_oldest(self, item: Item) -> None:
        """Drop the oldest items until there is room for a new one, as far as there are any."""
        if len(self._queue) + len(self._batch) > self._size:
            self._drop_first(lambda _: True)
        while self.exceeds_bytes(item) and self._drop_first(lambda old: _bytes_of(old) > 0):
            pass

    def _drop_first(self, is_chosen: Callable[[Item], bool]) -> bool:
        """Drop the first item that is chosen; return whether there was one."""
        for index, entry in enumerate(self._queue):
            if not isinstance(entry, Kept | Call) and is_chosen(cast(Item, entry)):
                # Counted first: KeyboardInterrupt between the two may hide no loss.
                self._on_drop()
                del self._queue[index]
                return True
        return False

    def _droppable(self) -> Iterator[Item]:
        """Yield the items that may be dropped, of a copy of the queue."""
        for entry in tuple(self._queue):
            if not isinstance(entry, Kept | Call):
                yield cast(Item, entry)


def queue_full_error(size: int, *, exceeds_bytes: bool) -> QueueFullError:
    """Return the error for an item that finds no room."""
    queued, remedy = f"{size} records wait", "log less often (every=), allow more (queue_size=)"
    if exceeds_bytes:
        queued, remedy = f"images of {MAX_PENDING_BYTES >> 20} MiB wait", "log fewer or smaller images"
    return QueueFullError(
        f"{queued} for the writers, and this one was dropped: {remedy}, or choose on_full='block' or "
        f"'drop_oldest'."
    )


def closed_error() -> RuntimeError:
    """Return the error for what is put after the end."""
    return RuntimeError("this Logger is closed: log and flush inside its `with` block, or make a new Logger.")


def forked_error(pid: int) -> RuntimeError:
    """Return the error for what is put in a forked child of the process that has the thread."""
    return RuntimeError(
        f"this Logger belongs to process {pid} and was carried into process {os.getpid()} by a fork; make a "
        f"new Logger in the child."
    )


def interrupted_error() -> RuntimeError:
    """Return the error for a signal handler whose wait would never end."""
    return RuntimeError(
        "a signal handler waits for this Logger inside of the call that it has interrupted, which would "
        "never end: set a flag in the handler, and flush or close in the training loop."
    )


def hanging_error(what: str, *, seconds: float, waiting: int) -> TimeoutError:
    """Return the error for a wait in which the thread made no progress."""
    return TimeoutError(
        f"sowlog waited for {what}, and its writer thread has finished nothing for {seconds:g} s, with "
        f"{waiting} records queued: a device computation or a write to the disk hangs. The thread goes on "
        f"when that does."
    )


def hand_back(error: BaseException) -> None:
    """Raise what the thread has handed back, or issue it if it is a warning."""
    if not isinstance(error, Warning):
        raise error
    warn_user(error)


def hand_back_all(errors: list[BaseException]) -> None:
    """Raise the first of the errors, an error before a warning; the others become its notes."""
    errors.sort(key=lambda error: isinstance(error, Warning))
    for other in errors[1:]:
        errors[0].add_note(f"Before it: {type(other).__name__}: {other}")
    hand_back(errors[0])
