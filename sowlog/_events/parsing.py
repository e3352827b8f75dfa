"""Serialized events and values, parsed by protobuf."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from google.protobuf.message import DecodeError

# Generated modules create their classes at import, so no type checker sees them.
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.plugin_hparams_pb2 import (
    HParamsPluginData,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from sowlog._events.points import OtherValue, ParsedEvent, ScalarPoint
from sowlog._events.restarts import declares_restarts
from sowlog._events.tensors import single_element

# The first tensor of a tag has the name of its plugin; the others may have none.
_SCALAR_PLUGINS = ("scalars", "")
_LAYOUT_PLUGIN = "custom_scalars"
_HPARAMS_PLUGIN = "hparams"
_KINDS = {"histo": "histograms", "image": "images"}


def scalar_points(payload: bytes) -> Iterator[ScalarPoint]:
    """Yield the scalars of one serialized Event, in order."""
    yield from parse_event(payload).points


def parse_event(payload: bytes, plugins: MutableMapping[str, str] | None = None) -> ParsedEvent:
    """Parse one serialized Event.

    Args:
        payload: the event.
        plugins: the plugin of each tag of the run so far, to which those of the event are added: only the
            first value of a tag has one.

    Raises:
        ValueError: The payload is no Event.
    """
    try:
        event = Event.FromString(payload)
    except DecodeError as error:
        raise ValueError(f"holds no Event: {error}") from error
    plugins = {} if plugins is None else plugins
    field = event.WhichOneof("what")
    restarts = event.session_log.status == SessionLog.START
    parsed = ParsedEvent(
        event.step,
        event.wall_time,
        event.step if restarts else None,
        declares_restarts(event.file_version) if field == "file_version" else None,
        [value.tag for value in event.summary.value] if field == "summary" else None,
        [],
        [],
        _hparams(event.summary.value),
        {},
    )
    for place, value in enumerate(event.summary.value):
        _add_value(parsed, value, place, plugins)
    return parsed


def parse_value(data: bytes) -> Any:
    """Return a serialized value of a summary as protobuf's Summary.Value.

    Raises:
        ValueError: It cannot be parsed.
    """
    try:
        return Summary.Value.FromString(data)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def _add_value(parsed: ParsedEvent, value: Any, place: int, plugins: MutableMapping[str, str]) -> None:
    field = value.WhichOneof("value")
    # A tensor of TensorFlow 1 may have its tag there.
    tag = value.tag or (value.node_name if field == "tensor" else "")
    if value.metadata.summary_description:
        parsed.descriptions[tag] = value.metadata.summary_description
    plugin = value.metadata.plugin_data.plugin_name
    plugin = plugins.setdefault(tag, plugin) if plugin else plugins.get(tag, "")
    scalar = _scalar(value, field, plugin)
    if scalar is not None:
        parsed.points.append(ScalarPoint(parsed.step, tag, scalar, parsed.wall_time))
    elif field == "tensor":
        if plugin not in (_LAYOUT_PLUGIN, _HPARAMS_PLUGIN):
            parsed.others.append(OtherValue(tag, plugin or "tensor", is_tensor=True, place=place))
    elif field is not None:
        parsed.others.append(OtherValue(tag, _KINDS.get(field) or str(field), is_tensor=False, place=place))


def _scalar(value: Any, field: str | None, plugin: str) -> float | None:
    """Return a Summary's value as a number, if it is a plain scalar or a scalar tensor of TensorFlow 2."""
    if field == "simple_value":
        return value.simple_value
    return single_element(value.tensor) if field == "tensor" and plugin in _SCALAR_PLUGINS else None


def _hparams(values: Any) -> dict[str, bool | float | str] | None:
    """Return the hyperparameters among a summary's values, or None if there are none."""
    for value in values:
        data = value.metadata.plugin_data
        if data.plugin_name != _HPARAMS_PLUGIN:
            continue
        try:
            content = HParamsPluginData.FromString(data.content)
        except DecodeError as error:
            raise ValueError(f"has hyperparameters that are no HParamsPluginData: {error}") from error
        if content.WhichOneof("data") == "session_start_info":
            hparams = content.session_start_info.hparams
            return {name: _setting(hparams[name]) for name in sorted(hparams)}
    return None


def _setting(value: Any) -> bool | float | str:
    kind = value.WhichOneof("kind")
    if kind in ("number_value", "string_value", "bool_value"):
        return getattr(value, kind)
    return "" if kind in (None, "null_value") else str(value)
