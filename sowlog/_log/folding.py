"""Folding: quantiles and a heat map in place of the scalars of each layer of a family."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sowlog._log.pictures.heat_maps import HeatMaps
from sowlog._log.tag_budget import TagWarning
from sowlog._printable import describe_cause
from sowlog._tree.families import Family, matching_families, patterns_of
from sowlog._tree.identity import ByIdentity
from sowlog._tree.layout import PresentTags
from sowlog._tree.sites import Tag, site_of
from sowlog.writers.record import Record

_SCALARS = ("p50", "p90", "max", "worst")
_PICTURE = "layers"


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
        self._plans = ByIdentity[tuple[str, ...], _Plan | None]()
        # The tags of all other values; by tag, the family that is folded to it; the sizes of families, and
        # the first of each name.
        self._taken: set[str] = set()
        self._folded: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self._refused: set[str] = set()
        self._reasons: list[str] = []
        self._failure: TagWarning | None = None

    @property
    def is_active(self) -> bool:
        """Whether any family is folded."""
        return bool(self._patterns)

    def fold(self, record: Record) -> tuple[Record, ...]:
        """Return the record with scalars of each family in place of those of its layers.

        Behind it comes a record of the heat maps that are due, if there are any: a writer with a cadence
        takes them at any step.
        """
        if not self._patterns:
            return (record,)
        self._take((*record.histograms, *record.images, *record.texts, *record.pr_curves))
        tags, values = record.tags, record.values
        whole = tags.whole if isinstance(tags, PresentTags) else tags
        plan = self._plans.find(whole, self._make_plan) if whole else None
        if plan is None:
            return (record,)
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
        kept_tags = plan.folded if kept.all() else PresentTags.of(plan.folded, kept)
        written = dataclasses.replace(record, tags=kept_tags, values=folded, unfolded=record)
        tiles = record, plan.maps, plan.rows, layers, is_present
        return (written, *self._pictures(lambda heat_maps: [heat_maps.add(*tiles)]))

    def take_warning(self) -> TagWarning | None:
        """Return the warning of families that are not folded, once for each; None if there are none."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            return failure
        if not self._reasons:
            return None
        reasons, self._reasons = self._reasons, []
        remedy = "give one of them another name, or leave it out of fold="
        return TagWarning(f"{'; '.join(reasons)}: {remedy}.")

    def last_pictures(self) -> list[Record]:
        """Return records of the pictures that are due at the end, without those whose tag is in use."""
        drawn = self._pictures(HeatMaps.last_pictures)
        return [record for record in drawn if self._taken.isdisjoint(record.images)]

    def _pictures(self, draw: Callable[[HeatMaps], Iterable[Record | None]]) -> list[Record]:
        """Return the pictures that are drawn; without memory for them, say, none is drawn from here on."""
        if self._heat_maps is None:
            return []
        try:
            return [record for record in draw(self._heat_maps) if record is not None]
        except Exception as error:
            self._heat_maps = None
            self._failure = TagWarning(
                f"no further heat maps are drawn, which failed with {describe_cause(error)}: leave the "
                f"largest families out of fold=."
            )
            self._failure.__cause__ = error
            return []

    def _take(self, tags: tuple[str, ...]) -> None:
        """Note tags of other values; a family that was folded to one of them no longer is."""
        if self._taken.issuperset(tags):
            return
        self._taken.update(tags)
        for tag in sorted(self._folded.keys() & set(tags)):
            self._refuse(self._folded[tag], "no longer folded", f"the tag {tag}")
            self._plans.clear()

    def _make_plan(self, whole: tuple[str, ...]) -> _Plan | None:
        self._take(whole)
        found = matching_families(whole, self._patterns, known=self._sizes)
        families = [family for family in found if self._claim(family)]
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

    def _claim(self, family: Family) -> bool:
        """Return whether a family is folded: the tags that it is folded to are of no other value."""
        owner = self._owners.setdefault(family.name, family.glob)
        tags = [f"{family.name}/{name}" for name in (*_SCALARS, _PICTURE)]
        if used := next((tag for tag in tags if tag in self._taken), None):
            self._refuse(family.glob, "not folded", f"the tag {used}")
        elif owner != family.glob:
            self._refuse(family.glob, "not folded", f"the name of {owner}, {family.name}")
        if family.glob in self._refused:
            return False
        self._folded.update(dict.fromkeys(tags, family.glob))
        self._sizes[family.glob] = max(self._sizes.get(family.glob, 0), len(family.positions))
        return True

    def _refuse(self, glob: str, how: str, used: str) -> None:
        """Fold a family no longer, and note the reason for the warning."""
        if glob not in self._refused:
            self._refused.add(glob)
            self._reasons.append(f"the scalars of {glob} are {how}, since another value has {used}")


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
