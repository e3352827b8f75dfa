"""What the logger's thread does with an item: read the device, make the record, hand it to the writers.

It keeps account of what each writer lost, so that one that fails stops neither the others nor training,
and no loss stays unsaid.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from sowlog._log.item import Item, read_item
from sowlog._log.sinks import LossCounter, Sink, WriterError, count_of, merge_errors
from sowlog.writers import Writer
from sowlog.writers._warnings import LossWarning
from sowlog.writers.record import Record

_DROPPED = "sowlog/dropped"


class Delivery:
    """Makes a record of each item and hands it to every writer. Lives on one thread.

    Args:
        writers: where the records go.
        max_pending: how many records to keep for a writer that stalls, of images MAX_PENDING_BYTES.
    """

    def __init__(self, writers: Sequence[Writer], *, max_pending: int) -> None:
        self._sinks = [Sink(writer, max_pending) for writer in writers]
        self._batch_sinks = [sink for sink in self._sinks if sink.is_batch]
        self._single_sinks = [sink for sink in self._sinks if not sink.is_batch]
        self._read_losses = LossCounter("reading the device")
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
            outcomes += [sink.write(records) for sink in self._batch_sinks]
            for record, _ in read:
                outcomes += [sink.write([record] if record else []) for sink in self._single_sinks]
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
            record = read_item(item)
        except Exception as error:
            return None, self._read_losses.count_failure(item.step, error)
        self._read_losses.failing = False
        return record, None

    def flush(self) -> None:
        """Make durable what was delivered, in every writer.

        Raises:
            WriterError: if a writer fails to, holds records that it cannot write, or lost some since the
                last flush.
        """
        _raise_first([*[sink.flush() for sink in self._sinks], self._read_losses.take_error()])

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
            record = read_item(self._last)
            for sink in self._sinks:
                # A failure is in the sink's account, which its close tells.
                sink.write([record])
        outcomes = [*[sink.close() for sink in self._sinks], self._read_losses.take_error()]
        _raise_first([*outcomes, self._report_drops()])

    def _report_drops(self) -> LossWarning | None:
        if not self._dropped:
            return None
        return LossWarning(
            f"{count_of(self._dropped, 'step')} found the queue full and dropped, as `{_DROPPED}` shows: log "
            f"less often (every=) or allow more to wait (queue_size=)"
        )


def _raise_first(outcomes: Iterable[Exception | None]) -> None:
    merged = merge_errors(*outcomes)
    if merged is not None:
        raise merged
