"""Serialized events as points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from google.protobuf.message import DecodeError

# Generated modules make their classes at import, where no type checker sees them.
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

# A tensor's plugin stands with the first of its tag, or with each.
_SCALAR_PLUGINS = ("scalars", "")
# Of TensorFlow's DataType: the dtype of an element, and the field of a TensorProto that lists them, where
# tensorboardX knows it.
_DTYPES: dict[int, tuple[np.dtype[Any], str]] = {
    1: (np.dtype(np.float32), "float_val"),
    2: (np.dtype(np.float64), "double_val"),
    3: (np.dtype(np.int32), "int_val"),
    4: (np.dtype(np.uint8), "int_val"),
    5: (np.dtype(np.int16), "int_val"),
    6: (np.dtype(np.int8), "int_val"),
    9: (np.dtype(np.int64), "int64_val"),
    10: (np.dtype(np.bool_), "bool_val"),
    14: (np.dtype(jnp.bfloat16), "half_val"),
    17: (np.dtype(np.uint16), "int_val"),
    19: (np.dtype(np.float16), "half_val"),
    22: (np.dtype(np.uint32), ""),
    23: (np.dtype(np.uint64), ""),
}


class ScalarPoint(NamedTuple):
    """One scalar as an event file holds it.

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
    """What an event means to a reader of scalars.

    Attributes:
        restart: the step from which on all that came before is superseded, if the event says so.
        points: the event's scalars.
        others: the tags and kinds of what it holds beside them.
    """

    restart: int | None
    points: list[ScalarPoint]
    others: list[tuple[str, str]]


def parse_event(payload: bytes) -> ParsedEvent:
    """Parse one serialized Event.

    Raises:
        ValueError: if it is none.
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
    return ParsedEvent(event.step if restarts else None, points, others)


def _scalar(value: Any) -> float | None:
    """Return a Summary's value as a number, if it is one: a plain scalar, or a tensor as TF 2 writes it."""
    field = value.WhichOneof("value")
    if field == "simple_value":
        return value.simple_value
    if field != "tensor" or value.metadata.plugin_data.plugin_name not in _SCALAR_PLUGINS:
        return None
    return _single_element(value.tensor)


def _single_element(tensor: Any) -> float | None:
    """Return the one element of a numeric tensor."""
    known = _DTYPES.get(tensor.dtype)
    if known is None or any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    dtype, field = known
    if tensor.tensor_content:
        if len(tensor.tensor_content) != dtype.itemsize:
            return None
        element = np.frombuffer(tensor.tensor_content, dtype.newbyteorder("<"))[0]
    elif not field:
        return None
    else:
        # Protobuf's shorthand: fewer elements than the shape says are repeated, and none are zeros.
        listed = list(getattr(tensor, field))
        # A half is stored as the integer of its bits.
        is_bits = field == "half_val"
        element = np.array(listed[:1] or [0], np.uint16 if is_bits else dtype)
        element = (element.view(dtype) if is_bits else element)[0]
    return float(element)


def _kind(value: Any) -> str | None:
    """Return what a Summary's value is called that is no scalar; None if it holds no data, as hparams do."""
    field = value.WhichOneof("value")
    if field is None:
        return None
    plugin = value.metadata.plugin_data.plugin_name
    return plugin or {"histo": "histograms", "image": "images"}.get(field, field)
