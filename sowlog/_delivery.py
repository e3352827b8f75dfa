"""What the logger's thread does with an item: read the device, make the record, hand it to the writers.

It keeps account of what each writer lost, so that one that fails stops neither the others nor training,
and no loss stays unsaid.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from sowlog._packing import Packed
from sowlog._record import Record
from sowlog.writers import Writer


class WriterError(RuntimeError):
    """Records that did not reach a writer; the message says which, where, why and how many."""


class Item(NamedTuple):
    """What `log` queues: a step's values, which may still be under way on the device."""

    step: int
    wall_time: float
    packed: Packed | None
    scalars: Mapping[str, float]


def start_copy(buffer: jax.Array) -> None:
    """Let the copy off the device begin as soon as the values are there, without waiting."""
    # On the CPU the host reads in place; starting a copy would only wake a thread, which costs 5 to 30 us.
    (device, *_) = buffer.devices()
    if device.platform != "cpu":
        buffer.copy_to_host_async()


class Delivery:
    """Makes a record of each item and hands it to every writer. Lives on one thread."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._outlets = [_Outlet(writer) for writer in writers]
        self._unread = _Account("reading the device")

    def deliver(self, item: Item) -> None:
        """Read one item's values and write them with each writer.

        Raises:
            WriterError: when a writer, or the read, begins to fail; every other writer was served.
        """
        try:
            record = _read(item)
        except Exception as error:
            _raise_first([self._unread.lose(item.step, error)])
            return
        self._unread.failing = False
        _raise_first([outlet.write(record) for outlet in self._outlets])

    def flush(self) -> None:
        """Make durable what was delivered, in every writer.

        Raises:
            WriterError: if a writer fails to, or lost records since the last flush.
        """
        outcomes = [outlet.finish(outlet.writer.flush) for outlet in self._outlets]
        _raise_first([*outcomes, self._unread.settle()])

    def close(self) -> None:
        """Close every writer.

        Raises:
            WriterError: if a writer fails to, or lost records since the last flush.
        """
        outcomes = [outlet.finish(outlet.writer.close) for outlet in self._outlets]
        _raise_first([*outcomes, self._unread.settle()])


class _Account:
    """What was lost at one place, since it was last said."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failing = False
        self._lost = 0
        self._steps = (0, 0)
        self._cause: Exception | None = None

    def lose(self, step: int, cause: Exception) -> WriterError | None:
        """Count a record; return the error to hand back when a row of failures begins here."""
        if not self._lost:
            self._cause, self._steps = cause, (step, step)
        self._lost += 1
        self._steps = (self._steps[0], step)
        if self.failing:
            return None
        self.failing = True
        return _error(
            f"{self.name} failed at step {step}: {_said(cause)}. That record is lost there. Training can go "
            f"on: each next record is tried, and flush() and close() raise with the number lost.",
            cause,
        )

    def settle(self) -> WriterError | None:
        """Return what was lost as an error, and count anew."""
        if not self._lost:
            return None
        lost, (first, last), cause = self._lost, self._steps, self._cause
        self._lost, self._cause = 0, None
        return _error(
            f"{self.name} lost {lost} record{'s' * (lost > 1)}, at steps {first} to {last}. The first failed "
            f"with {_said(cause)}; mend that and log on.",
            cause,
        )


class _Outlet:
    """One writer and its account."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._account = _Account(type(writer).__name__)

    def write(self, record: Record) -> WriterError | None:
        """Write, returning the error to hand back."""
        try:
            self.writer.write(record)
        except Exception as error:
            return self._account.lose(record.step, error)
        self._account.failing = False
        return None

    def finish(self, action: Callable[[], None]) -> WriterError | None:
        """Flush or close, returning the error that says what failed and what was lost."""
        try:
            action()
        except Exception as error:
            failure = _error(f"{self._account.name}.{action.__name__}() failed: {_said(error)}.", error)
            if lost := self._account.settle():
                failure.add_note(str(lost))
            return failure
        return self._account.settle()


def _read(item: Item) -> Record:
    """Wait for the device and return the item as a record."""
    tags: tuple[str, ...] = ()
    values = np.empty(0, np.float32)
    if item.packed is not None:
        # This fetch is meant, so it passes a guard that forbids stray ones; device_get costs thrice as much.
        with jax.transfer_guard_device_to_host("allow"):
            words = np.asarray(item.packed.buffer)
        tags, values = item.packed.layout.decode(words)
    if item.scalars:
        tags = _join(tags, tuple(item.scalars))
        # A scalar of an event file is float32: 1e300 is inf there.
        with np.errstate(over="ignore"):
            on_host = np.fromiter(item.scalars.values(), np.float64, len(item.scalars)).astype(np.float32)
        values = np.concatenate((values, on_host))
    values.flags.writeable = False
    return Record(item.step, item.wall_time, tags, values)


@functools.lru_cache(maxsize=64)
def _join(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """Return both, as one object for equal arguments: writers cache by it."""
    return first + second


def _raise_first(outcomes: Iterable[WriterError | None]) -> None:
    errors = [error for error in outcomes if error is not None]
    if not errors:
        return
    for other in errors[1:]:
        errors[0].add_note(str(other))
    raise errors[0]


def _error(message: str, cause: Exception | None) -> WriterError:
    error = WriterError(message)
    error.__cause__ = cause
    return error


def _said(cause: Exception | None) -> str:
    return f"{type(cause).__name__}: {cause}"
