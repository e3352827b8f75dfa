"""Serialized events, parsed to points by protobuf."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

# Generated modules create their classes at import, so no type checker sees them.
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

# The first tensor of a tag has the name of its plugin; the others may have none.
_SCALAR_PLUGINS = ("scalars", "")
_LAYOUT_PLUGIN = "custom_scalars"
# NumPy has no such dtype, so its elements are read as their bits.
_BFLOAT16 = 14
# By TensorFlow's DataType: the dtype of an element, and the field of a TensorProto that lists the elements,
# if tensorboardX has it.
_DTYPES: dict[int, tuple[np.dtype[Any], str]] = {
    1: (np.dtype(np.float32), "float_val"),
    2: (np.dtype(np.float64), "double_val"),
    3: (np.dtype(np.int32), "int_val"),
    4: (np.dtype(np.uint8), "int_val"),
    5: (np.dtype(np.int16), "int_val"),
    6: (np.dtype(np.int8), "int_val"),
    9: (np.dtype(np.int64), "int64_val"),
    10: (np.dtype(np.bool_), "bool_val"),
    _BFLOAT16: (np.dtype(np.uint16), "half_val"),
    17: (np.dtype(np.uint16), "int_val"),
    19: (np.dtype(np.float16), "half_val"),
    22: (np.dtype(np.uint32), ""),
    23: (np.dtype(np.uint64), ""),
}


class ScalarPoint(NamedTuple):
    """One scalar of an event file.

    Attributes:
        step: the step.
        tag: the tag.
        value: a float32 value, widened.
        wall_time: seconds since the epoch.
    """

    step: int
    tag: str
    value: float
    wall_time: float


def scalar_points(payload: bytes) -> Iterator[ScalarPoint]:
    """Yield the scalars of one serialized Event, in order."""
    yield from parse_event(payload).points


class ParsedEvent(NamedTuple):
    """The contents of an event for a reader of scalars.

    Attributes:
        step: the step.
        restart: the step from which the event supersedes all earlier points, or None.
        points: the scalars of the event.
        others: the tags and kinds of its other values.
    """

    step: int
    restart: int | None
    points: list[ScalarPoint]
    others: list[tuple[str, str]]

    @property
    def tags(self) -> list[str]:
        """The tags of all values with data, of any kind."""
        return [*(point.tag for point in self.points), *(tag for tag, _ in self.others)]


def parse_event(payload: bytes) -> ParsedEvent:
    """Parse one serialized Event.

    Raises:
        ValueError: The payload is no Event.
    """
    try:
        event = Event.FromString(payload)
    except DecodeError as error:
        raise ValueError(f"holds no Event: {error}") from error
    restarts = event.session_log.status == SessionLog.START
    points, others = list[ScalarPoint](), list[tuple[str, str]]()
    for value in event.summary.value:
        scalar = _scalar(value)
        if scalar is not None:
            points.append(ScalarPoint(event.step, value.tag, scalar, event.wall_time))
        elif kind := _kind(value):
            others.append((value.tag, kind))
    return ParsedEvent(event.step, event.step if restarts else None, points, others)


def _scalar(value: Any) -> float | None:
    """Return a Summary's value as a number, if it is a plain scalar or a scalar tensor of TensorFlow 2."""
    field = value.WhichOneof("value")
    if field == "simple_value":
        return value.simple_value
    if field != "tensor" or value.metadata.plugin_data.plugin_name not in _SCALAR_PLUGINS:
        return None
    return _single_element(value.tensor)


def _single_element(tensor: Any) -> float | None:
    """Return the element of a numeric tensor, or None if it has several or another type."""
    known = _DTYPES.get(tensor.dtype)
    if known is None or any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    dtype, field = known
    if tensor.tensor_content:
        if len(tensor.tensor_content) != dtype.itemsize:
            return None
        element = np.frombuffer(tensor.tensor_content, dtype.newbyteorder("<"))
    elif not field:
        return None
    else:
        # Protobuf's shorthand: the last listed element is repeated to fill the shape, and no element means 0.
        listed = list(getattr(tensor, field))
        # A half is stored as the integer with its bits.
        is_bits = field == "half_val"
        element = np.array(listed[:1] or [0], np.uint16 if is_bits else dtype)
        element = element.view(dtype) if is_bits else element
    if tensor.dtype == _BFLOAT16:
        # The bits of a bfloat16 are the upper half of a float32's.
        element = (element.astype(np.uint32) << 16).view(np.float32)
    return float(element[0])


def _kind(value: Any) -> str | None:
    """Return the kind of a Summary's value that is no scalar; None for hyperparameters and a layout."""
    field = value.WhichOneof("value")
    plugin = value.metadata.plugin_data.plugin_name
    if field is None or plugin == _LAYOUT_PLUGIN:
        return None
    return plugin or {"histo": "histograms", "image": "images"}.get(field, field)
