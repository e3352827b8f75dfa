"""The names of a packed buffer: a tag for each result of its leaves, with the site of the sow."""

import dataclasses
from collections.abc import Sequence
from typing import Any, final

from sowlog._reduce.notes import NOT_SOWN
from sowlog._tree import losses
from sowlog._tree.layout import HistogramSlot, Layout, intern, is_packed, sources_of
from sowlog._tree.leaves import check_tags
from sowlog._tree.sites import Site, Tag
from sowlog._tree.tags import is_state, join

_LAYOUTS = 256

Slot = tuple[int, str]
"""A result: the position of its leaf, and the suffix of its tag."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A layout without names: the leaf and the result of each word of a buffer.

    Attributes:
        scalars: the results in the first words.
        histograms: the histograms behind them, with their bins per power of two.
    """

    scalars: tuple[Slot, ...]
    histograms: tuple[tuple[Slot, int], ...]


_layouts: dict[Any, Layout] = {}
"""Layouts by plan, tags and sows."""


def name_layout(plan: Plan, tags: tuple[str, ...], leaves: Sequence[Any]) -> Layout:
    """Return the layout of a plan whose leaves have these tags, checked.

    Args:
        plan: the plan of the leaves.
        tags: a tag for each leaf, and behind those one for each tree of losses.
        leaves: the leaves, whose notes become those of the tags.
    """
    key = plan, tags, tuple(map(_sources_of, leaves))
    layout = _layouts.get(key)
    if layout is None:
        layout = _name_layout(plan, tags, leaves)
        if len(_layouts) >= _LAYOUTS:
            _layouts.clear()
        _layouts[key] = layout
    return layout


def _sources_of(leaf: Any) -> Any:
    """Return the key by which a leaf's notes compare: a step outside of jit sows in a new order each time."""
    if is_state(leaf):
        return leaf.note.source
    return sources_of(leaf.layout.scalars, leaf.layout.histograms) if is_packed(leaf) else None


def _name_layout(plan: Plan, tags: tuple[str, ...], leaves: Sequence[Any]) -> Layout:
    def named(slot: Slot) -> str:
        index, suffix = slot
        site = _site_of(leaves[index], suffix) if index < len(leaves) else None
        return Tag.of(join(tags[index], suffix), site)

    scalars = tuple(map(named, plan.scalars))
    histograms = tuple(HistogramSlot(named(slot), sub_bins) for slot, sub_bins in plan.histograms)
    check_tags((*scalars, *(slot.tag for slot in histograms)))
    return intern(scalars, histograms)


def _site_of(leaf: Any, suffix: str) -> Site | None:
    if is_packed(leaf):
        return leaf.layout.sites.get(suffix)
    if not is_state(leaf) or leaf.note.source == NOT_SOWN:
        return None
    # A result may have the name of a number, in front of the indices.
    indices = [int(part) for part in suffix.split("/") if part.isdecimal()]
    layers = tuple(indices[max(0, len(indices) - leaf.seen.ndim) :])
    return Site(leaf.note, None if losses.is_loss(leaf) else leaf.reducer, layers)
