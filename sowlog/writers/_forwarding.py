"""The thread that forwards the records of a spool to a writer, and tries again while that stalls."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

from sowlog._printable import describe_cause
from sowlog.writers._record_bytes import RecordDecoder
from sowlog.writers._spool import Spool
from sowlog.writers._warnings import LossWarning
from sowlog.writers.protocol import BatchWriter, StalledError, WarningWriter, Writer

# Seconds between two attempts at a writer that stalls: doubled from the first to the longest.
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0
# The records of one call of `write_all`: their number, and their bytes in the spool.
_BATCH, _BATCH_BYTES = 256, 1 << 22
# Warnings kept for `take_warning`; each kind is issued once for a series, so that more say nothing new.
_WARNINGS = 64
# Seconds for which an abandoned forwarder waits for its thread, which is idle unless its writer works.
_JOIN_TIMEOUT = 1.0


class Losses:
    """The records that a writer has refused since the last report.

    Attributes:
        count: their number.
        first: the step of the first.
        last: the step of the last.
        cause: the exception of the first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first = self.last = 0
        self.cause: BaseException | None = None

    def add(self, step: int, cause: BaseException) -> None:
        """Count a record."""
        if not self.count:
            self.first, self.cause = step, cause
        self.last = step
        self.count += 1


class Request:
    """A call of the thread once all is forwarded, or one attempt has failed.

    Attributes:
        is_last: whether the thread ends with it. It is made even if records are left.
        is_done: whether it was made, or left out since records are left.
        late: the number of records that were left.
        error: the exception of the call.
    """

    def __init__(self, action: Callable[[], None], *, is_last: bool) -> None:
        self._action = action
        self.is_last = is_last
        self.is_done = False
        self.late = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call, and keep its exception for the thread that waits."""
        try:
            self._action()
        except BaseException as error:
            self.error = error


class Forwarder:
    """Forwards the records of a spool to a writer, on a daemon thread.

    Args:
        writer: the writer; its methods are called on the thread alone.
        spool: the spool, which the thread closes when it ends.

    Attributes:
        stall: the exception of the last attempt, if the writer stalls.
    """

    def __init__(self, writer: Writer, spool: Spool) -> None:
        self.stall: BaseException | None = None
        self._writer, self._name = writer, type(writer).__name__
        self._warner = writer if isinstance(writer, WarningWriter) else None
        self._spool, self._decoder = spool, RecordDecoder()
        self._warnings: deque[Warning] = deque(maxlen=_WARNINGS)
        if spool.damage:
            self._warnings.append(LossWarning(spool.damage))
        # It guards the spool and all below, and is never held while the writer works.
        self._changed = threading.Condition()
        self._requests: deque[Request] = deque()
        self._losses = Losses()
        self._due, self._retry = 0.0, _FIRST_RETRY
        self._is_closed = self._is_abandoned = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"sowlog-{self._name}", daemon=True)
        self._thread.start()

    def put(self, contents: list[bytes], *, most: float) -> bool:
        """Append encoded records to the spool, all or none; return whether it has room below `most` bytes.

        Raises:
            OSError: They cannot be written.
            RuntimeError: The forwarder is closed.
        """
        with self._changed:
            if self._is_closed:
                raise RuntimeError(f"the writer to {self._name} is closed: make a new one.")
            if self._spool.size + sum(map(len, contents)) > most:
                return False
            self._spool.append(contents)
            self._changed.notify_all()
        return True

    def sync(self) -> None:
        """Return once all records in the spool are on the disk itself.

        Raises:
            OSError: The spool cannot be synced.
        """
        with self._changed:
            if not self._is_closed:
                self._spool.sync()

    def request(self, action: Callable[[], None], timeout: float, *, is_last: bool = False) -> Request:
        """Let the thread make a call once all is forwarded, and wait for it up to `timeout` seconds."""
        request = Request(action, is_last=is_last)
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
            self._changed.wait_for(lambda: request.is_done, timeout)
            if not request.is_done:
                request.late = self._spool.count
                if not is_last:
                    self._requests.remove(request)
        if is_last and request.is_done:
            self._thread.join()
        return request

    def abandon(self) -> None:
        """End the thread and free the file, with the records that are left.

        Called when the owner is collected without a close, as in a list of writers whose next one raises.
        """
        # A forked child has no thread, and the lock may have been held at the fork.
        if os.getpid() != self._pid:
            return
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()
        # A garbage collection may run on any thread.
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_TIMEOUT)

    def take_warning(self) -> Warning | None:
        """Return the next warning, once."""
        with self._changed:
            return self._warnings.popleft() if self._warnings else None

    def take_losses(self) -> Losses:
        """Return the losses since the last call."""
        with self._changed:
            losses, self._losses = self._losses, Losses()
            return losses

    def _run(self) -> None:
        is_ended = False
        while not is_ended:
            with self._changed:
                self._changed.wait_for(self._has_work, self._sleep())
                if self._is_abandoned:
                    self._is_closed = True
                    self._spool.release()
                    return
                requests = list(self._requests)
                is_due = self._has_work()
            if is_due:
                self._forward_all()
            for request in requests:
                self._answer(request)
            is_ended = any(request.is_last for request in requests)

    def _has_work(self) -> bool:
        if self._requests or self._is_abandoned:
            return True
        return self._spool.count > 0 and time.monotonic() >= self._due

    def _sleep(self) -> float | None:
        return max(0.0, self._due - time.monotonic()) if self._spool.count else None

    def _answer(self, request: Request) -> None:
        """Make the call of a request, unless records are left."""
        late = self._spool.count
        if request.is_last:
            request.run()
            self._close_spool(request)
        elif not late:
            request.run()
        with self._changed:
            request.late, request.is_done = late, True
            if request in self._requests:
                self._requests.remove(request)
            self._changed.notify_all()

    def _close_spool(self, request: Request) -> None:
        try:
            with self._changed:
                self._is_closed = True
                self._spool.close()
        except OSError as error:
            request.error = request.error or error

    def _forward_all(self) -> None:
        """Forward all records in the spool, until the writer stalls."""
        try:
            while contents := self._peek():
                self._forward(contents)
        except BaseException as stall:
            # Beside StalledError, of the disk under the spool: a thread that ends would strand the records.
            self._begin_stall(stall)
        else:
            self.stall, self._retry, self._due = None, _FIRST_RETRY, 0.0

    def _peek(self) -> list[bytes]:
        with self._changed:
            return self._spool.peek(most=_BATCH, size=_BATCH_BYTES)

    def _forward(self, contents: list[bytes]) -> None:
        records = list(map(self._decoder.decode, contents))
        if len(records) > 1 and isinstance(self._writer, BatchWriter):
            try:
                self._writer.write_all(records)
            except StalledError:
                raise
            except BaseException:
                # The records are now written one by one, which finds the one that fails.
                pass
            else:
                self._note_done(contents)
                return
        for record, content in zip(records, contents, strict=True):
            try:
                self._writer.write(record)
            except StalledError:
                raise
            except BaseException as error:
                self._note_loss(record.step, error)
            self._note_done([content])

    def _note_done(self, contents: list[bytes]) -> None:
        with self._changed:
            self._spool.drop(contents)
        # Behind the note, since its failure must not forward the record once more.
        warning = None if self._warner is None else self._warner.take_warning()
        if warning is not None:
            with self._changed:
                self._warnings.append(warning)

    def _note_loss(self, step: int, cause: BaseException) -> None:
        with self._changed:
            if not self._losses.count:
                reason = describe_cause(cause)
                self._warn(
                    f"{self._name} has refused the record of step {step}: {reason}. "
                    f"It is lost there. Each further record is tried, and flush() and close() raise with the "
                    f"number lost."
                )
            self._losses.add(step, cause)

    def _begin_stall(self, stall: BaseException) -> None:
        known, self.stall = self.stall, stall
        self._due = time.monotonic() + self._retry
        self._retry = min(2 * self._retry, _LONGEST_RETRY)
        if known is None:
            with self._changed:
                self._warn(
                    f"{self._name} stalls: {str(stall).rstrip('.')}. Training continues: the records wait in "
                    f"{self._spool.path} and are tried again; the next run with that file forwards those "
                    f"that are left."
                )

    def _warn(self, message: str) -> None:
        self._warnings.append(LossWarning(message))
