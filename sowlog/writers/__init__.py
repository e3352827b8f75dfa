"""Writers: where records go. Each is one short class behind write / flush / close."""

from __future__ import annotations

from typing import Protocol

from sowlog._record import Record

__all__ = ["Writer"]


class Writer(Protocol):
    """What a destination of records offers.

    All three are called from one thread, the logger's own. An exception that `write` raises reaches
    the training thread at its next call, the record counts as lost in this writer, and the writer is
    called again with the next record.
    """

    def write(self, record: Record) -> None:
        """Take one record; hold nothing back that a killed process should not lose."""
        ...

    def flush(self) -> None:
        """Return once all that was written is durable."""
        ...

    def close(self) -> None:
        """Flush and release what is held; called once, last."""
        ...
