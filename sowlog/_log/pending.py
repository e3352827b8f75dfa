"""What waits for the logger's thread: items, calls, and the rules that bound them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, TypeVar, cast, get_args

from sowlog.writers._arguments import check_count
from sowlog.writers._warnings import warn_user

Item = TypeVar("Item")
OnFull = Literal["block", "drop_oldest", "error"]


# Bytes that may wait: of images, a queue of a thousand could hold gigabytes.
MAX_WEIGHT = 1 << 25


class QueueFullError(RuntimeError):
    """An item was not queued, since as many as allowed were waiting."""


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


def droppable(queue: deque[Item | Kept[Item] | Call]) -> Iterator[Item]:
    """Yield the items that may be dropped, of a copy of the queue."""
    for entry in tuple(queue):
        if not isinstance(entry, Kept | Call):
            yield cast(Item, entry)


def weight_of(item: Any) -> int:
    """Return the bytes that an item holds while it waits; 0 for one that only counts."""
    return getattr(item, "weight", 0)


def queue_full(size: int, *, is_too_heavy: bool) -> QueueFullError:
    """Return the error for an item that finds no room."""
    what, remedy = f"{size} records", "log less often (every=), allow more (queue_size=)"
    if is_too_heavy:
        what, remedy = f"images of {MAX_WEIGHT >> 20} MiB", "log fewer or smaller images"
    return QueueFullError(
        f"{what} wait for the writers, and this one was dropped: {remedy}, or choose on_full='block' or "
        f"'drop_oldest'."
    )


def closed() -> RuntimeError:
    """Return the error for what is put after the end."""
    return RuntimeError("this Logger is closed: log and flush inside its `with` block, or make a new Logger.")


def hand_back(error: BaseException) -> None:
    """Raise what the thread has handed back, or issue it if it is a warning."""
    if not isinstance(error, Warning):
        raise error
    warn_user(error)
