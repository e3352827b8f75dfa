"""Queue items of one `log` call, and their records once the device is read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from sowlog._log.arrays import Array
from sowlog._log.curves import Curve
from sowlog._log.images import Picture
from sowlog._log.texts import Text
from sowlog._reduce.distributions import HistogramValue
from sowlog._tree.layout import Layout, Packed
from sowlog.writers.record import Charts, Ending, HParams, Record

_NO_LAYOUT = Layout(())


class Item(NamedTuple):
    """One queued call: the values, images, text or curve of a step, which the device may still compute."""

    step: int
    wall_time: float
    packed: Packed | None = None
    scalars: Mapping[str, float] = MappingProxyType({})
    picture: Picture | None = None
    curve: Curve | None = None
    text: Text | None = None
    hparams: HParams | None = None
    ending: Ending | None = None
    charts: Charts | None = None
    row: int | None = None  # of a stacked buffer

    @property
    def nbytes(self) -> int:
        """The bytes of its arrays and its text; the scalars of a step are few, and count as 0."""
        text = 0 if self.text is None else len(self.text.markdown)
        return text + sum(array.nbytes for array in self.arrays)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its images and its curve."""
        drawn = (each.arrays for each in (self.picture, self.curve) if each is not None)
        return tuple(array for arrays in drawn for array in arrays)

    @property
    def is_of_run(self) -> bool:
        """Whether the item belongs to the run and to no step."""
        return self.hparams is not None or self.charts is not None

    @property
    def has_metrics(self) -> bool:
        """Whether it is of a `log` call, and not of the run, a text or a picture."""
        return not (self.is_of_run or self.picture or self.curve or self.text or self.ending)

    def is_ready(self) -> bool:
        """Return whether a read would return, or fail, without waiting for the device."""
        arrays: list[Any] = [self.packed and self.packed.buffer, *self.arrays]
        on_device = [array for array in arrays if isinstance(array, jax.Array)]
        # In this order: `is_ready` of a deleted array ends the process (jaxlib 0.10.2).
        return all(array.is_deleted() or array.is_ready() for array in cast(list[Any], on_device))


def start_copy(buffer: jax.Array) -> None:
    """Start the copy off the device, which begins once the values are computed; return at once."""
    # On the CPU the host reads in place, and a copy would only wake a thread, which costs 5 to 30 us.
    (device, *_) = buffer.devices()
    if device.platform != "cpu":
        buffer.copy_to_host_async()


def allow_transfers() -> AbstractContextManager[None]:
    """Return the context of the writer thread, in which a transfer guard of the process allows its reads."""
    return jax.transfer_guard_device_to_host("allow")


def read_item(item: Item) -> Record:
    """Wait for the device and return the record of the item."""
    tags: tuple[str, ...] = ()
    values = np.empty(0, np.float32)
    histograms: dict[str, HistogramValue] = {}
    if item.packed is not None:
        words = np.asarray(item.packed.buffer)
        words = words if item.row is None else words[item.row]
        tags, values = item.packed.layout.decode(words)
        histograms = item.packed.layout.decode_histograms(words)
    if item.scalars:
        layout = _NO_LAYOUT if item.packed is None else item.packed.layout
        tags = layout.extended(tags, tuple(item.scalars))
        # A scalar of an event file is float32, in which 1e300 is inf.
        with np.errstate(over="ignore"):
            on_host = np.fromiter(item.scalars.values(), np.float64, len(item.scalars)).astype(np.float32)
        values = np.concatenate((values, on_host))
    values.flags.writeable = False
    images = {} if item.picture is None else item.picture.draw()
    texts = {} if item.text is None else {item.text.tag: item.text.markdown}
    return Record(
        item.step,
        item.wall_time,
        tags,
        values,
        histograms,
        images,
        hparams=item.hparams,
        ending=item.ending,
        texts=texts,
        layout=item.charts,
        pr_curves={} if item.curve is None else item.curve.compute(),
    )
