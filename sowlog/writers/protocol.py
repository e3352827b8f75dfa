"""What a destination of records offers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from sowlog.writers.record import Record


class StalledError(Exception):
    """Raised by a writer's `write` when nothing of the record was written and a later try may succeed.

    The logger keeps the record, warns once, and tries again before the next record and at flush and close.
    Any other exception means that the record is lost.

    Example:
        >>> import warnings, sowlog, sowlog.testing
        >>> from sowlog.writers import StalledError
        >>> class RemoteWriter(sowlog.testing.MemoryWriter):
        ...     online = False
        ...     def write(self, record):
        ...         if not self.online:
        ...             raise StalledError("the server does not answer")
        ...         super().write(record)
        >>> writer = RemoteWriter()
        >>> log = sowlog.Logger("unused", writers=[writer])
        >>> log(0, {"loss": 1.0})
        >>> log.flush()
        Traceback (most recent call last):
            ...
        sowlog.WriterError: RemoteWriter could not write 1 record yet, at steps 0 to 0: the server ...
        >>> writer.online = True
        >>> log.close()
        >>> writer.records
        [<Record at step 0: loss=1>]
    """


class Writer(Protocol):
    """What a destination of records offers.

    All three are called from one thread, the logger's own. An exception that `write` raises reaches
    the training thread at its next call, the record counts as lost in this writer, and the writer is
    called again with the next record.

    Example:
        >>> import sowlog
        >>> class PrintWriter:
        ...     def write(self, record):
        ...         print(record.step, dict(zip(record.tags, record.values.tolist())))
        ...     def flush(self):
        ...         pass
        ...     def close(self):
        ...         print("closed")
        >>> writer: sowlog.writers.Writer = PrintWriter()
        >>> with sowlog.Logger("unused", writers=[writer]) as log:
        ...     log(7, {"loss": 0.5})
        7 {'loss': 0.5}
        closed
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
    """A writer that takes several records at less cost than one by one, as they come when steps are short.

    Example:
        >>> import sowlog, sowlog.testing
        >>> class TableWriter(sowlog.testing.MemoryWriter):
        ...     def write_all(self, records):
        ...         self.records.extend(records)  # in one transaction, of a database
        >>> writer = TableWriter()
        >>> isinstance(writer, sowlog.writers.BatchWriter)
        True
        >>> with sowlog.Logger("unused", writers=[writer]) as log:
        ...     for step in range(3):
        ...         log(step, {"loss": 1.0})
        >>> [record.step for record in writer.records]
        [0, 1, 2]
    """

    def write_all(self, records: Iterable[Record]) -> None:
        """Take the records in order: all of them, or none if it raises, and then each comes by `write`."""
        ...


@runtime_checkable
class WarningWriter(Writer, Protocol):
    """A writer that may have something to say of a record that it has written.

    Example:
        >>> import warnings, sowlog, sowlog.testing
        >>> class WatchingWriter(sowlog.testing.MemoryWriter):
        ...     warning = None
        ...     def write(self, record):
        ...         if not all(record.values < 10):
        ...             self.warning = RuntimeWarning(f"a large value at step {record.step}")
        ...     def take_warning(self):
        ...         warning, self.warning = self.warning, None
        ...         return warning
        >>> with warnings.catch_warnings(record=True) as issued:
        ...     warnings.simplefilter("always")
        ...     with sowlog.Logger("unused", writers=[WatchingWriter()]) as log:
        ...         log(3, {"loss": 50.0})
        >>> issued[0].message
        RuntimeWarning('a large value at step 3')
    """

    def take_warning(self) -> Warning | None:
        """Return the warning to issue where the training thread calls the logger next, once; or None.

        Asked for after each write, and after `close`.
        """
        ...
