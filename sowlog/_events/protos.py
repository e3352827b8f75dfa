"""Events and summaries, built with tensorboardX's protobuf classes."""

from __future__ import annotations

import functools
import struct

# Generated modules make their classes at import, where no type checker sees them.
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

# Tags whose bytes are kept: what is absent at some step makes another set of known tags.
_PIECES = 1 << 16


@functools.lru_cache(maxsize=_PIECES)
def scalar_summary(tag: str) -> bytes:
    """Return the Summary of one scalar, whose last four bytes are its value."""
    return Summary(value=[Summary.Value(tag=tag, simple_value=1.0)]).SerializeToString()


def event_bodies(tags: tuple[str, ...]) -> tuple[bytes, bytes]:
    """Return two serialized Events of these tags, without time and step, that differ in the values only."""
    return _event_of(tags, b"\1\1\1\1"), _event_of(tags, b"\2\2\2\2")


def _event_of(tags: tuple[str, ...], bits: bytes) -> bytes:
    (value,) = struct.unpack("<f", bits)
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag in tags])
    return Event(summary=summary).SerializeToString()
