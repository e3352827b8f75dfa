"""A bounded cache by the identity of its keys, such as the tuple of tags that the steps of a layout share."""

from collections.abc import Callable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")

SIZE = 64
"""Training, evaluation and some sets of absent values alternate; a full cache is cleared."""


class ByIdentity(Generic[KeyT, ValueT]):
    """Values by the identity of their keys: the hash of a thousand tags takes 10 us at each step.

    Example:
        >>> tags = ("loss", "accuracy")
        >>> known = ByIdentity[tuple[str, ...], int]()
        >>> known.find(tags, len), tags in known, tags[:1] in known
        (2, True, False)
    """

    def __init__(self) -> None:
        # A reference to each key keeps its id from being reused.
        self._known: dict[int, tuple[KeyT, ValueT]] = {}

    def find(self, key: KeyT, make: Callable[[KeyT], ValueT]) -> ValueT:
        """Return the value of a key, which is made if it is not known."""
        known = self._known.get(id(key))
        if known is None:
            self[key] = value = make(key)
            return value
        return known[1]

    def __setitem__(self, key: KeyT, value: ValueT) -> None:
        if len(self._known) >= SIZE:
            self._known.clear()
        self._known[id(key)] = key, value

    def __contains__(self, key: KeyT) -> bool:
        return id(key) in self._known

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Forget all values."""
        self._known.clear()
