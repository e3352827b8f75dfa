"""What one call queues, and the record that it becomes once the device is read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from sowlog._log.images import Pixels, decode_images
from sowlog._reduce.distributions import HistogramValue
from sowlog._tree.layout import Packed, PresentTags
from sowlog.writers.record import Ending, HParams, Record


class Item(NamedTuple):
    """What one call queues: a step's values or images, which may still be under way on the device."""

    step: int
    wall_time: float
    packed: Packed | None = None
    scalars: Mapping[str, float] = MappingProxyType({})
    pixels: Pixels | None = None
    hparams: HParams | None = None
    ending: Ending | None = None

    @property
    def nbytes(self) -> int:
        """The bytes that its images hold while it waits; what a step holds beside them is little."""
        return 0 if self.pixels is None else self.pixels.array.nbytes

    def is_ready(self) -> bool:
        """Tell whether reading it would not wait; so it is with what cannot be read."""
        arrays: list[Any] = [self.packed and self.packed.buffer, self.pixels and self.pixels.array]
        on_device = [array for array in arrays if isinstance(array, jax.Array)]
        # In this order: `is_ready` of a deleted array ends the process (jaxlib 0.10.2).
        return all(array.is_deleted() or array.is_ready() for array in cast(list[Any], on_device))


def start_copy(buffer: jax.Array) -> None:
    """Let the copy off the device begin as soon as the values are there, without waiting."""
    # On the CPU the host reads in place; starting a copy would only wake a thread, which costs 5 to 30 us.
    (device, *_) = buffer.devices()
    if device.platform != "cpu":
        buffer.copy_to_host_async()


def allow_transfers() -> AbstractContextManager[None]:
    """Return the context in which items are delivered: a guard against stray transfers allows these."""
    return jax.transfer_guard_device_to_host("allow")


def read_item(item: Item) -> Record:
    """Wait for the device and return the item as a record."""
    tags: tuple[str, ...] = ()
    values = np.empty(0, np.float32)
    histograms: dict[str, HistogramValue] = {}
    if item.packed is not None:
        words = np.asarray(item.packed.buffer)
        tags, values = item.packed.layout.decode(words)
        histograms = item.packed.layout.decode_histograms(words)
    if item.scalars:
        on_host_tags = tuple(item.scalars)
        if isinstance(tags, PresentTags):
            tags = tags.joined(_join(tags.whole, on_host_tags))
        else:
            tags = _join(tags, on_host_tags)
        # A scalar of an event file is float32: 1e300 is inf there.
        with np.errstate(over="ignore"):
            on_host = np.fromiter(item.scalars.values(), np.float64, len(item.scalars)).astype(np.float32)
        values = np.concatenate((values, on_host))
    values.flags.writeable = False
    images = {} if item.pixels is None else decode_images(item.pixels)
    return Record(item.step, item.wall_time, tags, values, histograms, images, item.hparams, item.ending)


@functools.lru_cache(maxsize=64)
def _join(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """Return both, as one object for equal arguments: writers cache by it."""
    return first + second
