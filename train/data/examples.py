"""Batches on the host: dicts of NumPy arrays with the examples on the first axis, checked, copied and cut."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from train.config.errors import RunWarning

HostBatch = dict[str, NDArray[np.generic]]


class DataError(Exception):
    """Unusable data: one line with the cause and the remedy."""


class DataWarning(RunWarning):
    """Data that can be trained on, with a surprise in the run."""


def as_batch(given: Any, where: str, needs: tuple[str, ...], *, copy: bool = False) -> HostBatch:
    """Return a user's mapping of arrays as NumPy arrays.

    Args:
        given: a user's batch, or all examples.
        where: names the function that it comes from.
        needs: the arrays that must be there.
        copy: whether the arrays are to be the program's own. A loader may fill the same buffers again while
            the program, or a device that reads the host's memory, still has the batch before.

    Raises:
        DataError: The batch is no mapping of arrays of numbers, or lacks one of `needs`.
    """
    if not isinstance(given, Mapping):
        raise DataError(f"{where} returns {kinds(given)} where a dict of arrays belongs.")
    make = np.array if copy else np.asarray
    batch = {name: make(array) for name, array in cast(Mapping[str, Any], given).items()}
    missing = [name for name in needs if name not in batch]
    if missing:
        there = ", ".join(map(str, batch)) or "none"
        raise DataError(f"{where} returns the arrays {there}; the task also needs {', '.join(missing)}.")
    strange = {name: array.dtype for name, array in batch.items() if array.dtype.kind not in "biuf"}
    if strange:
        raise DataError(f"{where} returns arrays that hold no numbers: {strange}.")
    return batch


def length(batch: HostBatch) -> int:
    """Return the number of examples in a batch; 0 if none of its arrays has an axis."""
    return next((array.shape[0] for array in batch.values() if array.ndim), 0)


def shapes(batch: HostBatch) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array."""
    return {name: array.shape for name, array in batch.items()}


def is_part(batch: HostBatch, whole: HostBatch) -> bool:
    """Return whether a batch differs from another in nothing but that it has fewer examples."""
    shorter = {name: (length(batch), *array.shape[1:]) if array.ndim else () for name, array in whole.items()}
    return length(batch) < length(whole) and shapes(batch) == shorter


def are_same(one: HostBatch, other: HostBatch) -> bool:
    """Return whether two batches are equal bit for bit, NaN included."""
    return shapes(one) == shapes(other) and all(
        array.dtype == other[name].dtype and array.tobytes() == other[name].tobytes()
        for name, array in one.items()
    )


def stack(batches: Sequence[HostBatch]) -> HostBatch:
    """Return batches of one shape along a new first axis; of none, an empty dict."""
    return {name: np.stack([batch[name] for batch in batches]) for name in (batches[0] if batches else ())}


def cut_held_out(examples: HostBatch, size: int) -> tuple[HostBatch, HostBatch]:
    """Cut held-out examples into batches.

    Args:
        examples: all of them, at least one.
        size: examples of a batch.

    Returns:
        The batches of `size` examples, stacked along a new first axis, and those that are left over as a
        stack of one, or an empty dict. Fewer than `size` in all are the one batch.
    """
    size = min(size, length(examples))
    whole = length(examples) // size * size
    batches = {name: array[:whole].reshape(-1, size, *array.shape[1:]) for name, array in examples.items()}
    rest = {name: array[None, whole:] for name, array in examples.items()}
    return batches, rest if whole < length(examples) else {}


def kinds(value: object) -> str:
    """Return the name of a value's type; of a tuple, those of its parts."""
    if isinstance(value, tuple):
        return f"({', '.join(type(part).__name__ for part in cast(tuple[object, ...], value))})"
    return type(value).__name__


def digest(*batches: HostBatch) -> str:
    """Return the digest of batches: a SHA-256 of the names, dtypes, shapes and bytes of their arrays."""
    found = hashlib.sha256()
    for batch in batches:
        for name, array in sorted(batch.items()):
            found.update(f"{name} {array.dtype} {array.shape} ".encode())
            found.update(array.tobytes())
    return found.hexdigest()


def generator(seed: int, step: int) -> np.random.Generator:
    """Return the source of a step's random choices."""
    return np.random.default_rng((seed, step))
