"""The work of the logger's thread: read an item off the device, make its record, pass that to the writers.

A loss counter per writer lets one writer fail without stopping the others or training, and reports each loss.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from sowlog._log.alarms import Alarms, Fired, call_back
from sowlog._log.folding import Folding
from sowlog._log.item import Item, read_item
from sowlog._log.nonfinite import TAG as _NONFINITE
from sowlog._log.nonfinite import NonfiniteError, NonfiniteOrigin, NonfiniteWarning, OnNonfinite
from sowlog._log.pending import SeveralWarningsError
from sowlog._log.ready import read_rows, wait_for_ready
from sowlog._log.sinks import LossCounter, Sink, count_of, merge_errors
from sowlog._log.tag_budget import TagBudget
from sowlog._log.watcher import Watcher
from sowlog.writers import Writer
from sowlog.writers._rows import ScalarRows
from sowlog.writers._warnings import LossWarning
from sowlog.writers.record import Record

_DROPPED = "sowlog/dropped"
# While a rule on stalls waits, a step is polled for: JAX has no wait with an end. In seconds.
_FIRST_POLL, _LONGEST_POLL = 0.001, 0.05


class _Read(NamedTuple):
    """A read item.

    Attributes:
        record: the record; None if the read failed.
        outcome: the error or the warning to re-raise.
        report: the record of the origin of a NaN, if one became known.
    """

    record: Record | None
    outcome: BaseException | None = None
    report: Record | None = None


class Delivery:
    """Makes a record of each item and passes it to every writer, on one thread.

    Args:
        writers: the writers.
        alarms: the rules of alerts; by default none.
        max_pending: the largest number of records kept for a stalled writer; its images and texts are
            bounded by MAX_PENDING_BYTES as well.
        on_nonfinite: the rule for a value that becomes NaN or infinite.
        folding: the folding of families; by default none.
        budget: the budget of the tags that are written; by default none.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        alarms: Alarms | None = None,
        *,
        max_pending: int,
        on_nonfinite: OnNonfinite = "warn",
        folding: Folding | None = None,
        budget: TagBudget | None = None,
    ) -> None:
        self._alarms = Alarms() if alarms is None else alarms
        self._folding = Folding((), heat_map_every=None) if folding is None else folding
        self._budget = TagBudget(None) if budget is None else budget
        self._on_nonfinite = on_nonfinite
        self._watcher = None if on_nonfinite == "ignore" else Watcher()
        self._sinks = [Sink(writer, max_pending) for writer in writers]
        self._batch_sinks = [sink for sink in self._sinks if sink.is_batch]
        self._single_sinks = [sink for sink in self._sinks if not sink.is_batch]
        self._read_losses = LossCounter("reading the device")
        self._dropped = 0
        self._dropped_written = 0
        self._last: Item | None = None
        self._alert_steps: dict[str, int] = {}

    def count_drop(self) -> None:
        """Count a step dropped by a full queue; called from the threads that log."""
        self._dropped += 1

    def deliver(self, items: deque[Item], pause: Callable[[], None]) -> None:
        """Read the items' values and write them with each writer.

        Args:
            items: the items, in order; each is popped off the left end once every writer has its record.
            pause: waits a moment, in which the device may finish more steps.

        Raises:
            WriterError: A writer, or the read, begins to fail; every other writer has the records.
            LossWarning: if a writer begins to stall.
            AlertError: The callback of an alert failed.
            AlertWarning: An alert without a callback fired.
            TagWarning: There are many tags, or a family is not folded.
        """
        self._begin(items)
        outcomes: list[BaseException | None] = []
        while items:
            outcomes += self._wait_for(items[0])
            # A wait for a later item would hide its stall.
            ready = wait_for_ready(items, pause, one_by_one=self._alarms.has_rules)
            rows = self._read_rows(ready)
            outcomes += self._deliver_each(ready, items) if rows is None else self._deliver_rows(rows, items)
        _raise_first(outcomes)

    def _begin(self, items: Iterable[Item]) -> None:
        """Start the clock of stalls at the first step that is logged."""
        if not self._alarms.has_begun:
            for item in items:
                if item.has_metrics:
                    self._alarms.begin(item.step)
                    break

    def _read_rows(self, ready: Sequence[Item]) -> ScalarRows | None:
        """Return the records of ready items as rows; None if each has to be read by itself.

        That is so where alerts, the folding, or a report have to see each record.
        """
        has_drops = self._dropped != self._dropped_written
        if len(ready) == 1 or has_drops or self._alarms.has_rules or self._folding.is_active:
            return None
        rows = read_rows(ready)
        if rows is None or (self._watcher is not None and not self._watcher.passes(rows)):
            return None
        self._read_losses.failing = False
        return rows

    def _deliver_rows(self, rows: ScalarRows, items: deque[Item]) -> list[BaseException | None]:
        """Write rows with each writer, and pop their items; return the outcomes."""
        outcomes: list[BaseException | None] = [self._budget.note(rows.tags)]
        outcomes += [sink.write(rows) for sink in self._batch_sinks]
        if not self._single_sinks:
            for _ in range(len(rows)):
                items.popleft()
            return outcomes
        for record in rows:
            outcomes += self._write_single((record,), items)
        return outcomes

    def _deliver_each(self, ready: Sequence[Item], items: deque[Item]) -> list[BaseException | None]:
        """Read and write items record by record, and pop them; return the outcomes."""
        read = [self._read(item) for item in ready]
        records = [each.record for each in read if each.record]
        # Alerts and the look for NaN see each layer, and writers the folded records.
        written = [tuple(self._written(each)) for each in read]
        every = tuple(chain(*written))
        outcomes = [each.outcome for each in read]
        outcomes += [self._folding.take_warning(), *(self._budget.note(each.tags) for each in every)]
        outcomes += [sink.write(every) for sink in self._batch_sinks]
        for each in written:
            outcomes += self._write_single(each, items)
        fired = [each for record in records for each in self._alarms.observe(record)]
        return [*outcomes, *self._report_alerts(fired)]

    def _write_single(self, records: Sequence[Record], items: deque[Item]) -> list[Exception | None]:
        """Write the records of one item with the writers that take no batch; return the outcomes."""
        outcomes = [sink.write(records) for sink in self._single_sinks]
        # A waiting call measures progress by these pops, so a slow writer pops one by one.
        items.popleft()
        return outcomes

    def _written(self, read: _Read) -> Iterator[Record]:
        """Yield the records that a read item is written as."""
        if read.record is not None:
            yield from self._folding.fold(read.record)
        if read.report is not None:
            yield read.report

    def watch_time(self) -> float | None:
        """Report the stalls that fire now; return the seconds until one may fire, None for none."""
        _raise_first(self._report_alerts(self._alarms.observe_time()))
        return self._alarms.next_stall()

    def _wait_for(self, item: Item) -> list[Exception | None]:
        """Wait for an item as long as it may be a stall; return the outcomes of the alerts."""
        outcomes: list[Exception | None] = []
        poll = _FIRST_POLL
        while (left := self._alarms.next_stall()) is not None and not item.is_ready():
            time.sleep(min(poll, left))
            poll = min(2 * poll, _LONGEST_POLL)
            outcomes += self._report_alerts(self._alarms.observe_time())
        return outcomes

    def _report_alerts(self, fired: Sequence[Fired]) -> list[Exception | None]:
        """Write the texts of alerts, and call their callbacks; return the outcomes."""
        if not fired:
            return []
        texts = self._new_texts(fired)
        return [*(sink.write(texts) for sink in self._sinks), *call_back(fired)]

    def _new_texts(self, fired: Sequence[Fired]) -> list[Record]:
        """Return the records of alerts, without a second one of a tag at a step, which no reader shows."""
        new: list[Record] = []
        for each in fired:
            if self._alert_steps.get(each.tag) != each.alert.step:
                self._alert_steps[each.tag] = each.alert.step
                new.append(each.record())
        return new

    def _read(self, item: Item) -> _Read:
        """Return the record of an item, with the origin of a NaN in it and the error to re-raise."""
        # Values of the run belong to no step, so the number of dropped steps waits for the next one.
        if self._dropped != self._dropped_written and not item.is_of_run:
            self._dropped_written = self._dropped
            item = item._replace(scalars={**item.scalars, _DROPPED: float(self._dropped)})
        try:
            record = read_item(item)
        except Exception as error:
            return _Read(None, self._read_losses.count_failure(item.step, error))
        self._read_losses.failing = False
        origin = self._watcher and self._watcher.look(record)
        if not origin:
            return _Read(record)
        texts = {_NONFINITE: origin.markdown()}
        report = Record(record.step, record.wall_time, texts=texts, is_of_logger=True)
        return _Read(record, self._report_nonfinite(origin), report)

    def _report_nonfinite(self, origin: NonfiniteOrigin) -> BaseException | None:
        if self._on_nonfinite == "raise":
            return NonfiniteError(origin)
        if not callable(self._on_nonfinite):
            return NonfiniteWarning(str(origin))
        try:
            self._on_nonfinite(origin)
        except BaseException as error:
            # As SystemExit: the records are written, and the training thread has the exception.
            error.add_note(f"raised by on_nonfinite, which was called because {origin}")
            return error
        return None

    def flush(self) -> None:
        """Flush every writer, so that all delivered records are durable.

        Raises:
            WriterError: A flush fails, a stalled writer has late records, or records were lost since the
                last flush.
        """
        _raise_first([*[sink.flush() for sink in self._sinks], self._read_losses.take_error()])

    def end_with(self, last: Item | None) -> None:
        """Set the item that `close` writes last, or none; called from the training thread, before that."""
        self._last = last

    def close(self) -> None:
        """Write the last pictures and the last item, and close every writer.

        Raises:
            WriterError: A close fails, or records were lost since the last flush.
            LossWarning: if steps were dropped by a full queue.
            AlertWarning: The tag of a rule was never logged.
            TagWarning: The last pictures cannot be drawn.
        """
        last = [] if self._last is None else [read_item(self._last)]
        for record in chain(self._folding.last_pictures(), last):
            for sink in self._sinks:
                # The loss counter of the sink has a failure, and the close reports it.
                sink.write([record])
        outcomes = [*[sink.close() for sink in self._sinks], self._read_losses.take_error()]
        reports = [self._folding.take_warning(), self._report_drops(), self._alarms.absent()]
        _raise_first([*outcomes, *reports])

    def _report_drops(self) -> LossWarning | None:
        if not self._dropped:
            return None
        return LossWarning(
            f"the full queue dropped {count_of(self._dropped, 'step')}, as `{_DROPPED}` shows: log less "
            f"often (every=) or allow a longer queue (queue_size=)."
        )


def _raise_first(outcomes: Iterable[BaseException | None]) -> None:
    """Raise the first error, with the others and the warnings as its notes; else the warnings."""
    known = [outcome for outcome in outcomes if outcome is not None]
    warnings = [outcome for outcome in known if isinstance(outcome, Warning)]
    if len(known) == len(warnings) > 1:
        raise SeveralWarningsError(warnings)
    merged = merge_errors(*known)
    if merged is not None:
        raise merged
