"""What a destination of records offers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from sowlog.writers.record import Record


class StalledError(Exception):
    """Raised by a writer's `write` when nothing of the record was written and a later try may succeed.

    The logger keeps the record, warns once, and tries again before the next record and at flush and close.
    Any other exception means that the record is lost.
    """


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


@runtime_checkable
class BatchWriter(Writer, Protocol):
    """A writer that takes several records at less cost than one by one, as they come when steps are short."""

    def write_all(self, records: Iterable[Record]) -> None:
        """Take the records in order: all of them, or none if it raises, and then each comes by `write`."""
        ...


@runtime_checkable
class WarningWriter(Writer, Protocol):
    """A writer that may have something to say of a record that it has written."""

    def take_warning(self) -> Warning | None:
        """Return the warning to issue where the training thread calls the logger next, once; or None.

        Asked for after each write, and after `close`.
        """
        ...
