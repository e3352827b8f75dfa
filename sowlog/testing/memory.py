"""A writer for tests."""

from __future__ import annotations

from sowlog.writers.record import Record


class MemoryWriter:
    """A writer that keeps the records in a list, for tests.

    Attributes:
        records: all records, in order. Read them after `log.flush()`.
        closed: whether `close` was called.

    Example:
        >>> import sowlog, sowlog.testing
        >>> memory = sowlog.testing.MemoryWriter()
        >>> with sowlog.Logger("unused", writers=[memory]) as log:
        ...     log(7, {"loss": 0.5})
        >>> [(record.step, record.tags, record.values.tolist()) for record in memory.records]
        [(7, ('loss',), [0.5])]
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.closed = False

    def write(self, record: Record) -> None:
        """Keep one record.

        Raises:
            RuntimeError: The writer is closed.
        """
        if self.closed:
            raise RuntimeError(f"step {record.step} was written after close.")
        self.records.append(record)

    def flush(self) -> None:
        """Do nothing: the list holds each record at once."""

    def close(self) -> None:
        """Refuse further records."""
        self.closed = True
