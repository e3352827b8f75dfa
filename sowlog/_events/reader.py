"""The files of a run, read in order, and on from where they were left.

Each plain event is assigned to its layout when it is read, and the events of a layout are decoded together.
One whose set of tags occurs once is a single, decoded tag by tag. All others are parsed, by protobuf if they
have more than a version or the start of a session. Order and restarts are resolved at the end, by the
position of each event in the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np

from sowlog._events.blocks import equal_records, is_short
from sowlog._events.columns import EventLayout
from sowlog._events.contents import BYTE_BITS, Contents
from sowlog._events.decoding import DECODERS
from sowlog._events.framing import (
    FOOTER_SIZE,
    HEADER_SIZE,
    CorruptEventFile,
    read_payloads,
)
from sowlog._events.plain import Splitter, bare_event
from sowlog._events.points import ParsedEvent
from sowlog._events.tracking import FileTracker, TrackedFile
from sowlog._events.wire import value_places

# Records of one layout in a row, behind which others are read together: the tables of checksums cost as many.
_REPEATED = 1000
# Bytes of events held before they are decoded.
_HELD = 1 << 24


@final
class Reader:
    """Reads the files of one run.

    Attributes:
        contents: the points that were found.
        tracker: the files.
    """

    def __init__(self) -> None:
        self._splitter = Splitter()
        self.contents = Contents(DECODERS, self._splitter.tags)
        self.tracker = FileTracker()
        # By the size of an event; then by the slice between head and first number, and by its bytes.
        self._layouts: dict[int, dict[tuple[int, int], dict[bytes, list[EventLayout]]]] = {}
        # By the size and the numbers of the tags.
        self._by_tags: dict[tuple[int, bytes], list[EventLayout]] = {}
        self._full: dict[EventLayout, None] = {}
        self._held = 0
        self._plugins: dict[str, str] = {}
        # Of the file that is being read, as events of another layout may be found late.
        self._damage: list[CorruptEventFile] = []

    def read(self, paths: Sequence[Path]) -> bool:
        """Read the files on from where they were left; return whether anything is new.

        Raises:
            ChangedFilesError: A file that was read is not among them, is shorter, or is another one.
        """
        return self.tracker.read(paths, self._read_on)

    def _read_on(self, file: TrackedFile) -> list[CorruptEventFile]:
        self._damage = []
        try:
            self._read_records(file)
        except CorruptEventFile as damage:
            self._damage.append(damage)
        return self._damage

    def _read_records(self, file: TrackedFile) -> None:
        try:
            while (layout := self._read_singly(file)) is not None:
                self._read_together(file, layout)
        finally:
            self._decode_held()

    def _read_singly(self, file: TrackedFile) -> EventLayout | None:
        """Read record by record, to the end of the file or until many in a row have a layout: return it."""
        position, records = file.number << BYTE_BITS | file.end, file.records
        before, repeated = None, 0
        try:
            for payload in read_payloads(file.path, start=file.end, record=records):
                layout = self._route(payload, position)
                position += HEADER_SIZE + len(payload) + FOOTER_SIZE
                records += 1
                repeated = repeated + 1 if layout is before else 0
                before = layout
                if repeated == _REPEATED and layout is not None and is_short(layout):
                    return layout
        finally:
            file.end, file.records = position & (1 << BYTE_BITS) - 1, records
        return None

    def _read_together(self, file: TrackedFile, layout: EventLayout) -> None:
        """Read the records that follow with the same layout."""
        self._decode_held()
        stride = HEADER_SIZE + layout.size + FOOTER_SIZE
        for rows in equal_records(file.path, file.end, layout):
            starts = np.arange(file.end, file.end + len(rows) * stride, stride)
            columns = layout.decode_rows(rows, file.number << BYTE_BITS | starts)
            self.contents.add_columns(layout.tags, columns)
            file.end += len(rows) * stride
            file.records += len(rows)

    def _route(self, payload: bytes, position: int) -> EventLayout | None:
        """Add an event to its layout and return it, or parse the event."""
        layout = self._find(payload)
        if layout is None:
            layout = self._parse(payload, position)
            if layout is None:
                return None
        layout.hold(payload, position)
        self._full[layout] = None
        self._held += len(payload)
        if self._held > _HELD:
            self._decode_held()
        return layout

    def _find(self, payload: bytes) -> EventLayout | None:
        """Return the probable layout of an event, which `EventLayout.decode` checks in full."""
        for (start, stop), layouts in self._layouts.get(len(payload), {}).items():
            found = layouts.get(payload[start:stop])
            if found is not None:
                if len(found) == 1:
                    return found[0]
                return self._find_by_tags(payload)
        return None

    def _find_by_tags(self, payload: bytes) -> EventLayout | None:
        """Return the layout of an event, found by all of its tags, as many layouts may begin alike."""
        event = self._splitter.split(payload)
        if event is None:
            return None
        found = self._by_tags.get((len(payload), event.numbers), ())
        return next((layout for layout in found if layout.holds(payload)), None)

    def _parse(self, payload: bytes, position: int) -> EventLayout | None:
        """Parse an event; return its new layout, or None if its points are added one by one.

        The first event of a set of tags is a single; the second creates a layout.
        """
        event = self._splitter.split(payload)
        if event is None:
            self._add_parsed(payload, position)
            return None
        if self.contents.singles.keep(event, position):
            return None
        layout = EventLayout(self._splitter.names(event), payload, event)
        self.contents.add_columns(layout.tags, self.contents.singles.release(event))
        layouts = self._layouts.setdefault(layout.size, {}).setdefault(layout.probe, {})
        layouts.setdefault(payload[slice(*layout.probe)], []).append(layout)
        self._by_tags.setdefault((layout.size, event.numbers), []).append(layout)
        return layout

    def _add_parsed(self, payload: bytes, position: int) -> None:
        """Add an event that is not plain."""
        try:
            event = bare_event(payload) or self._parsed(payload)
            places = value_places(payload) if event.others else []
        except ValueError as error:
            raise self._damage_at(position, str(error)) from error
        start = (position & (1 << BYTE_BITS) - 1) + HEADER_SIZE
        self.contents.add_event(event, position, payload, places, start)
        self.contents.add_points(event.points, position)

    def _parsed(self, payload: bytes) -> ParsedEvent:
        """Parse an event by protobuf."""
        from sowlog._events.parsing import parse_event  # noqa: PLC0415 - as long as reading 10^6 points

        return parse_event(payload, self._plugins)

    def _decode_held(self) -> None:
        self._held = 0
        while self._full:
            layout, _ = self._full.popitem()
            columns, misfits = layout.decode()
            self.contents.add_columns(layout.tags, columns)
            for payload, position in misfits:
                self._route_misfit(payload, position)

    def _route_misfit(self, payload: bytes, position: int) -> None:
        """Assign an event that only begins like others of its size; its layout is distinct from then on."""
        try:
            layout = self._find(payload)
            if layout is None or not layout.holds(payload):
                layout = self._parse(payload, position)
        except CorruptEventFile as damage:
            self._damage.append(damage)
            return
        if layout is not None:
            layout.hold(payload, position)
            self._full[layout] = None

    def _damage_at(self, position: int, cause: str) -> CorruptEventFile:
        path, place = self.tracker.files[position >> BYTE_BITS], position & (1 << BYTE_BITS) - 1
        offset = 0
        for record, payload in enumerate(read_payloads(path)):
            if offset == place:
                return CorruptEventFile(path, offset, record, cause)
            offset += HEADER_SIZE + len(payload) + FOOTER_SIZE
        raise AssertionError(f"{path} changed while it was read.")
