"""Compensated sums: totals and counts as float32 pairs.

A `Pair` (hi, lo) represents hi + lo with about 48 bits: an addition keeps the rounding error of float32
(Knuth's two-sum; Dekker, "A floating-point technique for extending the available precision", 1971). So a
count stays exact to 2^48, and 10^7 additions err by less than 1e-6.

Within one array `jnp.sum` in float32 is enough: XLA sums in a tree, with a relative error near 2e-7 for 10^7
elements, which `tests/reduce/test_reducers.py` checks.

The arithmetic of pairs is in each merge and result, so it is written in `jax.lax`: an operator of `jax.numpy`
costs a trace several times as much.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
from jax import lax

from sowlog._reduce.values import is_exact_as_float32, is_small_integer

# Measured: jaxlib 0.10.0 and 0.10.1 sum several axes at once in one sequential loop, 0.10.2 in a tree.
_SUMS_AXES_IN_A_TREE = jaxlib.version.__version_info__ >= (0, 10, 2)


class Pair(NamedTuple):
    """The number hi + lo: two float32 arrays of one shape."""

    hi: jax.Array
    lo: jax.Array

    @property
    def value(self) -> jax.Array:
        """The number as one float32 array; without lo where hi is not finite."""
        return _where_finite(self.hi, lax.add(self.hi, self.lo), self.hi)


def zero_pair() -> Pair:
    """Return the pair 0."""
    return Pair(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def pair_of(value: jax.Array) -> Pair:
    """Return a float32 array as pairs, elementwise."""
    return Pair(value, jnp.zeros_like(value))


def add(a: Pair, b: Pair) -> Pair:
    """Return a + b, renormalised so that lo is below half a unit in the last place of hi."""
    total, error = _two_sum(a.hi, b.hi)
    return Pair(*_two_sum(total, lax.add(error, lax.add(a.lo, b.lo))))


def total_of_rows(pairs: Pair) -> Pair:
    """Return the sum of pairs over their first axis."""
    hi, lo = pairs
    while hi.shape[0] > 1:
        if hi.shape[0] % 2:
            hi, lo = (jnp.concatenate([part, jnp.zeros_like(part[:1])]) for part in (hi, lo))
        half = hi.shape[0] // 2
        hi, lo = add(Pair(hi[:half], lo[:half]), Pair(hi[half:], lo[half:]))
    return Pair(hi[0], lo[0])


def are_whole(pairs: Pair) -> jax.Array:
    """Return whether all pairs are whole numbers: a bool scalar."""
    return jnp.all((jnp.round(pairs.hi) == pairs.hi) & (jnp.round(pairs.lo) == pairs.lo))


def multiply(pair: Pair, factors: Sequence[Fraction]) -> Pair:
    """Return a pair times each of the factors, shape [factors], to about 45 bits (Dekker's product).

    Args:
        pair: of shape [].
        factors: numbers from 0 to 1, known while tracing.
    """
    high = np.array([float(factor) for factor in factors], np.float32)
    rests = [factor - Fraction(float(near)) for factor, near in zip(factors, high, strict=True)]
    low = np.array([float(rest) for rest in rests], np.float32)
    hi, lo = (jnp.broadcast_to(part, high.shape) for part in pair)
    product = hi * high
    (a, b), (c, d) = halves(hi), halves(jnp.asarray(high))
    error = ((a * c - product) + a * d + b * c) + b * d
    rest = error + (hi * low + lo * high)
    return Pair(*_two_sum(product, _where_finite(rest, rest)))


def subtract(a: Pair, b: Pair) -> jax.Array:
    """Return a - b as one float32, accurate to the last place even where hi cancels."""
    return (a.hi - b.hi) + (a.lo - b.lo)


def total(values: jax.Array) -> Pair:
    """Return the sum of all elements of `values` (any shape and real dtype) as one pair."""
    if is_small_integer(values):
        return _small_integer_total(values)
    if jnp.issubdtype(values.dtype, jnp.integer):
        return _integer_total(values)
    if values.dtype != jnp.float64:
        return pair_of(tree_sum(values.astype(jnp.float32)))
    hi, lo = split(values)
    return add(pair_of(tree_sum(hi)), pair_of(tree_sum(lo)))


def weighted_total(values: jax.Array, weight: jax.Array) -> Pair:
    """Return the sum of weight * value over all elements as one pair; an element of weight 0 adds nothing.

    Bools and integers weighted by bools or integers are summed exactly to 2^48; otherwise each product is
    rounded to float32.

    Args:
        values: any shape and real dtype.
        weight: of the same shape, any real dtype.
    """
    if weight.dtype == jnp.bool_:
        return total(jnp.where(weight, values, jnp.zeros_like(values)))
    values = jnp.where(weight != 0, values, jnp.zeros_like(values))
    if not jnp.issubdtype(weight.dtype, jnp.integer) or jnp.issubdtype(values.dtype, jnp.floating):
        hi, lo = (part * weight.astype(jnp.float32) for part in split(values))
        narrow = is_exact_as_float32(values)
        return pair_of(tree_sum(hi)) if narrow else add(pair_of(tree_sum(hi)), pair_of(tree_sum(lo)))
    if is_small_integer(values):
        values = values.astype(jnp.int32)
    if max(values.dtype.itemsize, weight.dtype.itemsize) > 4:
        return split(jnp.sum(values.astype(jnp.int64) * weight.astype(jnp.int64)))
    wrapped = jnp.sum(values.astype(jnp.uint32) * weight.astype(jnp.uint32), dtype=jnp.uint32)
    return _unwrapped(wrapped, tree_sum(values.astype(jnp.float32) * weight.astype(jnp.float32)))


def split(values: jax.Array) -> Pair:
    """Return a real array as pairs, element by element; 32-bit integers exactly, wider ones to 2^48."""
    if jnp.issubdtype(values.dtype, jnp.integer) and not is_small_integer(values):
        low = values & (0xFFF if values.dtype.itemsize <= 4 else 0xFFFFFF)
        return add(pair_of((values - low).astype(jnp.float32)), pair_of(low.astype(jnp.float32)))
    hi = values.astype(jnp.float32)
    if values.dtype != jnp.float64:
        return pair_of(hi)
    return Pair(hi, jnp.where(jnp.isfinite(hi), values - hi.astype(values.dtype), 0.0).astype(jnp.float32))


def deviations(values: jax.Array, center: jax.Array) -> jax.Array:
    """Return `values - center` as float32, exact where the digits of integers and float64 cancel."""
    hi, lo = split(values)
    return (hi - center) + lo


def count(elements: int) -> Pair:
    """Return a static number of elements as an exact pair."""
    hi = np.float32(elements)
    return Pair(jnp.asarray(hi), jnp.asarray(np.float32(elements - int(hi))))


def tree_sum(values: jax.Array) -> jax.Array:
    """Return the sum of all elements; axis by axis where XLA would sum several axes sequentially.

    The barrier prevents the fusion of the axes into one loop: 240 000 equal values in three axes would err by
    5e-5.
    """
    while values.ndim > 1 and not _SUMS_AXES_IN_A_TREE:
        values = lax.optimization_barrier(jnp.sum(values, axis=-1))
    return jnp.sum(values)


def halves(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a float32 as the sum of two of 12 bits each (Veltkamp's splitting)."""
    upper = value * np.float32(4097.0)
    upper = _where_finite(upper, upper - (upper - value), value)
    return upper, _where_finite(value, value - upper)


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return fl(a + b) and its rounding error, which is 0 once the sum is not finite."""
    sum_ = lax.add(a, b)
    b_part = lax.sub(sum_, a)
    error = lax.add(lax.sub(a, lax.sub(sum_, b_part)), lax.sub(b, b_part))
    return sum_, _where_finite(sum_, error)


def _where_finite(x: jax.Array, value: jax.Array, otherwise: jax.Array | None = None) -> jax.Array:
    """Return a value where x is finite and another, or 0, elsewhere; all float32 of one shape."""
    return lax.select(lax.is_finite(x), value, jnp.zeros_like(value) if otherwise is None else otherwise)


def _small_integer_total(values: jax.Array) -> Pair:
    """Return the sum of bools or integers below 32 bits, exact to 2^48.

    XLA sums float32 faster on a CPU, exactly while no sum can pass 2^24: of 2^24 bools, or 2^17 of int8.
    Beyond that a single int32 sum is exact, unless so many elements could wrap it: 2^31 bools, 2^24 of int8.
    """
    largest = 1 if values.dtype == jnp.bool_ else max(map(abs, _limits(values.dtype)))
    if values.size * largest <= 2**24:
        return pair_of(tree_sum(values.astype(jnp.float32)))
    if values.size * largest < 2**31:
        return split(jnp.sum(values, dtype=jnp.int32))
    return _integer_total(values.astype(jnp.int32))


def _limits(dtype: Any) -> tuple[int, int]:
    info = jnp.iinfo(dtype)
    return int(info.min), int(info.max)


def _integer_total(values: jax.Array) -> Pair:
    """Return the sum of integers, exact to 2^48."""
    wrapped = jnp.sum(values, dtype=values.dtype)
    return (
        split(wrapped)
        if values.dtype.itemsize > 4
        else _unwrapped(wrapped, tree_sum(values.astype(jnp.float32)))
    )


def _unwrapped(wrapped: jax.Array, near: jax.Array) -> Pair:
    """Return a sum from its value modulo 2^32 and a float32 near it."""
    wraps = jnp.round((near - wrapped.astype(jnp.float32)) / 2.0**32)
    return add(pair_of(wraps * 2.0**32), split(wrapped))


# The limits of the scales of sums of squares: scales and their inverses are normal float32 numbers.
MIN_SCALE, _MAX_SCALE = np.float32(2.0**-126), np.float32(2.0**126)


def power_of_two(magnitude: jax.Array) -> jax.Array:
    """Return the largest power of two not above a float32 >= 0, within the scales; 1 for Inf and NaN."""
    exponent = lax.bitcast_convert_type(magnitude, jnp.uint32) & jnp.uint32(0x7F800000)
    power = lax.bitcast_convert_type(exponent, jnp.float32)
    return jnp.where(jnp.isfinite(magnitude), jnp.clip(power, MIN_SCALE, _MAX_SCALE), 1.0)
