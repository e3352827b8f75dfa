"""Folding: quantiles and a heat map in place of the scalars of each layer of a family."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sowlog._log.heat_maps import HeatMaps
from sowlog._log.tag_budget import TagWarning
from sowlog._tree.families import Family, matching_families, patterns_of
from sowlog._tree.layout import PresentTags
from sowlog._tree.sites import Tag, site_of
from sowlog.writers.record import Record

_SCALARS = ("p50", "p90", "max", "worst")
_PICTURE = "layers"
# Tuples of tags whose plans are known by identity, as steps of one layout share theirs.
_LAYOUTS = 64


class _Plan(NamedTuple):
    """The folding of records of one layout.

    Attributes:
        folded: the tags of a record that is folded: the others, then the scalars of each family.
        others: the positions of the tags that are not folded.
        members: positions of the tags of each family, `[families, layers]`, filled with the position behind.
        indices: of the same shape, the index of each layer.
        maps: the number of the heat map of each family; empty without heat maps.
        rows: of the shape of members, the places of the layers in the heat map.
    """

    folded: tuple[str, ...]
    others: NDArray[np.intp]
    members: NDArray[np.intp]
    indices: NDArray[np.float32]
    maps: NDArray[np.intp]
    rows: NDArray[np.intp]


class Folding:
    """Folds families of scalars in records.

    Args:
        globs: globs of the tags that are folded.
        heat_map_every: the number of records from one picture to the next; None for no pictures.
    """

    def __init__(self, globs: Iterable[str], *, heat_map_every: int | None) -> None:
        self._patterns = patterns_of(globs)
        self._heat_maps = None if heat_map_every is None else HeatMaps(heat_map_every)
        self._plans: dict[int, tuple[tuple[str, ...], _Plan | None]] = {}
        self._names: dict[str, str] = {}
        self._refused: set[str] = set()
        self._reasons: list[str] = []

    def fold(self, record: Record) -> Record:
        """Return a record with scalars of each family in place of those of its layers."""
        tags, values = record.tags, record.values
        if not (self._patterns and tags):
            return record
        whole = tags.whole if isinstance(tags, PresentTags) else tags
        plan = self._plan_of(whole, record)
        if plan is None:
            return record
        # One value behind, which is absent, fills the rows of short families.
        wide, present = np.full(len(whole) + 1, np.nan, np.float32), np.zeros(len(whole) + 1, np.bool_)
        present[:-1] = tags.present if isinstance(tags, PresentTags) else True
        wide[present] = values
        layers, is_present = wide[plan.members], present[plan.members]
        has_values: NDArray[np.bool_] = np.any(is_present, axis=1)
        scalars = _scalars(layers, is_present, plan.indices)
        kept = np.concatenate((present[plan.others], np.repeat(has_values, len(_SCALARS))))
        folded = np.concatenate((wide[plan.others], scalars.ravel()))[kept]
        folded.flags.writeable = False
        images = record.images
        if self._heat_maps is not None:
            pictures = self._heat_maps.add(record, plan.maps, plan.rows, layers, is_present)
            images = {**images, **pictures} if pictures else images
        return dataclasses.replace(
            record,
            tags=plan.folded if kept.all() else PresentTags.of(plan.folded, kept),
            values=folded,
            images=images,
        )

    def take_warning(self) -> TagWarning | None:
        """Return the warning of families that are not folded, once for each; None if there are none."""
        if not self._reasons:
            return None
        reasons, self._reasons = self._reasons, []
        remedy = "give one of them another name, or leave it out of fold="
        return TagWarning(f"{'; '.join(reasons)}: {remedy}.")

    def last_pictures(self) -> Iterator[Record]:
        """Return records of the pictures that are due at the end."""
        return iter(()) if self._heat_maps is None else self._heat_maps.last_pictures()

    def _plan_of(self, whole: tuple[str, ...], record: Record) -> _Plan | None:
        known = self._plans.get(id(whole))
        if known is not None:
            return known[1]
        if len(self._plans) >= _LAYOUTS:
            self._plans.clear()
        plan = self._make_plan(whole, {*whole, *record.histograms})
        # A reference to the tags keeps their id from being reused.
        self._plans[id(whole)] = whole, plan
        return plan

    def _make_plan(self, whole: tuple[str, ...], taken: set[str]) -> _Plan | None:
        families = [
            family for family in matching_families(whole, self._patterns) if self._is_free(family, taken)
        ]
        if not families:
            return None
        members = {place for family in families for place in family.positions}
        others = [place for place in range(len(whole)) if place not in members]
        shape = len(families), max(len(family.positions) for family in families)
        positions, indices = np.full(shape, len(whole), np.intp), np.zeros(shape, np.float32)
        for row, family in enumerate(families):
            positions[row, : len(family.positions)] = family.positions
            indices[row, : len(family.positions)] = family.indices
        folded = (
            *(whole[place] for place in others),
            *(tag for family in families for tag in _tags_of(family, whole)),
        )
        plan = _Plan(folded, np.array(others, np.intp), positions, indices, np.empty(0, np.intp), positions)
        return plan if self._heat_maps is None else _with_maps(plan, families, self._heat_maps)

    def _is_free(self, family: Family, taken: set[str]) -> bool:
        """Return whether the tags of a folded family are of no other value; note the reason if one is."""
        own = self._names.setdefault(family.name, family.glob)
        tags = [f"{family.name}/{name}" for name in (*_SCALARS, _PICTURE)]
        used = next((tag for tag in tags if tag in taken), None)
        reason = f"the tag {used}" if used else f"the name of {own}, {family.name}"
        if not used and own == family.glob:
            return True
        if family.glob not in self._refused:
            self._refused.add(family.glob)
            self._reasons.append(
                f"the scalars of {family.glob} are not folded, since another value has {reason}"
            )
        return False


def _with_maps(plan: _Plan, families: Sequence[Family], heat_maps: HeatMaps) -> _Plan:
    """Return a plan with a heat map for each family, which records of several layouts share."""
    maps, rows = np.empty(len(families), np.intp), np.zeros_like(plan.members)
    for place, family in enumerate(families):
        maps[place], own = heat_maps.place(f"{family.name}/{_PICTURE}", family.indices)
        rows[place, : len(own)] = own
    return plan._replace(maps=maps, rows=rows)


def _tags_of(family: Family, whole: tuple[str, ...]) -> list[str]:
    """Return the tags of a folded family; those of its values have the site of the layers."""
    site = site_of(whole[family.positions[0]])
    site = site and dataclasses.replace(site, layers=())
    return [Tag.of(f"{family.name}/{name}", None if name == "worst" else site) for name in _SCALARS]


def _scalars(
    layers: NDArray[np.float32], is_present: NDArray[np.bool_], indices: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return p50, p90, the largest value and its index of each row, `[families, 4]`.

    The quantiles are those of the inverted CDF, and NaN is larger than infinity.
    """
    count = is_present.sum(axis=1)
    # NaN comes last, as do absent values, which are NaN here.
    ordered = np.sort(layers, axis=1)
    ranks = [(count + 1) // 2, -(-9 * count // 10), count]
    rows = np.arange(len(layers))
    values = [ordered[rows, np.maximum(rank, 1) - 1] for rank in ranks]
    # The first NaN is the largest for argmax. An absent value is the largest where all others are -inf.
    worst = np.where(is_present, layers, -np.inf).argmax(axis=1)
    worst = np.where(is_present[rows, worst], worst, is_present.argmax(axis=1))
    return np.stack([*values, indices[rows, worst]], axis=1)
