"""The progress of a run: the last values of chosen tags, their curves, and the pace of the steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sowlog._printable import printable
from sowlog._tree.globs import pattern_of
from sowlog._tree.identity import ByIdentity
from sowlog.writers.record import Record

# A curve of twice so many points is thinned to half of them.
_POINTS = 64


class Glyphs(NamedTuple):
    """The characters of a view.

    Attributes:
        levels: the heights of a curve, the lowest first.
        ellipsis: the mark of a cut.
        bar: the parts of the progress bar that are done, and left.
    """

    levels: str
    ellipsis: str
    bar: tuple[str, str]


UNICODE = Glyphs("▁▂▃▄▅▆▇█", "…", ("━", "─"))
ASCII = Glyphs("_.-~=+*#", "~", ("=", "-"))
# The point of a curve that is NaN or infinite.
_NONFINITE = "!"


def glyphs_for(encoding: str | None) -> Glyphs:
    """Return the characters that a stream of this encoding can hold; None is a stream of text alone."""
    try:
        "".join((UNICODE.levels, UNICODE.ellipsis, *UNICODE.bar)).encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


class Curve:
    """The last values of a tag, and of a long run the means of several steps each.

    The last 32 points cover all of a run at first, and later at least about its last quarter.
    """

    def __init__(self) -> None:
        self._points: list[float] = []
        self._stride = 1
        self._sum = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        """Add the next value."""
        self._sum += value
        self._count += 1
        if self._count < self._stride:
            return
        self._points.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self._points) == 2 * _POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [(first + second) / 2 for first, second in pairs]
            self._stride *= 2

    def draw(self, width: int, glyphs: Glyphs) -> str:
        """Return the last points as characters, at most `width`.

        The lowest finite point and the highest have the lowest and the highest character; one that is not
        finite is an exclamation mark.
        """
        unfinished = [self._sum / self._count] if self._count else []
        points = [*self._points, *unfinished][-width:] if width > 0 else []
        finite = [point for point in points if math.isfinite(point)]
        low, high = min(finite, default=0.0), max(finite, default=0.0)
        return "".join(
            _level(point, low, high, glyphs.levels) if math.isfinite(point) else _NONFINITE
            for point in points
        )


def _level(point: float, low: float, high: float, levels: str) -> str:
    if low == high:
        return levels[len(levels) // 2 - 1]
    return levels[round((point - low) / (high - low) * (len(levels) - 1))]


class _Mark(NamedTuple):
    step: int
    time: float


class Pace:
    """The steps per second of the later part of a run, without the first step, which compiles.

    The part is at least the last half, so that an interruption is forgotten.
    """

    def __init__(self) -> None:
        self._start: _Mark | None = None

    def note(self, step: int, time: float) -> None:
        """Note the time of a step; a second record of the first step, or an earlier step, begins anew."""
        mark = _Mark(step, time)
        if self._start is None or step <= self._start.step:
            self._start = self._begin = self._middle = self._last = mark
        elif step > self._last.step:
            self._last = mark
            if time - self._start.time >= 2 * (self._middle.time - self._start.time):
                self._begin, self._middle = self._middle, mark

    def rate(self) -> float | None:
        """Return the steps per second; None before a second step."""
        if self._start is None:
            return None
        seconds = self._last.time - self._begin.time
        return (self._last.step - self._begin.step) / seconds if seconds > 0 else None

    def describe(self, steps: int | None) -> str:
        """Return the rate, and with the length of the run the time that is left; empty if unknown."""
        rate = self.rate()
        if not rate:
            return ""
        shown = f"{rate:.{int(rate < 100)}f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step"
        if steps is None:
            return shown
        return f"{shown}  {duration((steps - self._last.step) / rate)} left"


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Row:
    """A chosen tag with its last value and its curve.

    Attributes:
        tag: the tag as it is shown: control characters, which a terminal would obey, are escaped.
        rank: the place among all rows.
        is_kept: whether a record that has the tag is a line that stays.
        step: the step of the last value.
        value: the last value.
        curve: the values before.
    """

    def __init__(self, tag: str, rank: tuple[int, int], *, is_kept: bool) -> None:
        self.tag = printable(tag, most=len(tag))
        self.rank = rank
        self.is_kept = is_kept
        self.step = 0
        self.value = math.nan
        self.curve = Curve()

    def note(self, step: int, value: float) -> None:
        """Take the next value."""
        self.step, self.value = step, value
        self.curve.add(value)


class Progress:
    """The state of a run, of the tags that globs choose.

    Args:
        globs: globs of tags, in the order of the rows.
        kept: globs of the tags among them whose records are lines that stay.
        steps: the length of the run; None if unknown.

    Attributes:
        steps: the length of the run; None if unknown.
        step: the step of the last record; None before the first.
        pace: the pace of the run.
    """

    def __init__(self, globs: Sequence[str], *, kept: Sequence[str] = (), steps: int | None = None) -> None:
        self.steps = steps
        self.step: int | None = None
        self.pace = Pace()
        self._globs = list(map(pattern_of, globs))
        self._kept = list(map(pattern_of, kept))
        self._rows: dict[str, Row | None] = {}
        self._chosen = ByIdentity[tuple[str, ...], tuple[NDArray[np.intp], list[Row]]]()
        self._sorted: list[Row] | None = None

    def note(self, record: Record) -> list[Row]:
        """Note the scalars of a step; return the rows that have a new value, in order."""
        self.step = record.step
        self.pace.note(record.step, record.wall_time)
        places, rows = self._chosen.find(record.tags, self._choose)
        for row, value in zip(rows, record.values[places].tolist(), strict=True):
            row.note(record.step, value)
        return rows

    def rows(self) -> list[Row]:
        """Return all rows, by the order of the globs and of arrival."""
        if self._sorted is None:
            self._sorted = sorted(filter(None, self._rows.values()), key=lambda row: row.rank)
        return self._sorted

    def describe_step(self, step: int) -> str:
        """Return a step, with the length of the run if that is known."""
        return f"step {step}" if self.steps is None else f"step {step}/{self.steps}"

    def _choose(self, tags: tuple[str, ...]) -> tuple[NDArray[np.intp], list[Row]]:
        chosen = sorted(self._find(tags), key=lambda found: found[1].rank)
        return np.array([place for place, _ in chosen], np.intp), [row for _, row in chosen]

    def _find(self, tags: tuple[str, ...]) -> Iterator[tuple[int, Row]]:
        for place, tag in enumerate(tags):
            if tag not in self._rows:
                self._rows[tag] = self._row(tag)
                self._sorted = None
            row = self._rows[tag]
            if row is not None:
                yield place, row

    def _row(self, tag: str) -> Row | None:
        rank = next((rank for rank, glob in enumerate(self._globs) if glob.match(tag)), None)
        if rank is None:
            return None
        return Row(tag, (rank, len(self._rows)), is_kept=any(glob.match(tag) for glob in self._kept))


def number(value: float) -> str:
    """Return a value with four digits."""
    return f"{value:#.4g}".rstrip(".")


def shorten(text: str, cells: Sequence[int], width: int, ellipsis: str) -> str:
    """Return a text that is cut in its middle to a width, as layers differ in the ends of their tags.

    Args:
        text: the text.
        cells: the columns that each of its characters takes.
        width: the columns that there are, at least 1.
        ellipsis: the character in place of the middle.
    """
    if sum(cells) <= width:
        return text
    tail_width = width // 2
    head = sum(total <= width - 1 - tail_width for total in itertools.accumulate(cells))
    tail = sum(total <= tail_width for total in itertools.accumulate(reversed(cells)))
    return f"{text[:head]}{ellipsis}{text[len(text) - tail :]}"
