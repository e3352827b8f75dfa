"""Records as bytes and back, complete: the entries of a spool.

The bytes are two texts of JSON, with the lengths of both in front, and the arrays behind them in the order of
the first text. The tags of the scalars are a text of their own, as steps of one layout share it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sowlog._reduce.distributions import HistogramValue
from sowlog._tree.layout import HISTOGRAM_SCALARS
from sowlog.writers.record import HParams, Record

_LENGTHS = struct.Struct("<II")
# Sets of tags whose text is cached, by identity and by the text.
_LAYOUTS = 64


class RecordEncoder:
    """Encodes records; it caches the text of their tags by identity."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[tuple[str, ...], bytes]] = {}

    def encode(self, record: Record) -> bytes:
        """Return a record as bytes; the notes that a sown tag has are left out."""
        fields: dict[str, Any] = {"step": record.step, "time": record.wall_time}
        arrays = [record.values.astype("<f4")]
        if record.histograms:
            fields["histograms"] = [
                [tag, value.sub_bins, len(np.asarray(value.counts))]
                for tag, value in record.histograms.items()
            ]
            arrays += [_histogram_array(value) for value in record.histograms.values()]
        if record.images:
            fields["images"] = [[tag, list(image.shape)] for tag, image in record.images.items()]
            arrays += record.images.values()
        if record.pr_curves:
            fields["pr_curves"] = [[tag, list(curve.shape)] for tag, curve in record.pr_curves.items()]
            arrays += [curve.astype("<f4") for curve in record.pr_curves.values()]
        if record.texts:
            fields["texts"] = dict(record.texts)
        if record.hparams is not None:
            fields["hparams"] = [dict(record.hparams.values), record.hparams.metrics]
        if record.layout is not None:
            fields["layout"] = {category: dict(charts) for category, charts in record.layout.items()}
        if record.ending is not None:
            fields["ending"] = record.ending
        if record.is_of_logger:
            fields["is_of_logger"] = True
        unfolded = b"" if record.unfolded is None else self.encode(record.unfolded)
        if unfolded:
            fields["unfolded"] = len(unfolded)
        head, tags = json.dumps(fields).encode("ascii"), self._text(record.tags)
        return b"".join(
            (_LENGTHS.pack(len(head), len(tags)), head, tags, *(each.tobytes() for each in arrays), unfolded)
        )

    def _text(self, tags: tuple[str, ...]) -> bytes:
        known = self._texts.get(id(tags))
        if known is not None:
            return known[1]
        if len(self._texts) >= _LAYOUTS:
            self._texts.clear()
        text = json.dumps(tags).encode("ascii")
        # A reference to the tuple keeps its id from being reused.
        self._texts[id(tags)] = tags, text
        return text


class RecordDecoder:
    """Decodes records; those of one layout share their tuple of tags, as a writer expects."""

    def __init__(self) -> None:
        self._tags: dict[bytes, tuple[str, ...]] = {}

    def decode(self, content: bytes) -> Record:
        """Return the record of its bytes."""
        head, size = _LENGTHS.unpack_from(content)
        start = _LENGTHS.size
        fields = json.loads(content[start : start + head])
        tags = self._tags_of(content[start + head : start + head + size])
        arrays = _Arrays(content, start + head + size)
        values = arrays.take("<f4", (len(tags),)).astype(np.float32, copy=False)
        layout = fields.get("layout")
        hparams = fields.get("hparams")
        return Record(
            fields["step"],
            fields["time"],
            tags,
            _read_only(values),
            MappingProxyType(
                {tag: _histogram(arrays, sub, bins) for tag, sub, bins in fields.get("histograms", ())}
            ),
            MappingProxyType(
                {tag: _read_only(arrays.take("u1", shape)) for tag, shape in fields.get("images", ())}
            ),
            hparams=hparams and HParams(MappingProxyType(hparams[0]), tuple(hparams[1])),
            ending=fields.get("ending"),
            texts=MappingProxyType(fields.get("texts", {})),
            layout=layout and {name: _charts(charts) for name, charts in layout.items()},
            pr_curves=MappingProxyType(
                {tag: _read_only(arrays.take("<f4", shape)) for tag, shape in fields.get("pr_curves", ())}
            ),
            is_of_logger=fields.get("is_of_logger", False),
            unfolded=self.decode(content[-fields["unfolded"] :]) if "unfolded" in fields else None,
        )

    def _tags_of(self, text: bytes) -> tuple[str, ...]:
        known = self._tags.get(text)
        if known is None:
            if len(self._tags) >= _LAYOUTS:
                self._tags.clear()
            known = self._tags[text] = tuple(json.loads(text))
        return known


class _Arrays:
    """The arrays of a record, taken one after another."""

    def __init__(self, content: bytes, start: int) -> None:
        self._content = content
        self._start = start

    def take(self, dtype: str, shape: Any) -> NDArray[Any]:
        """Return the next array."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape))
        array = np.frombuffer(self._content, kind, count, self._start).reshape(shape)
        self._start += count * kind.itemsize
        return array


def _histogram_array(value: HistogramValue) -> NDArray[np.float64]:
    counts = np.asarray(value.counts, np.float64) + np.asarray(value.residues, np.float64)
    scalars = [float(getattr(value, name)) for name in HISTOGRAM_SCALARS]
    return np.concatenate((counts, scalars)).astype("<f8")


def _histogram(arrays: _Arrays, sub_bins: int, bins: int) -> HistogramValue:
    numbers = arrays.take("<f8", (bins + len(HISTOGRAM_SCALARS),))
    scalars = dict(zip(HISTOGRAM_SCALARS, numbers[bins:].astype(np.float32), strict=True))
    counts = numbers[:bins]
    return HistogramValue(counts=counts, residues=np.zeros_like(counts), sub_bins=sub_bins, **scalars)


def _charts(charts: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {title: tuple(tags) for title, tags in charts.items()}


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
