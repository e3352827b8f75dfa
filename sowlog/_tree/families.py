"""Families of tags: the values of one name in each layer, head or expert, or in each module of a list."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, final

from sowlog._tree.globs import check_globs, pattern_of

# The number at the end of a part: layers_0, h12, 03. The number of a percentile, p50, is of no module.
_NUMBERED = re.compile(r"(?!p[0-9]+$)(?P<stem>.*?)(?P<number>[0-9]{1,9})")


@final
class Family(NamedTuple):
    """Tags that are equal but for an index, such as that of a layer.

    Attributes:
        name: the text of the tags without the index: blocks/entropy of blocks/entropy/07, layers/rms of
            layers_3/rms.
        glob: the tags with `*` for the index.
        positions: the positions of the tags among those that were searched, in the order of their indices.
        indices: the index of each tag; of several stacked axes the index in row-major order.
    """

    name: str
    glob: str
    positions: tuple[int, ...]
    indices: tuple[int, ...]


class _Axis(NamedTuple):
    """An index in a tag, which may be of several stacked axes."""

    name: str
    glob: str
    numbers: tuple[int, ...]


def families(tags: Iterable[str], globs: str | Iterable[str] = "**") -> dict[str, tuple[str, ...]]:
    """Return the families of tags that `Logger(fold=globs)` folds: the values of a name in each layer.

    Args:
        tags: tags of one record, such as `packed.layout.scalars`, whose stacked axes are known.
        globs: globs of the tags that are searched.

    Returns:
        The tags of each family by its name, in the order of their indices.

    Raises:
        TypeError: `globs` is no text, and not several.
        ValueError: A glob has an empty part.

    Example:
        >>> import sowlog
        >>> sowlog.families(["loss", "blocks/norm/00", "blocks/norm/01", "h_2/rms", "h_10/rms"])
        {'blocks/norm': ('blocks/norm/00', 'blocks/norm/01'), 'h/rms': ('h_2/rms', 'h_10/rms')}
        >>> list(sowlog.families(["blocks/norm/00", "blocks/norm/01", "h_2", "h_10"], "blocks/**"))
        ['blocks/norm']
    """
    tags = tuple(tags)
    found: dict[str, tuple[str, ...]] = {}
    for family in matching_families(tags, patterns_of(check_globs("globs of families", globs))):
        # Of two families of one name, the first is folded.
        found.setdefault(family.name, tuple(tags[position] for position in family.positions))
    return found


def patterns_of(globs: Iterable[str]) -> list[re.Pattern[str]]:
    """Return the regular expressions of globs."""
    return list(map(pattern_of, globs))


def matching_families(
    tags: Sequence[str],
    patterns: Sequence[re.Pattern[str]],
    *,
    known: Mapping[str, int] = MappingProxyType({}),
) -> list[Family]:
    """Return the families of those tags that match a regular expression, as `families_of` does."""
    matching = [place for place, tag in enumerate(tags) if any(each.match(tag) for each in patterns)]
    return [
        family._replace(positions=tuple(matching[position] for position in family.positions))
        for family in families_of([tags[place] for place in matching], known=known)
    ]


def families_of(tags: Sequence[str], *, known: Mapping[str, int] = MappingProxyType({})) -> list[Family]:
    """Return the families of two tags or more, in the order of their first tags.

    The stacked axes of a sown value are one index. In other names each number at the end of a part is an
    index: `layers_0/x`, `layers/0/x`. A tag with several indices belongs to the largest family, and among
    equally large ones to that of its first index.

    Args:
        tags: the tags of a record.
        known: the sizes of families of earlier records by glob, which may have a single tag here.
    """
    axes = [list(_axes(tag)) for tag in tags]
    sizes = Counter(axis.glob for of_tag in axes for axis in of_tag) | Counter(known)
    members: dict[str, list[tuple[int, _Axis]]] = defaultdict(list)
    for position, of_tag in enumerate(axes):
        if of_tag:
            best = max(of_tag, key=lambda axis: sizes[axis.glob])
            members[best.glob].append((position, best))
    return [_family(found) for glob, found in members.items() if len(found) > 1 or glob in known]


def _family(members: list[tuple[int, _Axis]]) -> Family:
    ordered = sorted(members, key=lambda member: member[1].numbers)
    indices = [axis.numbers for _, axis in ordered]
    sizes = [1 + max(of_axis) for of_axis in zip(*indices, strict=True)]
    _, axis = ordered[0]
    return Family(
        axis.name,
        axis.glob,
        tuple(position for position, _ in ordered),
        tuple(_flat(index, sizes) for index in indices),
    )


def _flat(index: tuple[int, ...], sizes: list[int]) -> int:
    strides = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
    return sum(number * stride for number, stride in zip(index, strides, strict=True))


def _axes(tag: str) -> Iterator[_Axis]:
    parts = tag.split("/")
    numbers = _stacked(tag)
    start = _start_of(numbers, parts)
    own = range(len(parts)) if start is None else [*range(start), *range(start + len(numbers), len(parts))]
    for place in own:
        part = parts[place]
        if (found := _NUMBERED.fullmatch(part)) is None:
            continue
        stem = found["stem"].rstrip("_-.")
        name = "/".join((*parts[:place], *([stem] if stem else []), *parts[place + 1 :]))
        if name:
            glob = "/".join((*parts[:place], f"{found['stem']}*", *parts[place + 1 :]))
            yield _Axis(name, glob, (int(found["number"]),))
    if start is not None and len(own):
        before, behind = parts[:start], parts[start + len(numbers) :]
        yield _Axis("/".join((*before, *behind)), "/".join((*before, *"*" * len(numbers), *behind)), numbers)


def _stacked(tag: str) -> tuple[int, ...]:
    """Return the indices of the stacked axes."""
    # Of a tag that knows its sow; `sites` imports JAX, and the command line finds families without it.
    site = getattr(tag, "site", None)
    return () if site is None else site.layers


def _start_of(numbers: tuple[int, ...], parts: list[str]) -> int | None:
    """Return the place of the last parts that are these numbers; None if there are none.

    They end a tag, but for that of a histogram's `nonfinite`.
    """
    for start in range(len(parts) - len(numbers), -1, -1):
        part_numbers = parts[start : start + len(numbers)]
        if numbers and all(map(str.isdecimal, part_numbers)) and tuple(map(int, part_numbers)) == numbers:
            return start
    return None
