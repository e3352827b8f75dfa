"""A sink: one writer, its pending records, and the count of its lost ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from sowlog._log.pending import MAX_PENDING_BYTES
from sowlog._printable import describe_cause
from sowlog.writers import BatchWriter, DeliveryError, StalledError, WarningWriter, Writer
from sowlog.writers._warnings import LossWarning
from sowlog.writers.record import Record

ErrorT = TypeVar("ErrorT", bound=BaseException)


class WriterError(RuntimeError):
    """Records that did not reach a writer; the message names the writer, the steps and the cause.

    A record counts once for each writer that lacks it. Both numbers are 0 where only a flush or a close of a
    writer failed, or where the number is unknown.

    Attributes:
        lost: records that are never written. An error of `flush` or `close` counts all since the last flush,
            including those that an earlier error of `log` counted.
        late: records that a stalled writer keeps, and tries again at the next record, flush or close.

    Example:
        >>> import sowlog, sowlog.testing
        >>> class FailingWriter(sowlog.testing.MemoryWriter):
        ...     def write(self, record):
        ...         raise OSError("no space left on device")
        >>> log = sowlog.Logger("unused", writers=[FailingWriter()])
        >>> log(0, {"loss": 1.0})
        >>> try:
        ...     log.flush()
        ... except sowlog.WriterError as error:
        ...     print(error.lost, "lost,", error.late, "late")
        1 lost, 0 late
        >>> log.close()
    """

    def __init__(self, message: str, *, lost: int = 0, late: int = 0) -> None:
        super().__init__(message)
        self.lost = lost
        self.late = late


class LossCounter:
    """The number of records lost at one place since the last report, with their steps and first cause."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failing = False
        self._lost = 0
        self._steps = (0, 0)
        self._cause: BaseException | None = None

    def count_failure(self, step: int, cause: BaseException) -> WriterError | None:
        """Count a failed record; return the error to re-raise if a series of failures begins with it."""
        self.count(step, cause)
        if self.failing:
            return None
        self.failing = True
        return _error(
            f"{self.name} failed at step {step}: {describe_cause(cause)}. That record is lost there. "
            "Training can continue: each further record is tried, and flush() and close() raise with the "
            "number lost.",
            cause,
            lost=1,
        )

    def count(self, step: int, cause: BaseException | None) -> None:
        """Count a record as lost."""
        if not self._lost:
            self._cause, self._steps = cause, (step, step)
        self._lost += 1
        self._steps = (self._steps[0], step)

    def take_error(self) -> WriterError | None:
        """Return the error that reports the lost records, and reset the count; None if none were lost."""
        if not self._lost:
            return None
        lost, (first, last), cause = self._lost, self._steps, self._cause
        self._lost, self._cause = 0, None
        return _error(
            f"{self.name} lost {count_of(lost, 'record')}, at steps {first} to {last}. The first failed "
            f"with {describe_cause(cause)}. Remove that cause, and continue to "
            f"log.",
            cause,
            lost=lost,
        )


class Sink:
    """One writer, its pending records, and its loss counter.

    A writer may raise a BaseException that is no Exception, such as a panic in Rust. KeyboardInterrupt never
    reaches this thread, so each of them is a failure of the writer.
    """

    def __init__(self, writer: Writer, max_pending: int) -> None:
        self.is_batch = isinstance(writer, BatchWriter)
        self._writer = writer
        self._warner = writer if isinstance(writer, WarningWriter) else None
        self._max_pending = max_pending
        self._losses = LossCounter(type(writer).__name__)
        self._pending: deque[Record] = deque()
        self._stall: StalledError | None = None

    def write(self, records: Sequence[Record]) -> Exception | None:
        """Write the pending records and then the new ones; return the error to re-raise."""
        outcome = merge_errors(self._write_pending(records), self._take_warning())
        # A stall may have ended just now, so the bound comes after the attempt to write.
        if self._pending:
            self._bound_pending()
        return outcome

    def _bound_pending(self) -> None:
        """Drop the oldest steps, images and texts beyond the bounds; values of the run are kept."""
        steps = sum(not record.is_of_run for record in self._pending)
        held = sum(map(_bytes_of, self._pending))
        kept: deque[Record] = deque()
        for record in self._pending:
            size = _bytes_of(record)
            if not record.is_of_run and (steps > self._max_pending or (size and held > MAX_PENDING_BYTES)):
                steps, held = steps - 1, held - size
                self._losses.count(record.step, self._stall)
            else:
                kept.append(record)
        self._pending = kept

    def _take_warning(self) -> Exception | None:
        if self._warner is None:
            return None
        try:
            return cast(Exception | None, self._warner.take_warning())
        except BaseException as error:
            return _error(f"{self._losses.name}.take_warning() failed: {describe_cause(error)}.", error)

    def flush(self) -> Exception | None:
        """Flush; return the error that reports a failed flush, the late and the lost records."""
        # A failure here leaves records that are late or lost, which are reported below.
        self._write_pending()
        return merge_errors(self._attempt(self._writer.flush), self._late_error(), self._losses.take_error())

    def close(self) -> Exception | None:
        """Close; return the error that reports a failed close and the lost records."""
        self._write_pending()
        while self._pending:
            self._losses.count(self._pending.popleft().step, self._stall)
        return merge_errors(
            self._attempt(self._writer.close), self._losses.take_error(), self._take_warning()
        )

    def _write_pending(self, new: Sequence[Record] = ()) -> Exception | None:
        """Write the pending records and new ones; keep those of a stall."""
        # Rows reach the writer as they are: only a failure makes records of them.
        batch = (*self._pending, *new) if self._pending else new
        try:
            if self._write_batch(batch):
                self._pending.clear()
                return None
        except StalledError as stall:
            self._pending.extend(new)
            return self._begin_stall(batch[0].step, stall)
        self._pending.extend(new)
        return self._write_one_by_one()

    def _write_one_by_one(self) -> Exception | None:
        outcome: Exception | None = None
        while self._pending:
            record = self._pending[0]
            try:
                self._writer.write(record)
            except StalledError as stall:
                return merge_errors(outcome, self._begin_stall(record.step, stall))
            except BaseException as error:
                outcome = merge_errors(outcome, self._losses.count_failure(record.step, error))
            else:
                self._losses.failing = False
                self._stall = None
            self._pending.popleft()
        return outcome

    def _write_batch(self, batch: Sequence[Record]) -> bool:
        # During a stall the first record alone is tried, at the least cost.
        if len(batch) < 2 or self._stall or not self.is_batch:
            return False
        try:
            cast(BatchWriter, self._writer).write_all(batch)
        except StalledError:
            raise
        except BaseException:
            # The records are now written one by one, which raises and reports the error again.
            return False
        self._losses.failing = False
        return True

    def _begin_stall(self, step: int, stall: StalledError) -> LossWarning | None:
        """Return the warning to issue if a stall begins with this step."""
        known, self._stall = self._stall, stall
        if known is not None:
            return None
        return LossWarning(
            f"{self._losses.name} stalls at step {step}: {stall}. Training continues: the last "
            f"{self._max_pending} records are kept and tried again with each new one; flush() and close() "
            f"raise if any is lost."
        )

    def _late_error(self) -> WriterError | None:
        if not self._pending:
            return None
        first, last = self._pending[0].step, self._pending[-1].step
        return _error(
            f"{self._losses.name} could not write {count_of(len(self._pending), 'record')} yet, at steps "
            f"{first} to {last}: {self._stall}. They are kept and tried again.",
            self._stall,
            late=len(self._pending),
        )

    def _attempt(self, action: Callable[[], None]) -> WriterError | None:
        try:
            action()
        except BaseException as error:
            lost, late = (error.lost, error.late) if isinstance(error, DeliveryError) else (0, 0)
            message = f"{self._losses.name}.{action.__name__}() failed: {describe_cause(error)}."
            return _error(message, error, lost=lost, late=late)
        return None


def _bytes_of(record: Record) -> int:
    """Return the bytes of the images and texts of a record."""
    return sum(image.nbytes for image in record.images.values()) + sum(map(len, record.texts.values()))


def merge_errors(*outcomes: ErrorT | None) -> ErrorT | None:
    """Return the first outcome, errors before warnings, with the others as its notes and its counts."""
    known = [outcome for outcome in outcomes if outcome is not None]
    # Nearly all calls have none, and a sort takes a microsecond.
    if len(known) > 1:
        known.sort(key=lambda error: isinstance(error, Warning))
    for other in known[1:]:
        known[0].add_note(str(other))
        if isinstance(known[0], WriterError) and isinstance(other, WriterError):
            known[0].lost += other.lost
            known[0].late += other.late
    return known[0] if known else None


def _error(message: str, cause: BaseException | None, *, lost: int = 0, late: int = 0) -> WriterError:
    error = WriterError(message, lost=lost, late=late)
    error.__cause__ = cause
    return error


def count_of(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
