"""What the logger's thread does with an item: read the device, make the record, hand it to the writers.

It keeps account of what each writer lost, so that one that fails stops neither the others nor training,
and no loss stays unsaid.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from sowlog import _images
from sowlog._distributions import HistogramValue
from sowlog._images import Pixels
from sowlog._layout import Packed, PresentTags
from sowlog._pending import MAX_WEIGHT
from sowlog._record import Ending, HParams, Record
from sowlog._warnings import LossWarning
from sowlog.writers import BatchWriter, StalledError, WarningWriter, Writer

_DROPPED = "sowlog/dropped"


class WriterError(RuntimeError):
    """Records that did not reach a writer; the message says which, where, why and how many."""


class Item(NamedTuple):
    """What one call queues: a step's values or images, which may still be under way on the device."""

    step: int
    wall_time: float
    packed: Packed | None = None
    scalars: Mapping[str, float] = MappingProxyType({})
    pixels: Pixels | None = None
    hparams: HParams | None = None
    ending: Ending | None = None

    @property
    def weight(self) -> int:
        """The bytes that its images hold while it waits; what a step holds beside them is little."""
        return 0 if self.pixels is None else self.pixels.array.nbytes

    def is_ready(self) -> bool:
        """Tell whether reading it would not wait; so it is with what cannot be read."""
        arrays: list[Any] = [self.packed and self.packed.buffer, self.pixels and self.pixels.array]
        on_device = [array for array in arrays if isinstance(array, jax.Array)]
        # In this order: `is_ready` of a deleted array ends the process (jaxlib 0.10.2).
        return all(array.is_deleted() or array.is_ready() for array in cast(list[Any], on_device))


def start_copy(buffer: jax.Array) -> None:
    """Let the copy off the device begin as soon as the values are there, without waiting."""
    # On the CPU the host reads in place; starting a copy would only wake a thread, which costs 5 to 30 us.
    (device, *_) = buffer.devices()
    if device.platform != "cpu":
        buffer.copy_to_host_async()


def reading() -> AbstractContextManager[None]:
    """Return the context in which items are delivered: a guard against stray transfers allows these."""
    return jax.transfer_guard_device_to_host("allow")


class Delivery:
    """Makes a record of each item and hands it to every writer. Lives on one thread.

    Args:
        writers: where the records go.
        backlog: how many records to keep for a writer that stalls, of images MAX_WEIGHT bytes.
    """

    def __init__(self, writers: Sequence[Writer], *, backlog: int) -> None:
        self._outlets = [_Outlet(writer, backlog) for writer in writers]
        self._at_once = [outlet for outlet in self._outlets if outlet.takes_many]
        self._in_turn = [outlet for outlet in self._outlets if not outlet.takes_many]
        self._unread = _Account("reading the device")
        self._dropped = 0
        self._dropped_written = 0
        self._last: Item | None = None

    def count_drop(self) -> None:
        """Count a step that found no room in the queue. The only thing that other threads call."""
        self._dropped += 1

    def deliver(self, items: deque[Item], pause: Callable[[], None]) -> None:
        """Read the items' values and write them with each writer.

        Args:
            items: what to deliver, in order; each is taken off the left end once every writer was served.
            pause: lets the device finish some more, if there is time.

        Raises:
            WriterError: when a writer, or the read, begins to fail; every other writer was served.
            LossWarning: when a writer begins to stall.
        """
        outcomes: list[Exception | None] = []
        while items:
            read = list(self._read_ready(items, pause))
            outcomes += [error for _, error in read]
            records = [record for record, _ in read if record]
            outcomes += [outlet.write(records) for outlet in self._at_once]
            for record, _ in read:
                outcomes += [outlet.write([record] if record else []) for outlet in self._in_turn]
                # One by one, so that who waits sees that a slow writer gets on.
                items.popleft()
        _raise_first(outcomes)

    def _read_ready(
        self, items: deque[Item], pause: Callable[[], None]
    ) -> Iterator[tuple[Record | None, WriterError | None]]:
        """Read the first item, which may have to be waited for, and those that are ready then.

        To wait for each of a fast loop's steps would wake the thread for each.
        """
        yield self._read(items[0])
        if not items[-1].is_ready():
            pause()
        for item in itertools.takewhile(Item.is_ready, itertools.islice(items, 1, None)):
            yield self._read(item)

    def _read(self, item: Item) -> tuple[Record | None, WriterError | None]:
        """Return an item as a record, or what is to be handed back."""
        # Not with hparams, which have no step of their own.
        if self._dropped != self._dropped_written and item.hparams is None:
            self._dropped_written = self._dropped
            item = item._replace(scalars={**item.scalars, _DROPPED: float(self._dropped)})
        try:
            record = _read(item)
        except Exception as error:
            return None, self._unread.lose(item.step, error)
        self._unread.failing = False
        return record, None

    def flush(self) -> None:
        """Make durable what was delivered, in every writer.

        Raises:
            WriterError: if a writer fails to, holds records that it cannot write, or lost some since the
                last flush.
        """
        _raise_first([*[outlet.flush() for outlet in self._outlets], self._unread.settle()])

    def end_with(self, last: Item) -> None:
        """Set what `close` writes last; called by the training thread, before it asks for the close."""
        self._last = last

    def close(self) -> None:
        """Write what comes last, and close every writer.

        Raises:
            WriterError: if a writer fails to, or lost records since the last flush.
            LossWarning: if steps were dropped for want of room.
        """
        if self._last is not None:
            record = _read(self._last)
            for outlet in self._outlets:
                # A failure is in the outlet's account, which its close tells.
                outlet.write([record])
        outcomes = [*[outlet.close() for outlet in self._outlets], self._unread.settle()]
        _raise_first([*outcomes, self._report_drops()])

    def _report_drops(self) -> LossWarning | None:
        if not self._dropped:
            return None
        return LossWarning(
            f"{_counted(self._dropped, 'step')} found the queue full and dropped, as `{_DROPPED}` shows: log "
            f"less often (every=) or allow more to wait (queue_size=)"
        )


class _Account:
    """What was lost at one place, since it was last said."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failing = False
        self._lost = 0
        self._steps = (0, 0)
        self._cause: BaseException | None = None

    def lose(self, step: int, cause: BaseException) -> WriterError | None:
        """Count a record; return the error to hand back when a row of failures begins here."""
        self.count(step, cause)
        if self.failing:
            return None
        self.failing = True
        return _error(
            f"{self.name} failed at step {step}: {_said(cause)}. That record is lost there. Training can go "
            f"on: each next record is tried, and flush() and close() raise with the number lost.",
            cause,
        )

    def count(self, step: int, cause: BaseException | None) -> None:
        """Count a record as lost."""
        if not self._lost:
            self._cause, self._steps = cause, (step, step)
        self._lost += 1
        self._steps = (self._steps[0], step)

    def settle(self) -> WriterError | None:
        """Return what was lost as an error, and count anew."""
        if not self._lost:
            return None
        lost, (first, last), cause = self._lost, self._steps, self._cause
        self._lost, self._cause = 0, None
        return _error(
            f"{self.name} lost {_counted(lost, 'record')}, at steps {first} to {last}. The first failed "
            f"with {_said(cause)}; mend that and log on.",
            cause,
        )


class _Outlet:
    """One writer, what it could not write yet, and the account of what it lost.

    Whatever a writer raises is its own failure, also what is no Exception, as a panic in Rust: on this thread
    nobody else raises.
    """

    def __init__(self, writer: Writer, limit: int) -> None:
        self.takes_many = isinstance(writer, BatchWriter)
        self._writer = writer
        self._warner = writer if isinstance(writer, WarningWriter) else None
        self._limit = limit
        self._account = _Account(type(writer).__name__)
        self._backlog: deque[Record] = deque()
        self._stall: StalledError | None = None

    def write(self, records: Sequence[Record]) -> Exception | None:
        """Write what is late and then the records, returning what is to be handed back."""
        self._backlog.extend(records)
        outcome = _merge(self._write_backlog(), self._take_warning())
        # After the try: what is late may have found its place just now.
        if self._backlog:
            self._bound_backlog()
        return outcome

    def _bound_backlog(self) -> None:
        """Drop the oldest steps, and images, beyond the bounds; what belongs to the whole run is kept."""
        steps = sum(record.hparams is None for record in self._backlog)
        held = sum(map(_image_bytes, self._backlog))
        kept: deque[Record] = deque()
        for record in self._backlog:
            weight = _image_bytes(record)
            if record.hparams is None and (steps > self._limit or (weight and held > MAX_WEIGHT)):
                steps, held = steps - 1, held - weight
                self._account.count(record.step, self._stall)
            else:
                kept.append(record)
        self._backlog = kept

    def _take_warning(self) -> Exception | None:
        if self._warner is None:
            return None
        try:
            return cast(Exception | None, self._warner.take_warning())
        except BaseException as error:
            return _error(f"{self._account.name}.take_warning() failed: {_said(error)}.", error)

    def flush(self) -> Exception | None:
        """Flush, returning the error that says what failed, what is late and what was lost."""
        # What goes wrong here is late or lost, and so said below.
        self._write_backlog()
        return _merge(self._attempt(self._writer.flush), self._late(), self._account.settle())

    def close(self) -> Exception | None:
        """Close, returning the error that says what failed and what was lost."""
        self._write_backlog()
        while self._backlog:
            self._account.count(self._backlog.popleft().step, self._stall)
        return _merge(self._attempt(self._writer.close), self._account.settle())

    def _write_backlog(self) -> Exception | None:
        try:
            if self._write_at_once():
                return None
        except StalledError as stall:
            return self._begin_stall(self._backlog[0].step, stall)
        return self._write_one_by_one()

    def _write_one_by_one(self) -> Exception | None:
        outcome: Exception | None = None
        while self._backlog:
            record = self._backlog[0]
            try:
                self._writer.write(record)
            except StalledError as stall:
                return _merge(outcome, self._begin_stall(record.step, stall))
            except BaseException as error:
                outcome = _merge(outcome, self._account.lose(record.step, error))
            else:
                self._account.failing = False
                self._stall = None
            self._backlog.popleft()
        return outcome

    def _write_at_once(self) -> bool:
        # In a stall the first record alone tells whether it is over, at the least cost.
        if len(self._backlog) < 2 or self._stall or not isinstance(self._writer, BatchWriter):
            return False
        try:
            self._writer.write_all(tuple(self._backlog))
        except StalledError:
            raise
        except BaseException:
            # Met again, and told, as the records are now written one by one.
            return False
        self._backlog.clear()
        self._account.failing = False
        return True

    def _begin_stall(self, step: int, stall: StalledError) -> LossWarning | None:
        """Return the warning to hand back when a row of stalls begins here."""
        known, self._stall = self._stall, stall
        if known is not None:
            return None
        return LossWarning(
            f"{self._account.name} stalls at step {step}: {stall}. Training goes on: the last {self._limit} "
            f"records are kept and tried again with each new one; flush() and close() raise if any is lost."
        )

    def _late(self) -> WriterError | None:
        if not self._backlog:
            return None
        first, last = self._backlog[0].step, self._backlog[-1].step
        return _error(
            f"{self._account.name} could not write {_counted(len(self._backlog), 'record')} yet, at steps "
            f"{first} to {last}: {self._stall}. They are kept and tried again.",
            self._stall,
        )

    def _attempt(self, action: Callable[[], None]) -> WriterError | None:
        try:
            action()
        except BaseException as error:
            return _error(f"{self._account.name}.{action.__name__}() failed: {_said(error)}.", error)
        return None


def _image_bytes(record: Record) -> int:
    return sum(image.nbytes for image in record.images.values())


def _read(item: Item) -> Record:
    """Wait for the device and return the item as a record."""
    tags: tuple[str, ...] = ()
    values = np.empty(0, np.float32)
    histograms: dict[str, HistogramValue] = {}
    if item.packed is not None:
        words = np.asarray(item.packed.buffer)
        tags, values = item.packed.layout.decode(words)
        histograms = item.packed.layout.decode_histograms(words)
    if item.scalars:
        on_host_tags = tuple(item.scalars)
        if isinstance(tags, PresentTags):
            tags = tags.joined(_join(tags.whole, on_host_tags))
        else:
            tags = _join(tags, on_host_tags)
        # A scalar of an event file is float32: 1e300 is inf there.
        with np.errstate(over="ignore"):
            on_host = np.fromiter(item.scalars.values(), np.float64, len(item.scalars)).astype(np.float32)
        values = np.concatenate((values, on_host))
    values.flags.writeable = False
    images = {} if item.pixels is None else _images.decode(item.pixels)
    return Record(item.step, item.wall_time, tags, values, histograms, images, item.hparams, item.ending)


@functools.lru_cache(maxsize=64)
def _join(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """Return both, as one object for equal arguments: writers cache by it."""
    return first + second


def _raise_first(outcomes: Iterable[Exception | None]) -> None:
    merged = _merge(*outcomes)
    if merged is not None:
        raise merged


def _merge(*outcomes: Exception | None) -> Exception | None:
    """Return one that tells of all: errors before warnings, the others as its notes."""
    known = sorted(
        (outcome for outcome in outcomes if outcome is not None), key=lambda error: isinstance(error, Warning)
    )
    for other in known[1:]:
        known[0].add_note(str(other))
    return known[0] if known else None


def _error(message: str, cause: BaseException | None) -> WriterError:
    error = WriterError(message)
    error.__cause__ = cause
    return error


def _said(cause: BaseException | None) -> str:
    return f"{type(cause).__name__}: {cause}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
