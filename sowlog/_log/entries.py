"""Entries of a queue: items, one by one or several of one call, and calls between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar, cast

ItemT = TypeVar("ItemT")


class Call:
    """A function call in the queue, between the items, whose caller waits for its return."""

    __slots__ = ("done", "error", "function")

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.error: BaseException | None = None
        self.done = False

    def run(self) -> None:
        """Call the function, and keep its exception for the waiting caller."""
        try:
            self.function()
        except BaseException as error:
            self.error = error
        self.done = True


class Kept(Generic[ItemT]):
    """An item that is exempt from the bounds and never dropped."""

    __slots__ = ("item",)

    def __init__(self, item: ItemT) -> None:
        self.item = item


class Several(Generic[ItemT]):
    """The items of one call, each made as it is taken: they count one by one, and cost as one.

    Args:
        make: makes an item of its place.
        places: the places of the items.
    """

    __slots__ = ("__weakref__", "_make", "_places")

    def __init__(self, make: Callable[[int], ItemT], places: range) -> None:
        self._make = make
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def take(self) -> ItemT:
        """Remove the first item and return it."""
        place, self._places = self._places[0], self._places[1:]
        return self._make(place)

    def drop(self, count: int) -> None:
        """Remove the first items, but for the last one, if a signal handler has removed some of them."""
        self._places = self._places[count:] or self._places[-1:]


def size_of(entry: object) -> int:
    """Return the number of items that an entry of a queue stands for."""
    return len(entry) if isinstance(entry, Several) else 1


Entry = ItemT | Several[ItemT] | Kept[ItemT] | Call
"""The entries of a queue."""


def take_first(queue: deque[Entry[ItemT]]) -> ItemT:
    """Remove the first item of a queue, which begins with no call, and return it."""
    entry = queue[0]
    if isinstance(entry, Several):
        try:
            return entry.take()
        finally:
            if not entry:
                queue.popleft()
    queue.popleft()
    return cast(ItemT, entry.item if isinstance(entry, Kept) else entry)
