"""Event files in the shapes of other programs, which need not be installed."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sowlog._events.framing import frame

with warnings.catch_warnings():
    # TensorBoard imports pkg_resources, which announces its own end; nothing of ours.
    warnings.simplefilter("ignore")
    from tensorboard import data_compat
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
    from tensorboard.plugins.histogram import summary_v2 as histogram_v2
    from tensorboard.plugins.hparams import metadata as hparams_metadata
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorboard.plugins.image import metadata as image_metadata
    from tensorboard.plugins.scalar import summary_v2 as scalar_v2
    from tensorboard.plugins.text import summary_v2 as text_v2
    from tensorboard.util import tensor_util

VERSION = Event(wall_time=1.0, file_version="brain.Event:2")


def write_file(folder: Path, events: Iterable[Any], *, name: str = "events.out.tfevents.1.host") -> Path:
    """Write events as a file of a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(b"".join(frame(event.SerializeToString()) for event in events))
    return path


def event(step: int, *values: Any, wall_time: float | None = None) -> Any:
    """Return an event with values of a summary, or with the values of summaries."""
    flat = [one for value in values for one in (value.value if isinstance(value, Summary) else [value])]
    return Event(
        step=step, wall_time=step + 0.5 if wall_time is None else wall_time, summary=Summary(value=flat)
    )


def start(step: int) -> Any:
    """Return the start of a session."""
    return Event(step=step, wall_time=step + 0.25, session_log=SessionLog(status=SessionLog.START))


def plain(tag: str, value: float) -> Any:
    """Return a scalar as tensorboardX and torch write it."""
    return Summary.Value(tag=tag, simple_value=value)


def histogram_v1(tag: str, counts: Sequence[float], limits: Sequence[float], low: float, high: float) -> Any:
    """Return a histogram as tensorboardX and torch write it."""
    proto = HistogramProto(
        min=low, max=high, num=sum(counts), sum=1.5, sum_squares=2.5, bucket_limit=limits, bucket=counts
    )
    return Summary.Value(tag=tag, histo=proto)


def image_v1(tag: str, encoded: bytes, width: int, height: int) -> Any:
    """Return an image as tensorboardX and torch write it."""
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    return Summary.Value(tag=tag, image=image)


def images_v2(tag: str, encoded: Sequence[bytes], width: int, height: int) -> Any:
    """Return images as TensorFlow 2 and clu write them."""
    metadata = image_metadata.create_summary_metadata(
        display_name=None, description="", converted_to_tensor=False
    )
    strings = [str(width).encode(), str(height).encode(), *encoded]
    return Summary.Value(
        tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto(np.array(strings, object))
    )


def tensor(tag: str, array: Any, *, plugin: str = "") -> Any:
    """Return a tensor, of a plugin if it is named."""
    data = SummaryMetadata.PluginData(plugin_name=plugin)
    metadata = SummaryMetadata(plugin_data=data) if plugin else None
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto(array))


def raw_tensor(tag: str, array: Any, *, plugin: str = "") -> Any:
    """Return a tensor with its bytes, as TensorFlow's C++ writes it."""
    value = tensor(tag, array, plugin=plugin)
    for field, _ in value.tensor.ListFields():
        if field.name.endswith("_val"):
            value.tensor.ClearField(field.name)
    value.tensor.tensor_content = np.asarray(array).tobytes()
    return value


def as_tensor(value: Any) -> Any:
    """Return the array to which TensorBoard's tabs migrate a value of an old kind."""
    return tensor_util.make_ndarray(data_compat.migrate_value(value).tensor)


def as_tensorflow_2(step: int, *, is_first: bool) -> Any:
    """Return a step as TensorFlow 2 writes it: of each tag only the first value has metadata."""
    made = event(
        step,
        scalar_v2.scalar_pb("loss", 1.0 / (step + 1)),
        histogram_v2.histogram_pb("weights", np.arange(5.0) * step, buckets=4),
        text_v2.text_pb("note", f"step {step}"),
        images_v2("samples", [b"first", b"second"], 4, 2),
        raw_tensor("matrix", np.full((2, 3), step, np.float64), plugin="mine"),
    )
    if not is_first:
        for value in made.summary.value:
            value.ClearField("metadata")
    return made


def keras_hparams(settings: dict[str, float | str]) -> Any:
    """Return hyperparameters as TensorBoard's own API for Keras writes them, beside a tensor without data."""
    start = plugin_data_pb2.SessionStartInfo()
    for name, value in settings.items():
        field = "string_value" if isinstance(value, str) else "number_value"
        setattr(start.hparams[name], field, value)
    data = plugin_data_pb2.HParamsPluginData(session_start_info=start)
    return Summary.Value(
        tag="_hparams_/session_start_info",
        metadata=hparams_metadata.create_summary_metadata(data),
        tensor=hparams_metadata.NULL_TENSOR,
    )
