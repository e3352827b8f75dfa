"""The protocols of writers, and the errors that they raise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from sowlog.writers.record import Record


class StalledError(Exception):
    """Nothing of the record was written, and a later attempt may succeed; raised by a writer's `write`.

    The logger keeps the record, warns once, and tries again before the next record and at flush and close.
    After any other exception the record is lost.

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


class DeliveryError(RuntimeError):
    """Records that a writer took and did not deliver; raised by the `flush` or `close` of a writer.

    For a writer that takes a record at once and delivers it later, as `Spooled` does. The logger re-raises it
    as a WriterError with the same numbers.

    Attributes:
        lost: records that are never delivered.
        late: records that are kept, and delivered later.

    Example:
        >>> import sowlog, sowlog.testing
        >>> from sowlog.writers import DeliveryError
        >>> class RemoteWriter(sowlog.testing.MemoryWriter):
        ...     def close(self):
        ...         raise DeliveryError("the server has refused a record", lost=1)
        >>> log = sowlog.Logger("unused", writers=[RemoteWriter()])
        >>> try:
        ...     log.close()
        ... except sowlog.WriterError as error:
        ...     print(error.lost, "lost,", error.late, "late")
        1 lost, 0 late
    """

    def __init__(self, message: str, *, lost: int = 0, late: int = 0) -> None:
        super().__init__(message)
        self.lost = lost
        self.late = late


class Writer(Protocol):
    """A destination of records.

    All three methods are called from one thread, the writer thread of the logger. An exception of `write` is
    re-raised on the training thread at its next call, the record counts as lost in this writer, and the
    writer is called again with the next record.

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
        """Write one record, without a buffer that a killed process would lose."""
        ...

    def flush(self) -> None:
        """Return once all written records are durable."""
        ...

    def close(self) -> None:
        """Flush and release all resources; called once, last."""
        ...


@runtime_checkable
class BatchWriter(Writer, Protocol):
    """A writer for which one call with several records costs less than several calls.

    The logger calls `write_all` if several records are in its queue, as in a fast loop.

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
        """Write all records in order, or raise and write none; the logger then calls `write` with each."""
        ...


@runtime_checkable
class WarningWriter(Writer, Protocol):
    """A writer that may warn about records that it has written.

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
        """Return a warning once, or None; the next call of the logger issues it on the training thread.

        Called after each write, and after `close`.
        """
        ...
