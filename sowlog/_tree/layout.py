"""The layout of a packed buffer: the tag of each word, and the decoding on the host."""

import dataclasses
import functools
import itertools
from typing import Any, Literal, NoReturn, Self, TypeGuard, final

import jax
import jax.core
import numpy as np
from numpy.typing import NDArray

from sowlog import _html
from sowlog._reduce.bins import bin_count
from sowlog._reduce.distributions import HistogramValue
from sowlog._reduce.notes import Source
from sowlog._tree.html import packed_html
from sowlog._tree.sites import Site, site_of, source_of

ABSENT = np.uint32(0x7FC0AB5E)
"""The word of an absent value: a NaN with a reserved payload, which no computed NaN has."""

_SHOWN_TAGS = 8
_EXTENDED = 64

HISTOGRAM_SCALARS = ("min", "max", "sum", "sum_squares", "nan", "positive_inf", "negative_inf")


@final
class PresentTags(tuple[str, ...]):
    """The tags with a value at one step: a tuple that also has the tags of the whole layout.

    Absences may change at every step, and the layout does not: a writer encodes all tags once.

    Attributes:
        whole: the tags of the layout.
        present: bool, of the same length: True for the tags that are present.
    """

    whole: tuple[str, ...]
    present: NDArray[np.bool_]

    @classmethod
    def of(cls, whole: tuple[str, ...], present: NDArray[np.bool_]) -> Self:
        """Return the tags that are present."""
        tags = cls(itertools.compress(whole, present.tolist()))
        tags.whole, tags.present = whole, present
        return tags

    def joined(self, whole: tuple[str, ...]) -> "PresentTags":
        """Return these tags, and those that a longer layout has behind the tags of this one."""
        more = np.ones(len(whole) - len(self.whole), np.bool_)
        return PresentTags.of(whole, np.concatenate((self.present, more)))


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
        """The number of words."""
        return 2 * bin_count(self.sub_bins) + len(HISTOGRAM_SCALARS)

    def decode(self, words: NDArray[np.uint32]) -> HistogramValue:
        """Return the histogram of a stretch of words, on the host."""
        bins = bin_count(self.sub_bins)
        values = words.view(np.float32)
        exact = values[:bins].astype(np.float64) + values[bins : 2 * bins]
        scalars = dict(zip(HISTOGRAM_SCALARS, values[2 * bins :], strict=True))
        return HistogramValue(counts=exact, residues=np.zeros_like(exact), sub_bins=self.sub_bins, **scalars)


@final
@dataclasses.dataclass(frozen=True)
class Layout:
    """The tags of the words of a packed buffer: the scalars first, then the histograms.

    Attributes:
        scalars: the tag of each of the first words, which are the bits of float32 numbers.
        histograms: the histograms in the words behind the scalars.
    """

    scalars: tuple[str, ...]
    histograms: tuple[HistogramSlot, ...] = ()

    @functools.cached_property
    def words(self) -> int:
        """The size of the buffer."""
        return len(self.scalars) + sum(slot.words for slot in self.histograms)

    @functools.cached_property
    def sites(self) -> dict[str, Site]:
        """The sites of the tags that were sown."""
        tags = (*self.scalars, *(slot.tag for slot in self.histograms))
        return {str(tag): site for tag in tags if (site := site_of(tag))}

    @functools.cached_property
    def _extended(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        return {}

    def extended(self, tags: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
        """Return the tags of a step with more behind, one object for equal ones: writers cache by identity.

        Args:
            tags: `self.scalars`, or those that are present.
            more: the tags of numbers on the host.
        """
        whole = self._extended.get(more)
        if whole is None:
            if len(self._extended) >= _EXTENDED:
                self._extended.clear()
            whole = self._extended[more] = self.scalars + more
        return tags.joined(whole) if isinstance(tags, PresentTags) else whole

    def decode(self, words: NDArray[np.uint32]) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """Return the tags and float32 values of the scalars that are present.

        Args:
            words: uint32, a packed buffer on the host.

        Returns:
            The tags and, of the same length, their values. The tags are `self.scalars` itself if nothing is
            absent, `PresentTags` otherwise.
        """
        words = words[: len(self.scalars)]
        present = words != ABSENT
        values = words.view(np.float32)
        if present.all():
            return self.scalars, values
        return PresentTags.of(self.scalars, present), values[present]

    def decode_histograms(self, words: NDArray[np.uint32]) -> dict[str, HistogramValue]:
        """Return the histograms that are present, by tag, as NumPy arrays; counts in float64."""
        start, found = len(self.scalars), dict[str, HistogramValue]()
        for slot in self.histograms:
            own = words[start : start + slot.words]
            start += slot.words
            if own[0] != ABSENT:
                found[slot.tag] = slot.decode(own)
        return found


@final
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Packed:
    """The results of a tree of metrics in one device array, for a step to return and `log` to write.

    Attributes:
        buffer: uint32, shape [words].
        layout: the tags of the words (static).

    Example:
        >>> import sowlog
        >>> sowlog.pack({"loss": sowlog.mean.of([1.0, 2.0]), "lr": 0.1})
        Packed(2 metrics: loss, lr)
    """

    buffer: jax.Array
    layout: Layout = dataclasses.field(metadata={"static": True})

    def __repr__(self) -> str:
        tags = (*self.layout.scalars, *(slot.tag for slot in self.layout.histograms))
        shown = ", ".join((*tags[:_SHOWN_TAGS], *(["..."] if len(tags) > _SHOWN_TAGS else [])))
        return f"Packed({len(tags)} metric{'s' * (len(tags) != 1)}{shown and ': ' + shown})"

    def _repr_html_(self) -> str:
        try:
            check_packed(self, "shown")
            return packed_html(self.layout, self.buffer)
        except Exception:
            # The buffer is traced, deleted, stacked or on another host: the repr has the tags.
            return _html.code(repr(self))


# `in` compares identities first, in half of the time of a comparison of dtypes.
_WORDS = (np.dtype(np.uint32),)
Place = Literal["device", "host", "program"]
"""Where an array has its values; "program" if it is traced."""


@functools.lru_cache(maxsize=64)
def place_of(array_type: type) -> Place | None:
    """Return where arrays of a type have their values, "program" if they are traced; None for other types.

    Each `log` call asks for it, and `isinstance` with `jax.Array` takes ten times as long as this look-up.
    """
    if issubclass(array_type, jax.core.Tracer):
        return "program"
    if issubclass(array_type, np.ndarray):
        return "host"
    return "device" if issubclass(array_type, jax.Array) else None


def is_packed(node: Any) -> TypeGuard[Packed]:
    """Return whether a node of a tree is a packed tree, which holds results and no states."""
    return isinstance(node, Packed)


def check_packed(packed: Packed, verb: str, tag: str = "") -> Place:
    """Return the place of a packed tree's buffer, whose words are results only as `pack` returned it.

    Args:
        packed: a packed tree.
        verb: the participle of the operation in the message: "logged".
        tag: the packed tree's place in a tree.

    Raises:
        TypeError: Arithmetic or a cast has changed the bits, or the buffer is not an array.
        ValueError: The buffer is stacked or sliced.
        RuntimeError: The buffer was donated or deleted.
    """
    buffer: Any = packed.buffer
    place = place_of(type(buffer))
    # Every `log` call runs this check, so another function composes the message.
    if (
        place is None
        or buffer.shape != (packed.layout.words,)
        or buffer.dtype not in _WORDS
        or (place == "device" and buffer.is_deleted())
    ):
        refuse_packed(packed, f"{tag}: " if tag else "", verb)
    return place


def refuse_packed(packed: Packed, place: str, verb: str) -> NoReturn:
    """Raise the error of a packed tree that `check_packed` refuses, behind its place in the message."""
    buffer: Any = packed.buffer
    if place_of(type(buffer)) is None:
        raise TypeError(
            f"{place}a packed tree without an array was {verb}; its buffer is {type(buffer).__name__}. Use "
            "the result of `sowlog.pack` in the step."
        )
    if buffer.dtype not in _WORDS:
        raise TypeError(
            f"{place}a packed buffer of dtype {buffer.dtype} was {verb}: it holds the bits of results as "
            "uint32, which arithmetic and casts destroy. Merge states, then pack: "
            "`sowlog.pack(sowlog.merge(a, b))`, or `sowlog.all_reduce` over replicas."
        )
    if place_of(type(buffer)) == "device" and buffer.is_deleted():
        raise RuntimeError(
            f"{place}a packed tree was {verb} whose buffer is deleted: it was donated to a jitted function. "
            "Leave it out of donate_argnums."
        )
    if buffer.ndim != 1:
        raise ValueError(
            f"{place}a packed buffer of shape {buffer.shape} was {verb}: a scan or vmap has stacked the "
            "results of several steps. Log each step of a scan, log.steps(first, packed), or merge their "
            "states and pack once, or take each by itself: `jax.tree.map(lambda leaf: leaf[i], packed)`."
        )
    raise ValueError(
        f"{place}a packed buffer of {buffer.size} words was {verb}, and its layout has "
        f"{packed.layout.words}: use the whole result of `sowlog.pack`."
    )


def sources_of(scalars: tuple[str, ...], histograms: tuple[HistogramSlot, ...]) -> tuple[Source | None, ...]:
    """Return the sow of each tag, None where there is none."""
    return tuple(map(source_of, (*scalars, *(slot.tag for slot in histograms))))


def intern(scalars: tuple[str, ...], histograms: tuple[HistogramSlot, ...]) -> Layout:
    """Return one object per layout, so that layouts of two steps compare by identity."""
    return _interned(scalars, histograms, sources_of(scalars, histograms))


@functools.lru_cache(maxsize=256)
def _interned(
    scalars: tuple[str, ...], histograms: tuple[HistogramSlot, ...], sources: tuple[Source | None, ...]
) -> Layout:
    # Equal tags may be of different sows.
    del sources
    return Layout(scalars, histograms)
