"""The budget of scalar tags of a run, beyond which TensorBoard becomes slow."""

from __future__ import annotations

from collections.abc import Sequence

from sowlog._tree.families import Family, families_of
from sowlog._tree.identity import ByIdentity
from sowlog._tree.layout import PresentTags

# Families that the warning names, and globs that it suggests.
_NAMED = 5


class TagWarning(UserWarning):
    """A run logs more scalar tags than TensorBoard shows well, or a family of tags cannot be folded.

    Example:
        >>> import warnings, sowlog
        >>> with warnings.catch_warnings(record=True) as issued:
        ...     warnings.simplefilter("always")
        ...     with sowlog.Logger("unused", writers=[], tag_budget=4) as log:
        ...         log(0, {"blocks": {"entropy": [0.5, 1.5, 1.0, 0.25, 0.125]}})
        >>> print(issued[0].message)
        the run logs 5 scalar tags, more than tag_budget=4: TensorBoard becomes slow with thousands of ...
    """


class TagBudget:
    """Counts the scalar tags of a run.

    Args:
        limit: the number of tags beyond which a warning is due; None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        # A dict keeps the order, and the sites of the tags.
        self._tags: dict[str, str] = {}
        self._layouts = ByIdentity[tuple[str, ...], None]()

    def note(self, tags: tuple[str, ...]) -> TagWarning | None:
        """Count the tags of a record that is written; return the warning, once."""
        whole = tags.whole if isinstance(tags, PresentTags) else tags
        if self._limit is None or whole in self._layouts:
            return None
        self._layouts[whole] = None
        self._tags.update(zip(whole, whole, strict=True))
        if len(self._tags) <= self._limit:
            return None
        warning = TagWarning(_message(list(self._tags.values()), self._limit))
        self._limit = None
        self._tags.clear()
        self._layouts.clear()
        return warning


def _message(tags: Sequence[str], limit: int) -> str:
    families = sorted(families_of(tags), key=lambda family: -len(family.positions))
    count = (
        f"the run logs {len(tags)} scalar tags, more than tag_budget={limit}: TensorBoard becomes slow with "
        f"thousands of curves."
    )
    if not families:
        return f"{count} No tags are equal but for an index: log fewer of them, or raise tag_budget."
    named = ", ".join(f"{family.glob} ({len(family.positions)})" for family in families[:_NAMED])
    more = f" and {len(families) - _NAMED} more" if len(families) > _NAMED else ""
    return (
        f"{count} The largest families are {named}{more}. Fold families to quantiles and a heat map: "
        f"Logger(..., fold={_globs(families)!r}); or raise tag_budget."
    )


def _globs(families: Sequence[Family]) -> list[str]:
    """Return few globs that match the tags of all families."""
    single = [family.glob for family in families]
    first = list(dict.fromkeys(f"{glob.partition('/')[0]}/**" if "/" in glob else glob for glob in single))
    return next((globs for globs in (single, first) if len(globs) <= _NAMED), ["**"])
