"""Charts: the layout of TensorBoard's custom scalars, from globs of tags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast

from sowlog._printable import encodable
from sowlog._tree.globs import from_glob
from sowlog.writers.record import Charts

_FORM = "log.layout({'loss': {'training and held-out': ['loss', 'eval/loss']}})"


def check_layout(layout: Any) -> Charts:
    """Return the regular expressions of each chart by category and title.

    Raises:
        TypeError: The layout, a category, a chart or a tag has another type.
        ValueError: The layout, a category or a chart is empty, or a title or a tag is.
    """
    if not isinstance(layout, Mapping):
        raise TypeError(f"the layout is of type {type(layout).__name__}: give a dict, {_FORM}.")
    categories = cast(Mapping[Any, Any], layout)
    checked = {
        _title(category, "a category"): MappingProxyType(dict(_charts(category, charts)))
        for category, charts in categories.items()
    }
    if not checked:
        raise ValueError(f"the layout has no category: {_FORM}.")
    return MappingProxyType(checked)


def _charts(category: str, charts: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    if not isinstance(charts, Mapping):
        raise TypeError(
            f"the category {category} of the layout is of type {type(charts).__name__}: give a dict of "
            f"charts, {_FORM}."
        )
    if not charts:
        raise ValueError(f"the category {category} of the layout has no chart: {_FORM}.")
    for title, tags in cast(Mapping[Any, Any], charts).items():
        chart = _title(title, f"a chart of {category}")
        if isinstance(tags, str) or not isinstance(tags, Iterable):
            raise TypeError(f"the chart {chart} of the layout is {tags!r}: give a list of tags, {_FORM}.")
        expressions = tuple(_expression(chart, tag) for tag in cast(Iterable[Any], tags))
        if not expressions:
            raise ValueError(f"the chart {chart} of the layout has no tags: {_FORM}.")
        yield chart, expressions


def _title(title: Any, what: str) -> str:
    if not isinstance(title, str) or not title:
        raise TypeError(f"{what} of the layout has the title {title!r}: give a text, {_FORM}.")
    return encodable(title)


def _expression(chart: str, tag: Any) -> str:
    """Return the regular expression of a whole tag."""
    if isinstance(tag, re.Pattern):
        return _whole(chart, cast("re.Pattern[Any]", tag))
    if not isinstance(tag, str):
        raise TypeError(
            f"the chart {chart} of the layout has the tag {tag!r}, of type {type(tag).__name__}: pass a tag, "
            f"a glob such as 'eval/*', or re.compile(...)."
        )
    if not all(tag.split("/")):
        raise ValueError(
            f"the chart {chart} of the layout has the tag {tag!r}, with an empty part: write a tag or a glob "
            f"of parts, such as eval/*."
        )
    return from_glob(encodable(tag))


def _whole(chart: str, pattern: re.Pattern[Any]) -> str:
    if not isinstance(pattern.pattern, str):
        raise TypeError(f"the chart {chart} of the layout has an expression of bytes: compile it of a str.")
    if pattern.flags != re.UNICODE:
        raise ValueError(
            f"the chart {chart} of the layout has the expression {pattern.pattern!r} with flags, which "
            f"TensorBoard does not read: write them inside, as in (?i:loss)."
        )
    return f"^(?:{encodable(pattern.pattern)})$"
