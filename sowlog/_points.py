"""Serialized events as points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

# Generated modules make their classes at import, where no type checker sees them.
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]


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
    """Yield the plain scalars of one serialized Event, in order."""
    yield from _points(Event.FromString(payload))


class ParsedEvent(NamedTuple):
    """What an event means to a reader of scalars.

    Attributes:
        restart: the step from which on all that came before is superseded, if the event says so.
        points: the event's plain scalars.
    """

    restart: int | None
    points: list[ScalarPoint]


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
    return ParsedEvent(event.step if restarts else None, list(_points(event)))


def _points(event: Any) -> Iterator[ScalarPoint]:
    for value in event.summary.value:
        if value.WhichOneof("value") == "simple_value":
            yield ScalarPoint(event.step, value.tag, value.simple_value, event.wall_time)
