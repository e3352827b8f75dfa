"""The start of each call of a logger beside metrics: its step and its tags, then its arrays, are queued."""

from __future__ import annotations

from collections.abc import Iterable

import jax

from sowlog._log.background import Background
from sowlog._log.item import Item, start_copy
from sowlog._log.kinds import Kind, TagKinds


class Calls:
    """Queues the calls of a logger.

    Args:
        every: log only the steps that are a multiple of it.
        kinds: the kind of each tag.
        background: the queue, and the thread that empties it.
    """

    def __init__(self, every: int, kinds: TagKinds, background: Background[Item]) -> None:
        self._every, self._kinds, self._background = every, kinds, background

    def _admit(self, step: int, kind: Kind, tags: Iterable[str]) -> bool:
        """Note the kind of the tags; return whether the step is logged."""
        self._kinds.note(kind, tags)
        if step % self._every:
            self._background.check()
            return False
        return True

    def _queue(self, item: Item) -> None:
        """Start the copies off the device and queue an item."""
        for array in item.arrays:
            if isinstance(array, jax.Array):
                start_copy(array)
        self._background.put(item)
