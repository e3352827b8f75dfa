"""Runs as JSON lines, in the form of `sowlog.writers.JsonLines`, which `sowlog.read` reads back."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from sowlog._events import frames
from sowlog._events.decoding import HistogramSummary, ImageSummary
from sowlog._events.json_lines.form import CURVE_ROWS, nonfinite_name, null_piece, save_image, scalar_piece
from sowlog._events.media import Media
from sowlog._events.reading import Run

JSON_KINDS = ("scalars", "histograms", "pr_curves", "texts", "hparams", "images")
"""The kinds of values that a file holds, in the order of a line."""

# Lines that are written at once.
_LINES = 1 << 12


def write_json_lines(
    file: BinaryIO, path: Path, runs: Mapping[str, Run], kinds: Sequence[str], tags: set[str]
) -> tuple[int, list[str]]:
    """Write a line for each step and time of each run, and images as files of a folder beside it.

    Args:
        file: the file, open.
        path: its path, which it has later.
        runs: the runs by name.
        kinds: the kinds that are written.
        tags: the tags that are written.

    Returns:
        The number of values, and descriptions of those that the form cannot hold.
    """
    lost: Counter[str] = Counter()
    count = 0
    for name, run in runs.items():
        head = f',"run":{json.dumps(name)}' if len(runs) > 1 else ""
        groups = _groups_of(run, path, kinds, tags, lost)
        held = [_hparams_line(run, groups, head)] if "hparams" in kinds and run.hparams else []
        count += len(held) and len(run.hparams)
        for line, values in _lines(groups, head):
            held.append(line)
            count += values
            if len(held) >= _LINES:
                file.write("".join(held).encode("ascii"))
                held.clear()
        file.write("".join(held).encode("ascii"))
    return count, [f"{number} {what}" for what, number in lost.items()]


class _Piece(NamedTuple):
    """A value of a line: the field that it is in, its tag, and its JSON behind the tag's."""

    field: str
    text: str
    nonfinite: tuple[str, str] | None = None


@final
class _Scalars:
    """Curves with points at the same steps and times."""

    def __init__(self, curves: Mapping[str, frames.Curve]) -> None:
        first = next(iter(curves.values()))
        self.steps, self.times = first.steps.tolist(), first.wall_times.tolist()
        self._tags = tuple(curves)
        self._pieces = tuple(map(scalar_piece, curves))
        self._values = np.stack([curve.values for curve in curves.values()], axis=1)

    def pieces(self, row: int) -> Iterator[_Piece]:
        """Yield the values of a row."""
        for tag, piece, value in zip(self._tags, self._pieces, self._values[row].tolist(), strict=True):
            if math.isfinite(value):
                yield _Piece("scalars", piece % value)
            else:
                yield _Piece("scalars", null_piece(piece), (tag, nonfinite_name(value)))


@final
class _Others:
    """The points of one tag that are no scalars.

    Args:
        field: the field of a line.
        tag: the tag.
        points: the points.
        encode: returns the form of a value in JSON, or raises ValueError if there is none.
        lost: counts the values that are left out.
    """

    def __init__(
        self,
        field: str,
        tag: str,
        points: Media[Any],
        encode: Callable[[str, int, Any], Any],
        lost: Counter[str],
    ) -> None:
        self.steps, self.times = points.steps.tolist(), points.wall_times.tolist()
        self._field, self._tag, self._values, self._encode = field, tag, points.values, encode
        self._lost = lost

    def pieces(self, row: int) -> Iterator[_Piece]:
        """Yield the value of a row."""
        try:
            value = self._encode(self._tag, self.steps[row], self._values[row])
            text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        except ValueError as error:
            self._lost[f"values of {self._tag}, {error}"] += 1
        else:
            yield _Piece(self._field, f"{json.dumps(self._tag)}:{text}")


_Group = _Scalars | _Others


def _groups_of(
    run: Run, path: Path, kinds: Sequence[str], tags: set[str], lost: Counter[str]
) -> list[_Group]:
    def save(tag: str, step: int, image: ImageSummary) -> Any:
        if len(image.encoded) != 1:
            raise ValueError(f"{len(image.encoded)} images in one")
        return save_image(path, tag, step, image.encoded[0], _shape_of(image))

    groups: list[_Group] = [*_curves(run, tags)] if "scalars" in kinds else []
    encoders = {"histograms": _histogram, "pr_curves": _curve, "texts": _text, "images": save}
    for kind, encode in encoders.items():
        if kind in kinds:
            points: Mapping[str, Media[Any]] = getattr(run, kind)
            groups += [_Others(kind, tag, points[tag], encode, lost) for tag in points if tag in tags]
    return [group for group in groups if group.steps]


def _curves(run: Run, tags: set[str]) -> Iterator[_Scalars]:
    """Yield the scalars, those of equal steps and times together."""
    found: dict[bytes, dict[str, frames.Curve]] = defaultdict(dict)
    for tag, series in run.scalars.items():
        if tag in tags:
            times = run.wall_times[tag]
            digest = hashlib.blake2b(series.steps.tobytes())
            digest.update(times.tobytes())
            found[digest.digest()][tag] = frames.Curve(series.steps, times, series.values)
    return map(_Scalars, found.values())


def _histogram(_tag: str, _step: int, value: HistogramSummary) -> Any:
    if not np.array_equal(value.rights[:-1], value.lefts[1:]):
        raise ValueError("whose buckets do not meet")
    numbers = {name: getattr(value, name) for name in ("min", "max", "sum", "sum_squares")}
    edges = np.append(value.lefts, value.rights[-1:]).tolist()
    if not all(map(math.isfinite, edges)):
        raise ValueError("whose buckets have no finite edges")
    known = {
        name: number if number is not None and math.isfinite(number) else None
        for name, number in numbers.items()
    }
    return {"edges": edges, "counts": value.counts.tolist(), **known}


def _curve(_tag: str, _step: int, value: NDArray[Any]) -> Any:
    if value.ndim != 2 or len(value) != len(CURVE_ROWS):
        raise ValueError(f"curves of shape {list(value.shape)}")
    return dict(zip(CURVE_ROWS, value.astype(np.float64).tolist(), strict=True))


def _text(_tag: str, _step: int, value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"texts of shape {list(value.shape)}")  # noqa: TRY004 - of the run
    return value


# Channels by the kind of colour in the header of a PNG.
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


def _shape_of(image: ImageSummary) -> tuple[int, int, int]:
    data = image.encoded[0]
    is_png = data.startswith(b"\x89PNG") and len(data) > 25
    return image.height, image.width, _CHANNELS.get(data[25], 3) if is_png else 3


def _hparams_line(run: Run, groups: Sequence[_Group], head: str) -> str:
    """Return the line of the hyperparameters, with the first time of the run: a `Run` has none of theirs."""
    first = min((group.times[0] for group in groups if math.isfinite(group.times[0])), default=None)
    values = json.dumps({"values": dict(run.hparams), "metrics": []}, separators=(",", ":"))
    return f'{{"step":0,"time":{json.dumps(first)}{head},"hparams":{values}}}\n'


def _lines(groups: Sequence[_Group], head: str) -> Iterator[tuple[str, int]]:
    """Yield the lines of a run by time, with the number of values in each.

    The points of a tag keep their order, whatever their times.
    """

    def place(number: int, row: int) -> tuple[float, int, int, int]:
        time = groups[number].times[row]
        return -math.inf if math.isnan(time) else time, groups[number].steps[row], number, row

    places = [place(number, 0) for number in range(len(groups))]
    heapq.heapify(places)
    while places:
        time, step, _, _ = places[0]
        rows: list[tuple[int, int]] = []
        while places and places[0][:2] == (time, step):
            rows.append(heapq.heappop(places)[2:])
        pieces: list[_Piece] = []
        for number, row in rows:
            pieces += groups[number].pieces(row)
            if row + 1 < len(groups[number].steps):
                heapq.heappush(places, place(number, row + 1))
        if pieces:
            shown = repr(time) if math.isfinite(time) else "null"
            yield f'{{"step":{step},"time":{shown}{head}{_fields(pieces)}}}\n', len(pieces)


def _fields(pieces: Sequence[_Piece]) -> str:
    texts: dict[str, list[str]] = defaultdict(list)
    for piece in pieces:
        texts[piece.field].append(piece.text)
    named = dict(piece.nonfinite for piece in pieces if piece.nonfinite is not None)
    fields = [(field, "{" + ",".join(texts[field]) + "}") for field in JSON_KINDS if field in texts]
    if named:
        fields.insert(1, ("nonfinite", json.dumps(named, separators=(",", ":"))))
    return "".join(f',"{field}":{text}' for field, text in fields)
