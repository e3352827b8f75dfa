"""The layout of a packed buffer: which word is which tag, read on the host."""

import dataclasses
import functools
from typing import final

import jax
import numpy as np
from numpy.typing import NDArray

from sowlog._distributions import HistogramValue, bin_count

ABSENT = np.uint32(0x7FC0AB5E)
"""The word of a value that was not sown: a NaN with a payload of its own, which no computed NaN has."""

HISTOGRAM_SCALARS = ("min", "max", "sum", "sum_squares", "nan", "positive_inf", "negative_inf")


@final
@dataclasses.dataclass(frozen=True)
class HistogramSlot:
    """A histogram in a packed buffer: its counts, their residues, and its scalars.

    Attributes:
        tag: the histogram's tag.
        sub_bins: its bins per power of two.
    """

    tag: str
    sub_bins: int

    @property
    def words(self) -> int:
        """How many words it takes."""
        return 2 * bin_count(self.sub_bins) + len(HISTOGRAM_SCALARS)

    def decode(self, words: NDArray[np.uint32]) -> HistogramValue:
        """Returns the histogram that its words hold, on the host."""
        bins = bin_count(self.sub_bins)
        values = words.view(np.float32)
        exact = values[:bins].astype(np.float64) + values[bins : 2 * bins]
        scalars = dict(zip(HISTOGRAM_SCALARS, values[2 * bins :], strict=True))
        return HistogramValue(counts=exact, residues=np.zeros_like(exact), sub_bins=self.sub_bins, **scalars)


@final
@dataclasses.dataclass(frozen=True)
class Layout:
    """Which word of a packed buffer is which tag: the scalars first, then the histograms.

    Attributes:
        scalars: the tag of each of the first words, which are the bits of float32 numbers.
        histograms: what stands in the words that follow.
    """

    scalars: tuple[str, ...]
    histograms: tuple[HistogramSlot, ...] = ()

    def decode(self, words: NDArray[np.uint32]) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """Returns the tags and float32 values of the scalars that were sown.

        Args:
            words: uint32, a packed buffer on the host.

        Returns:
            The tags and, of the same length, their values; `self.scalars` itself if nothing is absent.
        """
        words = words[: len(self.scalars)]
        present = words != ABSENT
        values = words.view(np.float32)
        if present.all():
            return self.scalars, values
        return tuple(tag for tag, there in zip(self.scalars, present, strict=True) if there), values[present]

    def decode_histograms(self, words: NDArray[np.uint32]) -> dict[str, HistogramValue]:
        """Returns the histograms that were sown, by tag, as NumPy arrays; counts in float64."""
        start, found = len(self.scalars), dict[str, HistogramValue]()
        for slot in self.histograms:
            own = words[start : start + slot.words]
            start += slot.words
            if own[0] != ABSENT:
                found[slot.tag] = slot.decode(own)
        return found


@final
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """The results of a tree of metrics in one device array: what a step returns and `log` takes.

    Attributes:
        buffer: uint32, shape [number of scalars].
        layout: which word is which tag (static).
    """

    buffer: jax.Array
    layout: Layout = dataclasses.field(metadata={"static": True})


@functools.lru_cache(maxsize=256)
def intern(scalars: tuple[str, ...], histograms: tuple[HistogramSlot, ...]) -> Layout:
    """Returns one object per layout, so that comparing two steps' layouts is comparing pointers."""
    return Layout(scalars, histograms)
