"""A file of lines or rows, which begins anew after it was deleted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sowlog._events.appending import AppendedFile
from sowlog.writers.protocol import StalledError


class TextFile:
    """The file of a writer of text.

    Args:
        file: the open file.
        open: opens the file that replaces it.
    """

    def __init__(self, file: AppendedFile, open: Callable[[Path], AppendedFile]) -> None:
        self.path = file.path
        self._open = open
        self._file = file

    @property
    def end(self) -> int:
        """The size of the whole pieces, in bytes."""
        return self._file.end

    def append(self, text: bytes) -> None:
        """Append whole pieces in one write.

        Raises:
            OSError: The text cannot be written now; the file holds nothing of it.
            StalledError: The file was deleted, with all its pieces; a new one has begun.
        """
        if self._file.deleted:
            gone, self._file = self._file, self._open(self.path)
            gone.release()
            raise StalledError(f"{self.path} was deleted during the run; a new file replaces it")
        self._file.append(text)

    def flush(self) -> None:
        """Return once all pieces are on the disk itself.

        Raises:
            OSError: The file cannot be synced, or was deleted.
        """
        self._file.flush()

    def close(self) -> None:
        """Flush and close the file.

        Raises:
            OSError: As for `flush`; the file is closed nevertheless.
        """
        self._file.close()

    def release(self) -> None:
        """Close the file as it is."""
        self._file.release()
