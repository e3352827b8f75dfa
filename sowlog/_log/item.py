"""Queue items of one `log` call, and their records once the device is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from numpy.typing import NDArray

from sowlog._log.arrays import Array
from sowlog._log.curves import Curve
from sowlog._log.images import Picture
from sowlog._log.texts import Text
from sowlog._reduce.distributions import HistogramValue
from sowlog._tree.layout import Layout, Packed
from sowlog.writers._rows import ScalarRows
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
    def is_of_metrics(self) -> bool:
        """Whether it holds metrics alone, as nearly all items do."""
        return self[_AFTER_METRICS:] == _METRICS_ALONE

    @property
    def nbytes(self) -> int:
        """The bytes of its arrays and its text; the scalars of a step are few, and count as 0."""
        if self.is_of_metrics:
            return 0
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
        if self.packed is not None and not _is_ready(self.packed.buffer):
            return False
        return self.is_of_metrics or all(map(_is_ready, self.arrays))

    def wait(self) -> None:
        """Wait until a read would return, or fail."""
        if not self.is_ready():
            # The read raises the error of a failed computation again.
            with suppress(Exception):
                jax.block_until_ready((self.packed and self.packed.buffer, self.arrays))


_AFTER_METRICS = Item._fields.index("scalars") + 1
_METRICS_ALONE = (None,) * (len(Item._fields) - _AFTER_METRICS)


def _is_ready(array: Any) -> bool:
    # In this order: `is_ready` of a deleted array ends the process (jaxlib 0.10.2).
    return not isinstance(array, jax.Array) or array.is_deleted() or array.is_ready()


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
        tags = _layout_of(item).extended(tags, tuple(item.scalars))
        values = np.concatenate((values, _on_host(list(item.scalars.values()))))
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


def read_rows(items: Sequence[Item]) -> ScalarRows | None:
    """Return the records of items of one layout, or None if each has to be read by itself.

    That is so if an item has more than scalars, if a value is absent, NaN or infinite, and if a read fails.

    Args:
        items: two or more, whose values are there.
    """
    tags = _shared_tags(items)
    if not tags:
        return None
    try:
        values = _matrix(items)
    except Exception:
        # Its own read raises the error again, and counts the loss.
        return None
    # An absent value is a NaN as well.
    if not np.isfinite(values).all():
        return None
    return ScalarRows([item.step for item in items], [item.wall_time for item in items], tags, values)


def _shared_tags(items: Sequence[Item]) -> tuple[str, ...] | None:
    """Return the tags of items that have the same scalars, in one order, and nothing else; else None."""
    layout, names = _layout_of(items[0]), tuple(items[0].scalars)
    if layout.histograms:
        return None
    for item in items:
        if _layout_of(item) is not layout or tuple(item.scalars) != names or not item.is_of_metrics:
            return None
    return layout.extended(layout.scalars, names) if names else layout.scalars


def _layout_of(item: Item) -> Layout:
    return _NO_LAYOUT if item.packed is None else item.packed.layout


def _matrix(items: Sequence[Item]) -> NDArray[np.float32]:
    """Return the values of items of one layout, shape [items, tags]."""
    parts: list[NDArray[np.float32]] = []
    if items[0].packed is not None:
        buffers = [item.packed.buffer for item in items if item.packed is not None]
        parts.append(_words_of(buffers).reshape(len(items), -1).view(np.float32))
    if items[0].scalars:
        parts.append(_on_host([number for item in items for number in item.scalars.values()]).reshape(len(items), -1))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _words_of(buffers: Sequence[Any]) -> NDArray[np.uint32]:
    """Return the words of packed buffers, joined."""
    try:
        # Without an array for each, which costs as much as the rest of the read.
        return np.frombuffer(b"".join(buffers), np.uint32)
    except TypeError:
        # Only an array on one CPU has its bytes at hand.
        return np.concatenate([np.asarray(buffer) for buffer in buffers])


def _on_host(numbers: Sequence[float]) -> NDArray[np.float32]:
    # A scalar of an event file is float32, in which 1e300 is inf.
    with np.errstate(over="ignore"):
        return np.array(numbers, np.float64).astype(np.float32)
