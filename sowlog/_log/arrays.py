"""Arrays of a call, on a device or the host: checked, and held until the writer thread reads them."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import numpy as np
from numpy.typing import NDArray

Array = jax.Array | NDArray[Any]


def check_array(name: str, array: object) -> Array:
    """Return an array of JAX or NumPy.

    Args:
        name: the array in an error, as "the image samples".
        array: the argument.

    Raises:
        TypeError: The argument is no array, or is traced.
    """
    if isinstance(array, jax.core.Tracer):
        raise TypeError(
            f"{name} is a tracer: return it from the jitted function, and log the returned array."
        )
    if not isinstance(array, jax.Array | np.ndarray):
        raise TypeError(
            f"{name} has type {type(array).__name__}: give a JAX or NumPy array, np.asarray(...)."
        )
    return array


def held(array: Array) -> Array:
    """Return a device array as it is, and a copy of one on the host, since the caller may write to it."""
    return array if isinstance(array, jax.Array) else np.array(array)
