"""Arrays of a call, on a device or the host: checked, and held until the writer thread reads them."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import numpy as np
from numpy.typing import NDArray

from sowlog._reduce.values import deleted

Array = jax.Array | NDArray[Any]


def check_array(name: str, array: object) -> Array:
    """Return an array of JAX or NumPy.

    Args:
        name: the array in an error, as "the image samples".
        array: the argument.

    Raises:
        TypeError: The argument is no array, is masked, or is traced.
        RuntimeError: The array was donated or deleted.
    """
    if isinstance(array, jax.core.Tracer):
        raise TypeError(
            f"{name} is a tracer: return it from the jitted function, and log the returned array."
        )
    if not isinstance(array, jax.Array | np.ndarray):
        raise TypeError(
            f"{name} has type {type(array).__name__}: give a JAX or NumPy array, np.asarray(...)."
        )
    if isinstance(array, jax.Array) and array.is_deleted():
        raise RuntimeError(deleted(name))
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost: give array.filled(...).")
    return array


def held(array: Array) -> Array:
    """Return a device array as it is, and a copy of one on the host, since the caller may write to it."""
    return array if isinstance(array, jax.Array) else np.array(array)
