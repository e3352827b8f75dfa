"""Arrays that may not be finite: the kinds in them, and their numbers for a report."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sowlog._explain.report import Operand
from sowlog._explain.spaces import Axes

_KINDS = ("nan", "+inf", "-inf")


def flags(x: Any) -> jax.Array:
    """Return whether an array has a NaN, +inf and -inf, bool [3]."""
    if not _has_kinds(x):
        return jnp.zeros(3, bool)
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return flags(x.real) | flags(x.imag)
    x = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
    return jnp.stack([jnp.isnan(x).any(), (x == jnp.inf).any(), (x == -jnp.inf).any()])


_all_flags = jax.jit(lambda arrays: [flags(array) for array in arrays])


def kinds(arrays: Sequence[Any]) -> list[frozenset[str]]:
    """Return the kinds in each array; it waits for the device."""
    floating = [array for array in arrays if _has_kinds(array)]
    found = iter(jax.device_get(_all_flags(floating)) if floating else ())
    return [kinds_of(next(found)) if _has_kinds(array) else frozenset() for array in arrays]


def kinds_of(flags: Any) -> frozenset[str]:
    """Return the kinds of flags."""
    return frozenset(kind for kind, flag in zip(_KINDS, flags, strict=True) if flag)


def _has_kinds(x: Any) -> bool:
    dtype = getattr(x, "dtype", type(x))
    return dtype in (float, complex) or (dtype != jax.dtypes.float0 and jnp.issubdtype(dtype, jnp.inexact))


class Rows(NamedTuple):
    """An array on the host: the shards along the first axis, and the mesh axes along which they lie."""

    array: np.ndarray[Any, Any]
    axes: Axes = ()

    def at(self, shard: dict[str, int]) -> np.ndarray[Any, Any]:
        """Return the row of one shard."""
        index = tuple(shard.get(name, 0) for name, _ in self.axes)
        sizes = tuple(size for _, size in self.axes)
        return self.array[int(np.ravel_multi_index(index, sizes)) if sizes else 0]


def describe(kind: str, operands: Sequence[Rows], result: Rows) -> dict[str, Any]:
    """Return a report's fields of numbers: operands, result, index and shard.

    Args:
        kind: the kind to find in the result.
        operands: the operands that are numbers.
        result: the result with this kind.
    """
    masks = [_mask(row, kind) for row in result.array]
    row = next((number for number, mask in enumerate(masks) if mask.any()), 0)
    place = np.unravel_index(row, tuple(size for _, size in result.axes))
    shard = {name: int(index) for (name, _), index in zip(result.axes, place, strict=True)}
    index = np.unravel_index(int(np.argmax(masks[row])), masks[row].shape)
    return {
        "operands": tuple(_numbers(operand.at(shard)) for operand in operands),
        "result": _numbers(result.array[row]),
        "index": tuple(map(int, index)),
        "shard": tuple(shard.items()),
    }


def has_numbers(x: Any) -> bool:
    """Return whether an array holds numbers, and no keys of random numbers or flags."""
    return jnp.issubdtype(getattr(x, "dtype", type(x)), jnp.number)


def _mask(x: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    if np.iscomplexobj(x):
        return _mask(x.real, kind) | _mask(x.imag, kind)
    x = _wide(x)
    return np.isnan(x) if kind == "nan" else x == (np.inf if kind == "+inf" else -np.inf)


def _wide(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x if x.dtype.kind in "fiub" else x.astype(np.float32)


def _numbers(x: np.ndarray[Any, Any]) -> Operand:
    parts = _wide(np.stack([x.real, x.imag]) if np.iscomplexobj(x) else x)
    finite = parts[np.isfinite(parts)]
    limits = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    counts = int(np.isnan(parts).sum()), int(np.isinf(parts).sum())
    return Operand(x.shape, x.dtype.name, *limits, *counts)
