"""A writer in a thread of its own, behind a bounded file: the outage of a server costs no record."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from os import PathLike

from sowlog._printable import describe_cause
from sowlog.writers._arguments import check_count, check_path, check_timeout, check_writer
from sowlog.writers._forwarding import Forwarder
from sowlog.writers._record_bytes import RecordEncoder
from sowlog.writers._spool import Spool
from sowlog.writers.protocol import DeliveryError, StalledError, Writer
from sowlog.writers.record import Record

_MAX_BYTES = 1 << 30
_TIMEOUT, _CLOSE_TIMEOUT = 10.0, 60.0


class Spooled:
    """Forwards records to another writer, from a thread of its own and through a bounded file.

    For a writer that waits for a network or a database: neither the other writers nor the training wait for
    it. `write` appends to the file, and the thread forwards the records in order. While the other writer
    raises StalledError, the records stay in the file and are tried again, after 1 s and then less often, up
    to 60 s. After a kill the next process that uses the file forwards the records that are left in it.

    Each record is forwarded once, but for two cases: the process is killed between the write and its note in
    the file, or the answer of the server is lost. The record is then forwarded again. `Mlflow` ignores points
    that it has, so it has each exactly once.

    Args:
        writer: the other writer. All its methods are called from the thread alone.
        path: the file, for this writer of this run alone; created if it does not exist, and removed by
            `close` once all records are forwarded.
        max_bytes: the bound of the records that wait in the file. Beyond it a new record is lost, which
            `write` raises; hyperparameters and a layout are kept nevertheless.
        timeout: seconds for which `flush` waits for the other writer.
        close_timeout: seconds for which `close` waits, as a service may upload the rest of a run.

    Raises:
        BlockingIOError: Another writer has the file.
        OSError: The file cannot be opened.
        TypeError: `writer` is not a writer, or a number has another type.
        ValueError: A number is out of range, or the file is another program's.

    Example:
        >>> import tempfile, sowlog, sowlog.testing
        >>> from sowlog.writers import Spooled, TensorBoard
        >>> logdir = tempfile.mkdtemp()
        >>> memory = sowlog.testing.MemoryWriter()
        >>> writers = [TensorBoard(logdir), Spooled(memory, f"{logdir}/memory.spool")]
        >>> with sowlog.Logger(logdir, writers=writers) as log:
        ...     for step in range(3):
        ...         log(step, {"loss": 0.5})
        >>> [record.step for record in memory.records]
        [0, 1, 2]
    """

    def __init__(
        self,
        writer: Writer,
        path: str | PathLike[str],
        *,
        max_bytes: int = _MAX_BYTES,
        timeout: float = _TIMEOUT,
        close_timeout: float = _CLOSE_TIMEOUT,
    ) -> None:
        check_writer(writer)
        self._max_bytes = check_count(max_bytes, "max_bytes", "the file must hold 1 byte or more")
        self._timeout = check_timeout("timeout", timeout)
        self._close_timeout = check_timeout("close_timeout", close_timeout)
        self._writer, self._name = writer, type(writer).__name__
        self._path = check_path(path)
        self._forwarder = Forwarder(writer, Spool(self._path))
        # The thread has no reference to this object, so it may be collected without a close.
        self._abandonment = weakref.finalize(self, self._forwarder.abandon)
        self._abandonment.atexit = False
        self._encoder = RecordEncoder()

    def write(self, record: Record) -> None:
        """Append a record to the file.

        Raises:
            RuntimeError: The file is full; the record is lost.
            StalledError: The file cannot be written now.
        """
        self.write_all([record])

    def write_all(self, records: Iterable[Record]) -> None:
        """Append all records to the file, or none.

        Raises:
            RuntimeError: The file is full.
            StalledError: The file cannot be written now.
        """
        records = list(records)
        is_kept = all(record.is_of_run for record in records)
        contents = list(map(self._encoder.encode, records))
        try:
            has_room = self._forwarder.put(contents, most=math.inf if is_kept else self._max_bytes)
        except OSError as error:
            raise StalledError(f"{self._path} cannot be written: {error}") from error
        if not has_room:
            stall = self._forwarder.stall
            cause = "is slower than the log" if stall is None else f"fails: {stall}"
            raise RuntimeError(
                f"the spool {self._path} is full, with {self._max_bytes} bytes of records for {self._name}, "
                f"which {cause}. Mend that, allow more (max_bytes=), or log less often (Every)."
            )

    def take_warning(self) -> Warning | None:
        """Return the warning of a stall, of a loss, or of the other writer, once."""
        return self._forwarder.take_warning()

    def flush(self) -> None:
        """Return once all written records are durable: forwarded and flushed there, or synced in the file.

        It waits for the other writer until that stalls, and for `timeout` seconds at most.

        Raises:
            DeliveryError: The other writer has refused records, which are lost.
            OSError: The file cannot be synced.
            Exception: The other writer's flush has failed.
        """
        self._forwarder.sync()
        request = self._forwarder.request(self._writer.flush, self._timeout)
        self._raise_errors(request.error)

    def close(self) -> None:
        """Forward the records that are left, close the other writer, and end the thread.

        It waits as `flush` does, for `close_timeout` seconds. Records that are late stay in the file, for the
        next writer with that path; a writer that hangs keeps the file, and goes on, until the process ends.

        Raises:
            DeliveryError: Records are late, or were lost.
            OSError: The file cannot be synced.
            Exception: The other writer's close has failed.
        """
        self._abandonment.detach()
        request = self._forwarder.request(self._writer.close, self._close_timeout, is_last=True)
        if not request.is_done:
            self._forwarder.sync()
        self._raise_errors(request.error, late=request.late, is_hanging=not request.is_done)

    def _raise_errors(self, error: BaseException | None, *, late: int = 0, is_hanging: bool = False) -> None:
        """Raise an error of the other writer, or the numbers of records that are lost and late."""
        losses, stall = self._forwarder.take_losses(), self._forwarder.stall
        messages: list[str] = []
        if losses.count:
            cause = describe_cause(losses.cause)
            messages.append(
                f"{self._name} has refused {losses.count} of the records, at steps {losses.first} to "
                f"{losses.last}. The first failed with {cause}."
            )
        cause = describe_cause(stall)
        if is_hanging:
            cause = f"{self._close_timeout:g} s passed"
        if is_hanging and not late:
            messages.append(f"{self._name} has all records, and its close has not returned ({cause}).")
        if late:
            messages.append(
                f"{late} records have not reached {self._name} yet ({cause}). They are in {self._path}: the "
                f"next writer with that file forwards them."
            )
        if messages:
            if error is not None:
                messages.append(f"In addition, it failed with {describe_cause(error)}.")
            raise DeliveryError(" ".join(messages), lost=losses.count, late=late) from (losses.cause or stall)
        if error is not None:
            raise error
