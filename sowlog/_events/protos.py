"""Serialized Events, and the values of their summaries, made with the protobuf classes of tensorboardX.

The queue and the flush of tensorboardX's SummaryWriter lose records, so only its classes are used.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# Generated modules create their classes at import, so no type checker sees them.
from tensorboardX.proto import (
    api_pb2,
    layout_pb2,
    plugin_hparams_pb2,
    plugin_pr_curve_pb2,
    plugin_text_pb2,
    tensor_pb2,
    tensor_shape_pb2,
)
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import (
    HistogramProto,  # pyright: ignore[reportAttributeAccessIssue]
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
    SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
)

from sowlog._events.png import encode_png
from sowlog._printable import encodable

# A type checker sees no declarations in these modules.
_api_proto: Any = api_pb2
_hparams_proto: Any = plugin_hparams_pb2
_text_proto: Any = plugin_text_pb2
_pr_curve_proto: Any = plugin_pr_curve_pb2
_layout_proto: Any = layout_pb2
_tensor_proto: Any = tensor_pb2
_shape_proto: Any = tensor_shape_pb2
_HPARAM_KINDS: dict[type, tuple[int, str]] = {
    bool: (_api_proto.DATA_TYPE_BOOL, "bool_value"),
    int: (_api_proto.DATA_TYPE_FLOAT64, "number_value"),
    float: (_api_proto.DATA_TYPE_FLOAT64, "number_value"),
    str: (_api_proto.DATA_TYPE_STRING, "string_value"),
}

_FILE_VERSION = "brain.Event:2"
# Absent values make new sets of known tags, so the bytes of this many tags are cached.
_PIECES = 1 << 16


def version_event(wall_time: float) -> bytes:
    """Return the first event of an event file."""
    return Event(wall_time=wall_time, file_version=_FILE_VERSION).SerializeToString()


def start_event(step: int, wall_time: float) -> bytes:
    """Return the event by which a resumed run supersedes earlier points at and after a step."""
    start = SessionLog(status=SessionLog.START)
    return Event(wall_time=wall_time, step=step, session_log=start).SerializeToString()


def event(step: int, wall_time: float, values: Iterable[Any]) -> bytes:
    """Return the event with values of a Summary."""
    return Event(wall_time=wall_time, step=step, summary=Summary(value=values)).SerializeToString()


@functools.lru_cache(maxsize=_PIECES)
def scalar_summary(tag: str) -> bytes:
    """Return the Summary of one scalar, which ends with the four bytes of its value."""
    return Summary(value=[Summary.Value(tag=tag, simple_value=1.0)]).SerializeToString()


def described_scalar(tag: str, value: float, text: str) -> Any:
    """Return a scalar with the description of its tag as a Summary's value."""
    return _described(Summary.Value(tag=tag, simple_value=value), text, "scalars", data_class=1)


def _described(value: Any, text: str, plugin: str, *, data_class: int) -> Any:
    """Add a description, which TensorBoard's default server takes beside a plugin and a class of data."""
    if text:
        # The path of a source file may hold such bytes.
        value.metadata.summary_description = encodable(text)
        value.metadata.plugin_data.plugin_name = plugin
        # The field data_class = 4 of a SummaryMetadata, which tensorboardX does not declare.
        value.metadata.MergeFromString(bytes((4 << 3, data_class)))
    return value


def histogram_value(
    tag: str,
    *,
    counts: NDArray[Any],
    limits: NDArray[Any],
    min: float,
    max: float,
    sum: float,
    sum_squares: float,
    text: str = "",
) -> Any:
    """Return a histogram as a Summary's value.

    Args:
        tag: the tag.
        counts: the number, or the weight, of elements in each bucket.
        limits: the upper edge of each bucket.
        min: the smallest element.
        max: the largest element.
        sum: the sum of the elements.
        sum_squares: the sum of their squares.
        text: the description of the tag.
    """
    proto = HistogramProto(
        min=min,
        max=max,
        num=counts.sum(),
        sum=sum,
        sum_squares=sum_squares,
        bucket_limit=limits,
        bucket=counts,
    )
    return _described(Summary.Value(tag=tag, histo=proto), text, "histograms", data_class=2)


def image_value(tag: str, image: NDArray[np.uint8]) -> Any:
    """Return an image of shape [H, W, C] as a Summary's value."""
    height, width, channels = image.shape
    png = encode_png(image)
    proto = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
    return Summary.Value(tag=tag, image=proto)


def text_value(tag: str, markdown: str) -> Any:
    """Return Markdown as a Summary's value."""
    content = _text_proto.TextPluginData(version=0).SerializeToString()
    return _string_value(tag, encodable(markdown).encode(), plugin="text", content=content)


def pr_curve_value(tag: str, curve: NDArray[np.float32]) -> Any:
    """Return a precision-recall curve [6, thresholds] as a Summary's value.

    The layout is that of `tensorboard.plugins.pr_curve.summary`.
    """
    rows, thresholds = curve.shape
    shape = _shape_proto.TensorShapeProto()
    for size in (rows, thresholds):
        shape.dim.add(size=size)
    content = _pr_curve_proto.PrCurvePluginData(version=0, num_thresholds=thresholds).SerializeToString()
    tensor = _tensor_proto.TensorProto(
        dtype="DT_FLOAT", tensor_shape=shape, tensor_content=curve.astype("<f4").tobytes()
    )
    data = SummaryMetadata.PluginData(plugin_name="pr_curves", content=content)
    metadata = SummaryMetadata(display_name=tag, plugin_data=data)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def layout_value(charts: Mapping[str, Mapping[str, Iterable[str]]]) -> Any:
    """Return the layout of the Custom Scalars tab as a Summary's value."""
    categories = [
        _layout_proto.Category(title=category, chart=[_chart(*chart) for chart in of_category.items()])
        for category, of_category in charts.items()
    ]
    layout = _layout_proto.Layout(category=categories).SerializeToString()
    return _string_value("custom_scalars__config__", layout, plugin="custom_scalars")


def _chart(title: str, expressions: Iterable[str]) -> Any:
    lines = _layout_proto.MultilineChartContent(tag=expressions)
    return _layout_proto.Chart(title=title, multiline=lines)


def _string_value(tag: str, string: bytes, *, plugin: str, content: bytes = b"") -> Any:
    """Return bytes as a tensor of a plugin, without axes: TensorBoard shows one with axes as a table."""
    tensor = _tensor_proto.TensorProto(
        dtype="DT_STRING", string_val=[string], tensor_shape=_shape_proto.TensorShapeProto()
    )
    data = SummaryMetadata.PluginData(plugin_name=plugin, content=content)
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data), tensor=tensor)


def hparams_values(
    values: Mapping[str, bool | float | str], metrics: Iterable[str], *, wall_time: float
) -> Iterator[Any]:
    """Yield the start of the run and, if metrics are chosen, the columns of the table.

    Without columns TensorBoard shows all hyperparameters and all scalars of all runs.
    """
    start = _hparams_proto.SessionStartInfo(start_time_secs=wall_time)
    infos: list[Any] = []
    for name, value in values.items():
        kind, field = _HPARAM_KINDS[type(value)]
        setattr(start.hparams[name], field, value)
        infos.append(_api_proto.HParamInfo(name=name, type=kind))
    columns = [_api_proto.MetricInfo(name=_api_proto.MetricName(tag=tag)) for tag in metrics]
    if columns:
        yield _hparams_value("experiment", _api_proto.Experiment(hparam_infos=infos, metric_infos=columns))
    yield _hparams_value("session_start_info", start)


def ending_value(ending: Literal["success", "failure"], *, wall_time: float) -> Any:
    """Return the ending of the run as a Summary's value."""
    status = {"success": _api_proto.STATUS_SUCCESS, "failure": _api_proto.STATUS_FAILURE}[ending]
    end = _hparams_proto.SessionEndInfo(status=status, end_time_secs=wall_time)
    return _hparams_value("session_end_info", end)


def _hparams_value(kind: str, data: Any) -> Any:
    """Return data of the HParams plugin as the metadata of a Summary's value without data."""
    content = _hparams_proto.HParamsPluginData(version=0, **{kind: data}).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    return Summary.Value(tag=f"_hparams_/{kind}", metadata=SummaryMetadata(plugin_data=plugin))
