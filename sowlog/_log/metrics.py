"""Metrics of one `log` call, on the training thread: one packed buffer, and the numbers on the host."""

import functools
from typing import Any

import jax
import numpy as np

from sowlog._tree.layout import Layout, Packed, check_packed, is_packed
from sowlog._tree.leaves import check_real, check_tags, not_a_metric, traced
from sowlog._tree.results import pack_now
from sowlog._tree.tags import flatten, index_tags, is_state

_NO_LAYOUT = Layout(())
_OF_HOST = (float, int, np.generic, np.ndarray)


def prepare(metrics: Any) -> tuple[Packed | None, dict[str, float]]:
    """Split the metrics of a `log` call into one packed buffer and the numbers on the host by tag.

    A tree that was not packed in the step is packed here, by a compiled program that is the same for all
    names.

    Raises:
        TypeError: A leaf is not a metric, or is traced.
        ValueError: A metric has no name, two have one tag, or an array is too large.
        RuntimeError: An array was donated or deleted.
    """
    if is_packed(metrics):
        return _checked(metrics), {}
    numbers: dict[str, float] = {}
    tags: list[str] = []
    leaves: list[Any] = []
    for tag, leaf in zip(*flatten(metrics), strict=True):
        if isinstance(leaf, _OF_HOST):
            _add_numbers(numbers, tag, leaf)
        else:
            tags.append(tag)
            leaves.append(_on_device(tag, leaf))
    packed = pack_now(tags, leaves, "logged") if leaves else None
    check_names(tuple(numbers), packed)
    return packed, numbers


def check_names(numbers: tuple[str, ...], packed: Packed | None) -> None:
    """Raise if two metrics have one tag, or one has none.

    Raises:
        ValueError: A tag is empty, used twice, or cannot be encoded.
    """
    _check_names(numbers, packed.layout if packed else _NO_LAYOUT)


@functools.lru_cache(maxsize=256)
def _check_names(numbers: tuple[str, ...], layout: Layout) -> None:
    check_tags((*numbers, *layout.scalars, *(slot.tag for slot in layout.histograms)))


def _checked(packed: Packed) -> Packed:
    """Return a packed tree whose buffer cannot change before it is written."""
    place = check_packed(packed, "logged")
    if place == "device":
        return packed
    if place == "program":
        raise TypeError(traced("a packed tree", "logged"))
    buffer: Any = packed.buffer
    return Packed(buffer.copy(), packed.layout) if buffer.flags.writeable else packed


def _on_device(tag: str, leaf: Any) -> Any:
    if is_state(leaf) or isinstance(leaf, jax.Array):
        return leaf
    if is_packed(leaf):
        raise TypeError(not_packed_within(tag))
    array = as_array(leaf)
    if array is leaf:
        raise TypeError(not_a_metric(tag, leaf))
    return array


def as_array(leaf: Any) -> Any:
    """Return the array that an object of another library stands for; any other leaf as it is."""
    if isinstance(leaf, jax.Array) or not hasattr(type(leaf), "__jax_array__"):
        return leaf
    return leaf.__jax_array__()


def not_packed_within(tag: str) -> str:
    """Return the message for a packed tree that is a leaf of a logged tree."""
    return (
        f"{tag} is a packed tree inside another tree, which would run a program of its own at each step: "
        "add the other metrics before packing, `sowlog.pack({**metrics, ...})`, or log the packed tree alone."
    )


def _add_numbers(numbers: dict[str, float], tag: str, leaf: Any) -> None:
    """Add a number, or the elements of an array, on the host by tag."""
    if type(leaf) is float:
        _add_number(numbers, tag, leaf)
    elif isinstance(leaf, int):
        _add_number(numbers, tag, _float_of(tag, leaf))
    else:
        check_real(tag, leaf)
        # An np.matrix keeps two axes when it is raveled.
        array: np.ndarray[Any, Any] = np.asarray(leaf)
        elements = array.astype(np.float64).ravel().tolist()
        for name, element in zip(index_tags(tag, array.shape), elements, strict=True):
            _add_number(numbers, name, element)


def _add_number(numbers: dict[str, float], tag: str, number: float) -> None:
    if tag in numbers:
        raise ValueError(f"two metrics have the tag {tag}: rename one of them.")
    numbers[tag] = number


def _float_of(tag: str, number: int) -> float:
    try:
        return float(number)
    except OverflowError as error:
        raise ValueError(
            f"{tag or 'the tree'} is an integer of {number.bit_length()} bits, which no float "
            "holds: log its logarithm, math.log10(x)."
        ) from error
