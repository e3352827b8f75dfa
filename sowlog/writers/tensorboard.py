"""Event files for TensorBoard: records appended to one file, with a warning for steps that go back."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from sowlog._events import protos
from sowlog._events.appending import AppendedFile
from sowlog._events.file import create_event_file, is_open, locked_folder
from sowlog._events.framing import frame
from sowlog._events.template import RecordTemplate
from sowlog._reduce.distributions import HistogramValue
from sowlog._tree.identity import SIZE, ByIdentity
from sowlog._tree.layout import PresentTags
from sowlog.writers._arguments import check_path, check_resume
from sowlog.writers._descriptions import Descriptions
from sowlog.writers._rows import ScalarRows
from sowlog.writers._step_order import StepBack, StepOrder, find_hidden, last_steps, warn_of_overlap
from sowlog.writers._warnings import LossWarning
from sowlog.writers.protocol import StalledError
from sowlog.writers.record import Record


class TensorBoard:
    """Writes each record as one event of a new event file.

    A record reaches the operating system in one write before `write` returns, so a killed process loses
    no written record. Tags are written unchanged. While the disk is full or the folder is read-only, the file
    holds whole records only and the logger tries again; after the file was deleted, a new one begins.

    Args:
        logdir: the folder of the run, on this machine; created if it does not exist, with `~` expanded.
        resume_from: the first step that will be written when a run continues: TensorBoard then drops the
            points of older files in the folder at and after it, of all tags. If the older files include one
            of another writer, whose tags are not written again, `take_warning` returns a warning after
            `close`.
        clock: returns seconds since the epoch, for the name of the file and its first events.

    Raises:
        OSError: The file cannot be created.
        ValueError: `logdir` is no local folder, as in `gs://bucket/run`.

    Example:
        >>> import tempfile, sowlog
        >>> from sowlog.writers import TensorBoard
        >>> logdir = tempfile.mkdtemp()
        >>> with sowlog.Logger(logdir, writers=[TensorBoard(logdir)]) as log:
        ...     log(0, {"loss": 0.5})
    """

    def __init__(
        self,
        logdir: str | PathLike[str],
        *,
        resume_from: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._logdir = check_path(logdir)
        self._resume_from = check_resume(resume_from)
        self._clock = clock
        is_overlap = self._resume_from is not None and warn_of_overlap(self._logdir, self._resume_from)
        self._warning: LossWarning | None = None
        self._file = self._begin_file(is_overlap_known=is_overlap)
        # Each record overwrites the buffer of its template, so a template belongs to one writer.
        self._template_of = functools.lru_cache(maxsize=SIZE)(_make_template)
        self._recent = ByIdentity[tuple[str, ...], RecordTemplate]()
        self._recent_others: tuple[str, ...] = ()
        self._descriptions = Descriptions()

    @property
    def path(self) -> Path:
        """The event file."""
        return self._file.path

    def write(self, record: Record) -> None:
        """Append one event with the scalars of the record, and one with its other values if it has any.

        Raises:
            StalledError: The events cannot be written now.
        """
        self.write_all([record])

    def write_all(self, records: Iterable[Record]) -> None:
        """Append the events of all records in one write, at little more than the cost of one.

        Raises:
            StalledError: The events cannot be written now; the file then holds none of them.
        """
        records = records if isinstance(records, ScalarRows) else tuple(records)
        is_written = False
        try:
            if events := self._joined(records):
                self._append(events)
            is_written = True
        finally:
            self._descriptions.end(is_written=is_written)
        if events:
            self._check_order(records)

    def _joined(self, records: Sequence[Record]) -> bytes | bytearray | memoryview:
        """Return the framed events of records, valid until the next call."""
        if isinstance(records, ScalarRows):
            return self._events_of_rows(records)
        # Joined, since the next record overwrites the bytes of the template.
        events = bytearray()
        for record in records:
            for framed in self._events(record):
                events += framed
        return events

    def _append(self, events: bytes | bytearray | memoryview) -> None:
        try:
            self._require_file()
            self._file.append(events)
        except OSError as error:
            raise StalledError(f"{self._file.path} cannot be written: {error}") from error

    def _check_order(self, records: Sequence[Record]) -> None:
        """Keep a warning if a step of written records goes back."""
        if isinstance(records, ScalarRows) and self._order.follow(records.tags, records.steps):
            return
        for record in records:
            back = self._order.check(record.tags, record.step)
            if record.histograms or record.images or record.texts or record.pr_curves:
                back = self._order.check(self._other_tags(record), record.step) or back
            if back is not None:
                self._warning = LossWarning(self._describe(back))

    def take_warning(self) -> LossWarning | None:
        """Return the warning about the last written records, once."""
        warning, self._warning = self._warning, None
        return warning

    def _describe(self, back: StepBack) -> str:
        tag, step = back.tag, back.step
        before = f"where an earlier run reached step {back.last}"
        remedy = f"To continue that run, or to replace these points, write Logger(logdir, resume_from={step})"
        if back.is_concurrent:
            before = f"where another Logger, still open, has reached step {back.last}"
            remedy = f"Close that Logger first, and write Logger(logdir, resume_from={step}) to repeat steps"
        elif not back.is_earlier_run:
            before = f"after its step {back.last}"
            remedy = f"Count steps across epochs, or write Logger(logdir, resume_from={step}) to repeat steps"
        return (
            f"step {step} of {tag} is logged to {self._logdir}, {before}: TensorBoard's default server hides "
            f"the earlier points of {tag} from step {step} on. {remedy}; or use a folder for each run."
        )

    def _other_tags(self, record: Record) -> tuple[str, ...]:
        """Return the tags of other values than scalars: one tuple for records of equal tags in a row."""
        tags = (*record.histograms, *record.images, *record.texts, *record.pr_curves)
        if tags != self._recent_others:
            self._recent_others = tags
        return self._recent_others

    def _events_of_rows(self, rows: ScalarRows) -> bytes | bytearray | memoryview:
        template = self._recent.find(rows.tags, self._template)
        if self._descriptions.are_pending:
            return b"".join([bytes(event) for record in rows for event in self._events(record)])
        return template.fill_rows(rows.steps, rows.wall_times, rows.values)

    def _events(self, record: Record) -> Iterator[bytes | memoryview]:
        if record.tags:
            yield self._scalars(record)
        if record.histograms:
            self._descriptions.add(record.histograms, is_histogram=True)
        others = list(_nonscalar_values(record, self._descriptions.take(record.histograms)))
        if others:
            yield frame(protos.event(record.step, record.wall_time, others))

    def _scalars(self, record: Record) -> bytes | memoryview:
        step, wall_time, tags, values = record.step, record.wall_time, record.tags, record.values
        whole = tags.whole if isinstance(tags, PresentTags) else tags
        template = self._recent.find(whole, self._template)
        if texts := self._descriptions.take(tags):
            described = [
                protos.described_scalar(tag, value, texts.get(tag, ""))
                for tag, value in zip(tags, values.tolist(), strict=True)
            ]
            return frame(protos.event(step, wall_time, described))
        if isinstance(tags, PresentTags):
            return template.fill_present(step, wall_time, values, tags.present)
        return template.fill(step, wall_time, values)

    def flush(self) -> None:
        """Return once all written records are on the disk itself.

        Raises:
            OSError: The file cannot be synced, or was deleted.
        """
        self._file.flush()

    def close(self) -> None:
        """Flush and close the file.

        Raises:
            OSError: As for `flush`; the file is closed nevertheless.
        """
        if self._superseded and self._resume_from is not None and not self._file.deleted:
            self._warning = self._warning or find_hidden(
                self.path, self._superseded, resume_from=self._resume_from, logged=self._order.logged()
            )
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file of a run that could not begin."""
        self._file.remove()

    def _begin_file(self, *, is_overlap_known: bool = False) -> AppendedFile:
        events = [protos.version_event(self._clock())]
        with locked_folder(self._logdir):
            known = set(self._logdir.glob("*tfevents*"))
            being_written = set(filter(is_open, known))
            earlier = functools.partial(last_steps, known - being_written, resume_from=self._resume_from)
            # Another writer of this logger may write the same records later, so the steps are read now.
            concurrent = last_steps(() if is_overlap_known else being_written, resume_from=None)
            self._order = StepOrder(earlier, concurrent)
            self._superseded: set[Path] = set()
            # A reader applies a START to all files before it, including those of open writers.
            if self._resume_from is not None and not being_written:
                self._superseded = known
                # TensorBoard's Python reader takes the first START of a folder for the beginning of the run.
                events += [protos.start_event(self._resume_from, self._clock())] * 2
            opening = b"".join(map(frame, events))
            return create_event_file(self._logdir, opening, clock=self._clock)

    def _require_file(self) -> None:
        """Begin a new file and raise StalledError if this one was deleted, since its records are lost."""
        if not self._file.deleted:
            return
        gone = self._file
        self._file = self._begin_file()
        self._descriptions = Descriptions()
        self._recent.clear()
        gone.release()
        raise StalledError(f"{gone.path} was deleted during the run; {self._file.path.name} replaces it")

    def _template(self, tags: tuple[str, ...]) -> RecordTemplate:
        self._descriptions.add(tags)
        # Equal tags of other tuples share a template, at the cost of their hash.
        return self._template_of(tags)


def _nonscalar_values(record: Record, texts: Mapping[str, str]) -> Iterator[Any]:
    """Yield the values of a record that are no scalars, as values of a Summary, described by the texts."""
    for tag, histogram in record.histograms.items():
        # A histogram without a finite element has no bounds; `<tag>/nonfinite` counts its elements.
        if np.any(histogram.counts):
            yield protos.histogram_value(tag, text=texts.get(tag, ""), **_filled_buckets(histogram))
    for tag, image in record.images.items():
        yield protos.image_value(tag, image)
    for tag, markdown in record.texts.items():
        yield protos.text_value(tag, markdown)
    for tag, curve in record.pr_curves.items():
        yield protos.pr_curve_value(tag, curve)
    if record.layout is not None:
        yield protos.layout_value(record.layout)
    if record.hparams is not None:
        hparams = record.hparams
        yield from protos.hparams_values(hparams.values, hparams.metrics, wall_time=record.wall_time)
    if record.ending is not None:
        yield protos.ending_value(record.ending, wall_time=record.wall_time)


def _filled_buckets(histogram: HistogramValue) -> dict[str, Any]:
    """Return the buckets between the smallest and the largest element, with the exact statistics."""
    filled = np.flatnonzero(histogram.counts)
    buckets = slice(filled[0], filled[-1] + 1)
    return {
        "counts": histogram.counts[buckets],
        "limits": np.minimum(histogram.edges[1:][buckets], histogram.max),
        "min": histogram.min,
        "max": histogram.max,
        "sum": histogram.sum,
        "sum_squares": histogram.sum_squares,
    }


def _make_template(tags: tuple[str, ...]) -> RecordTemplate:
    return RecordTemplate(list(map(protos.scalar_summary, tags)))
