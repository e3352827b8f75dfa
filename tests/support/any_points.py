"""The points of a run of any program and kind, as sowlog and as TensorBoard's EventAccumulator have them."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import sowlog
from sowlog._events.decoding import HistogramSummary, ImageSummary
from tests.support.event_shapes import (
    VERSION,
    HistogramProto,
    Summary,
    as_tensor,
    start,
    tensor_util,
    write_file,
)
from tests.support.tensorboard_reading import EventAccumulator, plugin_event_accumulator

Points = dict[str, list[tuple[int, float, str]]]
"""Step, wall time, and a text of the value that is equal for equal values, NaN included, by tag."""

UNREADABLE = "no value"
# Those that configure a tab are no values of a run.
_NO_VALUES = ("hparams", "custom_scalars")
_TENSORS = plugin_event_accumulator.TENSORS
_HISTOGRAM = ("min", "max", "num", "sum", "sum_squares", "bucket_limit", "bucket")
_KINDS = ("scalars", "histograms", "images", "audio", "tensors")


def sowlog_points(run: sowlog.Run) -> Points:
    """Return all points of a run; the values of audio stay in the file."""
    found: Points = defaultdict(list)
    for tag, (steps, values) in run.scalars.items():
        times = run.wall_times[tag].tolist()
        found[tag] += zip(steps.tolist(), times, map(repr, values.tolist()), strict=True)
    kinds = (run.histograms, run.images, run.texts, run.tensors, run.pr_curves)
    for tag, media in ((tag, media) for of_kind in kinds for tag, media in of_kind.items()):
        texts = [_of_sowlog(media.values, index) for index in range(len(media))]
        is_mixed = tag in found
        found[tag] += zip(media.steps.tolist(), media.wall_times.tolist(), texts, strict=True)
        if is_mixed:
            found[tag].sort(key=lambda point: point[1])
    return dict(found)


def _of_sowlog(values: Any, index: int) -> str:
    try:
        value = values[index]
    except ValueError as error:
        if "cannot be decoded" not in str(error):
            raise
        return UNREADABLE
    if isinstance(value, HistogramSummary):
        return _of_rows(np.stack([value.lefts, value.rights, value.counts], axis=1))
    if isinstance(value, ImageSummary):
        return repr((value.width, value.height, *value.encoded))
    return _of_array(np.array(value, object) if isinstance(value, str) else value)


def _of_array(array: Any) -> str:
    # A text of one element is a str to sowlog.
    elements = array.ravel().tolist()
    shape = (1,) if array.dtype == object and array.size == 1 else array.shape
    return repr((str(array.dtype), shape, elements))


def _of_rows(rows: Any) -> str:
    # TensorBoard's own are float32.
    with np.errstate(over="ignore"):
        return _of_array(rows.astype(np.float32))


def tensorboard_points(path: Path) -> Points:
    """Return the points of all kinds, unsampled and without those that are superseded.

    Args:
        path: a folder with event files. A first start is added: TensorBoard's reader of tensors takes the
            first one for the beginning of the run.
    """
    write_file(path, [VERSION, start(-(2**63))], name="events.out.tfevents.-.host")
    reader = EventAccumulator(str(path), size_guidance=dict.fromkeys(_KINDS, 0))
    reader.Reload()
    # The first reader drops no tensors, and the second one changes those of audio.
    tensors = plugin_event_accumulator.EventAccumulator(str(path), size_guidance={_TENSORS: 0})
    tensors.Reload()
    tags = reader.Tags()
    found: Points = defaultdict(list)
    for tag in tags["scalars"]:
        found[tag] += [(e.step, e.wall_time, repr(e.value)) for e in reader.Scalars(tag)]
    for tag in tags["histograms"]:
        found[tag] += [
            (e.step, e.wall_time, _of_histogram(e.histogram_value)) for e in reader.Histograms(tag)
        ]
    for tag in tags["images"]:
        images = reader.Images(tag)
        found[tag] += [
            (e.step, e.wall_time, repr((e.width, e.height, e.encoded_image_string))) for e in images
        ]
    for tag in tags["tensors"]:
        plugin = _plugin(reader, tag)
        if plugin not in _NO_VALUES:
            events = (reader if plugin == "audio" else tensors).Tensors(tag)
            found[tag] += [(e.step, e.wall_time, _of_tensor(e.tensor_proto, plugin)) for e in events]
    return {tag: points for tag, points in found.items() if points}


def _plugin(reader: Any, tag: str) -> str:
    try:
        return reader.SummaryMetadata(tag).plugin_data.plugin_name
    except KeyError:
        return ""


def _of_histogram(value: Any) -> str:
    """Return the rows that the tab of histograms shows."""
    proto = Summary.Value(
        tag="h", histo=HistogramProto(**{name: getattr(value, name) for name in _HISTOGRAM})
    )
    return _of_array(as_tensor(proto))


def _of_tensor(proto: Any, plugin: str) -> str:
    try:
        array = tensor_util.make_ndarray(proto)
    except (TypeError, ValueError, OverflowError):
        return UNREADABLE
    if array.dtype.names:
        # A quantized dtype has its integers in a field.
        array = array[array.dtype.names[0]]
    is_number = array.dtype.kind in "biuf"
    if plugin in ("", "scalars") and array.size == 1 and is_number:
        return repr(float(np.float32(array.item())))
    if plugin == "images":
        width, height, *encoded = array.tolist()
        return repr((int(width), int(height), *encoded))
    if plugin == "text":
        array = np.vectorize(lambda text: text.decode("utf-8", "replace"), otypes=[object])(array)
    return _of_rows(array) if plugin == "histograms" else _of_array(array)
