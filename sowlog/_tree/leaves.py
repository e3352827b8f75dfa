"""Checks of the leaves of a tree of metrics; their errors name the invalid leaf."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from sowlog._reduce import values
from sowlog._reduce.state import State, check_intact
from sowlog._tree.layout import check_packed, is_packed
from sowlog._tree.tags import is_state

_MAX_ELEMENTS = 1024


class Row(jax.ShapeDtypeStruct):
    """The shape and dtype of one row of an array, in whose place it is checked."""


def check_leaves(tags: Sequence[str], leaves: Sequence[Any], verb: str) -> None:
    """Raise if a leaf is not a metric; the error names the leaf."""
    for tag, leaf in zip(tags, leaves, strict=True):
        if is_state(leaf):
            check_intact(leaf, tag)
            _check_stack(tag, leaf)
        elif is_packed(leaf):
            check_packed(leaf, verb, tag)
        else:
            check_real(tag, _array(tag, leaf))


def _check_stack(tag: str, state: State) -> None:
    shape = np.shape(state.seen)
    if np.prod(shape, dtype=np.int64) <= _MAX_ELEMENTS:
        return
    reduce_more = (
        "" if state.reducer.axis is None else f" (of the axes that {state.reducer} keeps: reduce them)"
    )
    raise ValueError(
        f"{tag or 'the tree'} is an array of states of shape {shape}: each would be a tag of its own, and "
        f"more than {_MAX_ELEMENTS} are surely not meant. Merge them over a stacked axis where it is mapped, "
        '`jax.vmap(lambda x: sowlog.all_reduce(step(x), "b"), axis_name="b", out_axes=None)`, or by '
        f"sowlog.merge in the carry of a scan{reduce_more}."
    )


def _array(tag: str, leaf: Any) -> Any:
    """Return an array of a leaf's shape and dtype: the leaf itself if it is an array."""
    if isinstance(leaf, jax.Array | np.ndarray | np.generic | Row):
        return leaf
    try:
        return jnp.asarray(values.narrowed(leaf))
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(not_a_metric(tag, leaf)) from error


def not_a_metric(tag: str, leaf: Any) -> str:
    """Return the message for a leaf that is not a metric: its tag, type and value, and a remedy."""
    return (
        f"{tag or 'the tree'} is {type(leaf).__name__}: a metric is a real number, a small array or a "
        f"state such as sowlog.mean.of(value), not {values.shown(leaf)}.{values.hint(leaf)}"
    )


def check_concrete(tags: Sequence[str], leaves: Sequence[Any], verb: str) -> None:
    """Raise if an array of a leaf is traced or deleted, so that it has no value; the error names it."""
    for tag, array in _arrays(tags, leaves):
        if isinstance(array, jax.core.Tracer):
            raise TypeError(traced(tag, verb))
        if array.is_deleted():
            raise RuntimeError(values.deleted(tag or "the tree"))


def check_devices(tags: Sequence[str], leaves: Sequence[Any]) -> None:
    """Raise if leaves are on different devices, so that no program accepts them; the error names two."""
    first: tuple[str, Any] | None = None
    for tag, array in _arrays(tags, leaves):
        if first is None:
            first = tag, array.devices()
        elif array.devices() != first[1]:
            raise ValueError(
                f"{first[0]} lies on {_listed(first[1])} and {tag} on {_listed(array.devices())}, so that no "
                "program takes both: pack the results of a step in the step, sowlog.pack(metrics), or write "
                "a call for each."
            )


def _arrays(tags: Sequence[str], leaves: Sequence[Any]) -> Iterator[tuple[str, jax.Array]]:
    for tag, leaf in zip(tags, leaves, strict=True):
        yield from ((tag, array) for array in jax.tree.leaves(leaf) if isinstance(array, jax.Array))


def _listed(devices: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, devices)))


def traced(tag: str, verb: str) -> str:
    """Return the message for a value that is traced where it must be concrete."""
    return (
        f"{tag or 'the tree'} is traced, so it has no value yet, and cannot be {verb} here: log runs on the "
        "host, outside of jit, grad, vmap and scan. Return sowlog.pack(metrics) from the transformed "
        "function, and write log(step, packed) where it is called."
    )


def check_real(tag: str, array: Any) -> None:
    """Raise if an array, concrete or abstract, has no real dtype or more elements than the limit of tags."""
    values.check_real(tag or "the tree", array, "a metric is")
    if array.size > _MAX_ELEMENTS:
        raise ValueError(
            f"{tag or 'the tree'} has shape {array.shape}: each element would be a tag of its own, and more "
            f"than {_MAX_ELEMENTS} are surely not meant. Reduce it: sowlog.mean.of(value) ..."
        )


def check_tags(tags: Iterable[str]) -> None:
    """Raise if two metrics share a tag, or a tag is empty or cannot be encoded."""
    seen: set[str] = set()
    for tag in tags:
        if not tag:
            raise ValueError('a metric has no name: log a dict, {"loss": value}.')
        if tag in seen:
            raise ValueError(f"two metrics have the tag {tag}: rename one of them.")
        if not tag.isascii():
            _check_encodable(tag)
        seen.add(tag)


def _check_encodable(tag: str) -> None:
    try:
        tag.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the tag {tag!r} holds half of a surrogate pair, which UTF-8 cannot encode: write "
            'tag.encode(errors="replace").decode().'
        ) from error
