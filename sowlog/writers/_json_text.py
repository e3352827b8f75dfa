"""The JSON text of a record, in one line of ASCII; `json_lines` documents its form."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sowlog._events.json_lines.form import CURVE_ROWS, nonfinite_name, null_piece, scalar_piece
from sowlog._reduce.distributions import HistogramValue
from sowlog._tree.layout import PresentTags
from sowlog.writers.record import Record

# Sets of tags whose text is cached by identity.
_LAYOUTS = 64


class Encoder:
    """Encodes records; it caches the text of their tags, which steps of one layout share."""

    def __init__(self) -> None:
        self._pieces: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._templates: dict[int, tuple[tuple[str, ...], str]] = {}

    def line(self, record: Record, images: Mapping[str, Mapping[str, Any]]) -> str:
        """Return the line of a record, with its newline; empty if the record has no values.

        Args:
            record: the record.
            images: the references to its images, by tag.
        """
        parts = [*self._scalars(record), *_others(record)]
        if images:
            parts.append(("images", _dump(images)))
        if not parts:
            return ""
        fields = "".join(f',"{name}":{text}' for name, text in parts)
        return f'{{"step":{record.step},"time":{record.wall_time!r}{fields}}}\n'

    def _scalars(self, record: Record) -> list[tuple[str, str]]:
        if not record.tags:
            return []
        values = record.values.tolist()
        # The sum of float32 numbers is finite in a double, unless one of them is not.
        if math.isfinite(sum(values)):
            return [("scalars", self._template(record.tags) % tuple(values))]
        names = zip(record.tags, map(nonfinite_name, values), strict=True)
        named = {tag: name for tag, name in names if name}
        pieces = zip(self._present_pieces(record.tags), values, strict=True)
        shown = (piece % value if math.isfinite(value) else null_piece(piece) for piece, value in pieces)
        return [("scalars", "{" + ",".join(shown) + "}"), ("nonfinite", _dump(named))]

    def _template(self, tags: tuple[str, ...]) -> str:
        """Return the text of the scalars, with a place for each value."""
        if isinstance(tags, PresentTags):
            return "{" + ",".join(self._present_pieces(tags)) + "}"
        known = self._templates.get(id(tags))
        if known is not None:
            return known[1]
        if len(self._templates) >= _LAYOUTS:
            self._templates.clear()
        template = "{" + ",".join(map(scalar_piece, tags)) + "}"
        # A reference to the tuple keeps its id from being reused.
        self._templates[id(tags)] = tags, template
        return template

    def _present_pieces(self, tags: tuple[str, ...]) -> Iterable[str]:
        """Return the text of each tag, with a place for its value; that of a whole layout is cached."""
        if not isinstance(tags, PresentTags):
            return map(scalar_piece, tags)
        known = self._pieces.get(id(tags.whole))
        if known is None:
            if len(self._pieces) >= _LAYOUTS:
                self._pieces.clear()
            known = self._pieces[id(tags.whole)] = tags.whole, tuple(map(scalar_piece, tags.whole))
        return itertools.compress(known[1], tags.present.tolist())


def _others(record: Record) -> list[tuple[str, str]]:
    """Return the fields of a record beside scalars and images."""
    found: dict[str, Any] = {}
    if record.histograms:
        found["histograms"] = {tag: _histogram(value) for tag, value in record.histograms.items()}
    if record.pr_curves:
        found["pr_curves"] = {tag: _curve(curve) for tag, curve in record.pr_curves.items()}
    if record.texts:
        found["texts"] = dict(record.texts)
    if record.hparams is not None:
        found["hparams"] = {"values": dict(record.hparams.values), "metrics": record.hparams.metrics}
    if record.layout is not None:
        found["layout"] = {category: dict(charts) for category, charts in record.layout.items()}
    if record.ending is not None:
        found["ending"] = record.ending
    return [(name, _dump(value)) for name, value in found.items()]


def filled_buckets(value: HistogramValue) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the edges [n + 1] and counts [n] between the smallest and the largest element, all finite."""
    counts = np.asarray(value.counts, np.float64) + np.asarray(value.residues, np.float64)
    filled = np.flatnonzero(counts)
    if not filled.size:
        return np.empty(0), np.empty(0)
    buckets = slice(filled[0], filled[-1] + 1)
    edges = np.concatenate(([value.min], value.edges[1:][buckets][:-1], [value.max]))
    return edges.astype(np.float64), counts[buckets]


def _histogram(value: HistogramValue) -> dict[str, Any]:
    edges, counts = filled_buckets(value)
    numbers = {name: float(getattr(value, name)) for name in ("min", "max", "sum", "sum_squares")}
    apart = {name: float(getattr(value, name)) for name in ("nan", "positive_inf", "negative_inf")}
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        **{name: number if math.isfinite(number) else None for name, number in numbers.items()},
        **apart,
    }


def _curve(curve: NDArray[np.float32]) -> dict[str, list[float]]:
    return dict(zip(CURVE_ROWS, curve.astype(np.float64).tolist(), strict=True))


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
