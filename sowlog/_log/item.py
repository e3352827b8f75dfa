"""Queue items of one `log` call, and their records once the device is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from sowlog._log.arrays import Array
from sowlog._log.pictures.curves import Curve
from sowlog._log.pictures.images import Picture
from sowlog._log.texts import Text
from sowlog._reduce.distributions import HistogramValue
from sowlog._tree.identity import ByIdentity
from sowlog._tree.layout import Layout, Packed
from sowlog.writers.record import Charts, Ending, HParams, Record

_NO_LAYOUT = Layout(())


class Item(NamedTuple):
    """One queued call: the values, images, text or curve of a step, which the device may still compute."""

    step: int
    wall_time: float
    packed: Packed | None = None
    scalars: Mapping[str, float] = MappingProxyType({})
    row: int | None = None  # of a stacked buffer
    picture: Picture | None = None
    curve: Curve | None = None
    text: Text | None = None
    hparams: HParams | None = None
    ending: Ending | None = None
    charts: Charts | None = None

    @property
    def layout(self) -> Layout:
        """The layout of its packed tree; one of no tags without."""
        return _NO_LAYOUT if self.packed is None else self.packed.layout

    @property
    def nbytes(self) -> int:
        """The bytes of its arrays and its text; the scalars of a step are few, and count as 0."""
        if self.picture is None and self.curve is None and self.text is None:
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

    def is_computed(self) -> bool:
        """Return whether the device computes values of it, or has computed them."""
        packed = self.packed
        if packed is not None and not isinstance(packed.buffer, np.ndarray):
            return True
        return (self.picture is not None or self.curve is not None) and not all(map(_is_on_host, self.arrays))

    def is_ready(self) -> bool:
        """Return whether a read would return, or fail, without waiting for the device."""
        packed = self.packed
        if packed is not None and not _is_ready(packed.buffer):
            return False
        return (self.picture is None and self.curve is None) or all(map(_is_ready, self.arrays))

    def wait(self) -> None:
        """Wait until a read would return, or fail."""
        if not self.is_ready():
            # The read raises the error of a failed computation again.
            with suppress(Exception):
                jax.block_until_ready((self.packed and self.packed.buffer, self.arrays))


def _is_on_host(array: Any) -> bool:
    return isinstance(array, np.ndarray)


def _is_ready(array: Any) -> bool:
    # In this order: `is_ready` of a deleted array ends the process (jaxlib 0.10.2).
    return _is_on_host(array) or array.is_deleted() or array.is_ready()


def start_copy(buffer: jax.Array) -> None:
    """Start the copy off the device, which begins once the values are computed; return at once."""
    # Arrays of one jitted function share their sharding.
    if not _is_on_cpu.find(buffer.sharding, _is_of_cpus):
        buffer.copy_to_host_async()


_is_on_cpu = ByIdentity[jax.sharding.Sharding, bool]()


def _is_of_cpus(sharding: jax.sharding.Sharding) -> bool:
    # On the CPU the host reads in place, and a copy would only wake a thread, which costs 5 to 30 us.
    (device, *_) = sharding.device_set
    return device.platform == "cpu"


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
        # A copy, as a kept record would keep the whole stack.
        words = words if item.row is None else words[item.row].copy()
        tags, values = item.packed.layout.decode(words)
        histograms = item.packed.layout.decode_histograms(words)
    if item.scalars:
        tags = item.layout.extended(tags, tuple(item.scalars))
        values = np.concatenate((values, on_host(list(item.scalars.values()))))
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


def on_host(numbers: Sequence[float]) -> NDArray[np.float32]:
    """Return numbers of the host as float32."""
    # A scalar of an event file is float32, in which 1e300 is inf.
    with np.errstate(over="ignore"):
        return np.array(numbers, np.float64).astype(np.float32)
