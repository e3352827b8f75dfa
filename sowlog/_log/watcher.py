"""The look at each record for values that became NaN or infinite.

A record has the values of a step, and the notes of their tags have the order of execution. So the origin
costs nothing on the device, and one sum a record on the writer thread. Ranges of values before come from the
last records, which are kept as they are.
"""

import itertools
import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from sowlog._log.nonfinite import Neighbor, NonfiniteOrigin
from sowlog._reduce.basic import nonfinite
from sowlog._tree.layout import PresentTags
from sowlog._tree.sites import Site, site_of
from sowlog.writers._rows import ScalarRows
from sowlog.writers.record import Record

_Counts = NDArray[np.bool_] | None
"""Which tags are of numbers of elements that are not finite; None if none is."""

_KEPT = 16
_AROUND = 5


class Watcher:
    """Looks for values that become NaN or infinite, record by record.

    It reports the first such step, and is silent until the values of the report are finite again. A value
    that is infinite from its first record on, as the smallest logit behind a mask, is reported once, and does
    not silence others.
    """

    def __init__(self) -> None:
        # Records that came together are one entry, a matrix with a row for each.
        self._kept: deque[tuple[tuple[str, ...], NDArray[np.float32]]] = deque(maxlen=_KEPT)
        self._bad: set[str] = set()
        self._silencing: set[str] = set()
        self._whole: tuple[str, ...] = ()
        self._counting = _counting(())

    def look(self, record: Record) -> NonfiniteOrigin | None:
        """Return the origin if values of a record became NaN or infinite."""
        tags, values = record.tags, record.values
        counts = self._counts_in(tags)
        origin = None if not self._bad and _is_fine(values, counts) else self._look_closely(record, counts)
        self._kept.append((tags, values[None]))
        return origin

    def passes(self, rows: ScalarRows) -> bool:
        """Note rows of finite values; return False if their records need a closer look, one by one."""
        counts = self._counts_in(rows.tags)
        if self._bad or (counts is not None and rows.values[:, counts].any()):
            return False
        if len(rows) >= _KEPT:
            self._kept.clear()
        self._kept.append((rows.tags, rows.values[-_KEPT:]))
        return True

    def _counts_in(self, tags: tuple[str, ...]) -> _Counts:
        """Return which tags are of numbers of elements that are not finite."""
        whole = tags.whole if isinstance(tags, PresentTags) else tags
        # Records of one layout share the tuple of its tags.
        if whole is not self._whole:
            self._whole, self._counting = whole, _counting(whole)
        if self._counting is None or not isinstance(tags, PresentTags):
            return self._counting
        return self._counting[tags.present]

    def _look_closely(self, record: Record, counts: _Counts) -> NonfiniteOrigin | None:
        is_bad = ~np.isfinite(record.values)
        if counts is not None:
            is_bad |= counts & (record.values != 0)
        bad = set(itertools.compress(record.tags, is_bad.tolist()))
        new = bad - self._bad
        self._bad = (self._bad - set(record.tags)) | bad
        self._silencing &= self._bad
        if self._silencing or not new:
            return None
        self._silencing = {tag for tag in new if not math.isnan(self._range_of(tag)[0])}
        return self._origin(record, new)

    def _origin(self, record: Record, new: set[str]) -> NonfiniteOrigin:
        ordered = _in_order(record.tags)
        sites = dict(ordered)
        at = next(index for index, (tag, _) in enumerate(ordered) if tag in new)
        tag, site = ordered[at]
        values = dict(zip(record.tags, record.values.tolist(), strict=True))
        around = ordered[max(0, at - _AROUND) : at + _AROUND + 1]
        phase = site.source.phase if site else None
        return NonfiniteOrigin(
            record.step,
            tag,
            values[tag],
            phase,
            site.path if site else "",
            site.layers if site else (),
            site.source.place if site else "",
            tuple(Neighbor(near, *self._range_of(near), values[near]) for near, _ in around),
            tuple(other for other, _ in ordered if other in new and other != tag),
            tuple(
                other
                for other, of in sites.items()
                if of and phase and of.source.phase == phase and other not in self._bad
            ),
        )

    def _range_of(self, tag: str) -> tuple[float, float]:
        found = [values[:, tags.index(tag)].tolist() for tags, values in self._last_rows() if tag in tags]
        finite = list(filter(math.isfinite, itertools.chain(*found)))
        return (min(finite), max(finite)) if finite else (math.nan, math.nan)

    def _last_rows(self) -> list[tuple[tuple[str, ...], NDArray[np.float32]]]:
        """Return the values of the last records, `_KEPT` in all."""
        left, last = _KEPT, list[tuple[tuple[str, ...], NDArray[np.float32]]]()
        for tags, values in reversed(self._kept):
            if left <= 0:
                break
            last.append((tags, values[-left:]))
            left -= len(values)
        return last


def _is_fine(values: NDArray[np.float32], counts: _Counts) -> bool:
    """Return whether all values are surely finite, and no number of elements that are not is above 0."""
    # Squares of float32 do not overflow in float64. This takes half of the time of `isfinite`.
    wide = values.astype(np.float64)
    return math.isfinite(wide.dot(wide)) and (counts is None or not values[counts].any())


def _counting(tags: tuple[str, ...]) -> _Counts:
    counts = np.fromiter(map(_counts, tags), np.bool_, len(tags))
    return counts if counts.any() else None


def _counts(tag: str) -> bool:
    site = site_of(tag)
    # Of a histogram, such a number is logged behind its tag.
    return tag.endswith("/nonfinite") or (site is not None and site.reducer == nonfinite)


def _in_order(tags: tuple[str, ...]) -> list[tuple[str, Site | None]]:
    """Return tags and their sites in the order of execution; values that were not sown come after losses."""
    sites = [(tag, site_of(tag)) for tag in tags]
    return sorted(sites, key=lambda item: item[1].position if item[1] else (2, math.inf))
