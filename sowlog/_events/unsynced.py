"""The bytes of a file that may not be on the disk yet."""

from __future__ import annotations

from typing import final


@final
class Unsynced:
    """Bytes that were written since the last sync, to be written again if the next one fails.

    A sync keeps the memory: in new memory the system clears each page, which costs as much as the copy.
    """

    def __init__(self) -> None:
        self._memory, self._size = bytearray(), 0

    def __len__(self) -> int:
        return self._size

    def add(self, content: bytes | bytearray | memoryview) -> None:
        """Add bytes at the end."""
        start, self._size = self._size, self._size + len(content)
        if len(self._memory) < self._size:
            self._memory.extend(bytes(self._size - len(self._memory)))
        with memoryview(self._memory) as memory:
            memory[start : self._size] = content

    def content(self) -> bytes:
        """Return the bytes."""
        return bytes(memoryview(self._memory)[: self._size])

    def clear(self) -> None:
        """Forget the bytes."""
        self._size = 0
