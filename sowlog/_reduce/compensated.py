"""Sums that do not lose: float32 pairs for totals and counts, scaled sums of squares.

A `Pair` (hi, lo) stands for hi + lo with about 48 bits: adding to it keeps what float32 alone would round
away (Knuth's two-sum; Dekker, "A floating-point technique for extending the available precision", 1971).
So a count stays exact to 2^48 and 10^7 additions err by less than 1e-6.

Within one array `jnp.sum` in float32 is enough: XLA sums in a tree, with a relative error near 2e-7 for 10^7
elements. `tests/reduce/test_reducers.py` holds it to that.
"""

from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Measured: jax 0.5.0 sums several axes at once in one sequential loop, jax 0.10.2 in a tree.
_SUMS_AXES_IN_A_TREE = jax.__version_info__ >= (0, 10)

# Scales of sums of squares: they and their inverses are normal float32 numbers.
_MIN_SCALE, _MAX_SCALE = np.float32(2.0**-126), np.float32(2.0**126)

LIMB_BITS, _FLOAT_LIMBS = 14, 4
"""What int32 sums exactly: 2^17 limbs of 14 bits."""


class Pair(NamedTuple):
    """The number hi + lo: two float32 arrays of one shape."""

    hi: jax.Array
    lo: jax.Array

    @property
    def value(self) -> jax.Array:
        """The number as one float32 array; lo is left out where hi is not finite."""
        return jnp.where(jnp.isfinite(self.hi), self.hi + self.lo, self.hi)


class Squares(NamedTuple):
    """The sum of squares scale^2 * total; scale is a power of two.

    Without the scale the squares of values beyond 1e19 overflow float32, and those of values under 1e-19
    vanish (Blue, "A portable Fortran program to find the Euclidean norm of a vector", 1978).
    """

    scale: jax.Array
    total: Pair


def zero_pair() -> Pair:
    """Returns the pair 0."""
    return Pair(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))


def pair_of(value: jax.Array) -> Pair:
    """Returns a float32 array as pairs, elementwise."""
    return Pair(value, jnp.zeros_like(value))


def add(a: Pair, b: Pair) -> Pair:
    """Returns a + b, renormalised so that lo is below half a unit in the last place of hi."""
    total, error = _two_sum(a.hi, b.hi)
    hi, lo = _two_sum(total, error + (a.lo + b.lo))
    return Pair(hi, lo)


def total_of_rows(pairs: Pair) -> Pair:
    """Return the sum of pairs over their first axis."""
    hi, lo = pairs
    while hi.shape[0] > 1:
        if hi.shape[0] % 2:
            hi, lo = (jnp.concatenate([part, jnp.zeros_like(part[:1])]) for part in (hi, lo))
        half = hi.shape[0] // 2
        hi, lo = add(Pair(hi[:half], lo[:half]), Pair(hi[half:], lo[half:]))
    return Pair(hi[0], lo[0])


def integer_limbs(values: jax.Array) -> list[tuple[jax.Array, float]]:
    """Return (digits, unit) of each limb of integers: the sum of unit * digits is the value, exactly."""
    *lower, top = range(0, 8 * values.dtype.itemsize, LIMB_BITS)
    limbs = [(values >> shift) & ((1 << LIMB_BITS) - 1) for shift in lower]
    return [
        (limb.astype(jnp.int32), 2.0**shift)
        for limb, shift in zip([*limbs, values >> top], [*lower, top], strict=True)
    ]


def float_limbs(values: jax.Array, scale: jax.Array) -> list[tuple[jax.Array, float]]:
    """Return (digits, unit) of each limb of finite float32 numbers: a value is scale * sum of unit * digits.

    That is exact as far as 53 bits below the scale: a number 10^9 times smaller still has 23 bits.

    Args:
        values: any shape.
        scale: the power of two not above the largest magnitude.
    """
    # Below 4 in magnitude, where the scale is limited by the range of float32.
    rest, shift, limbs = values * (1.0 / scale), LIMB_BITS - 3, list[tuple[jax.Array, float]]()
    for limb in range(_FLOAT_LIMBS):
        rest = rest * 2.0 ** (LIMB_BITS if limb else shift)
        digits = jnp.floor(rest)
        limbs.append((digits.astype(jnp.int32), 2.0 ** -(shift + limb * LIMB_BITS)))
        rest = rest - digits
    return limbs


def cumulative(pairs: Pair) -> Pair:
    """Return the cumulative sums of non-negative pairs, shape [n], to 48 bits."""
    exact = are_whole(pairs) & (jnp.sum(pairs.hi) < 2.0**24)
    return jax.lax.cond(exact, lambda pairs: pair_of(jnp.cumsum(pairs.hi + pairs.lo)), _cumulative, pairs)


def _cumulative(pairs: Pair) -> Pair:
    """Sum limbs as int32: XLA compiles that in a seventh of the time that it needs for a scan of pairs."""
    scale = power_of_two(jnp.max(pairs.hi, initial=0.0))
    rows: list[Pair] = []
    for (hi, unit), (lo, _) in zip(*(float_limbs(part, scale) for part in pairs), strict=True):
        rows.append(Pair(*(part * unit for part in split(jnp.cumsum(hi + lo)))))
    total = total_of_rows(Pair(*(jnp.stack(part) for part in zip(*rows, strict=True))))
    return Pair(total.hi * scale, total.lo * scale)


def are_whole(pairs: Pair) -> jax.Array:
    """Say whether all pairs are whole numbers: a bool scalar."""
    return jnp.all((jnp.round(pairs.hi) == pairs.hi) & (jnp.round(pairs.lo) == pairs.lo))


def multiply(pair: Pair, factor: Fraction) -> Pair:
    """Return pair * factor, a number from 0 to 1 known while tracing, to about 45 bits (Dekker's product)."""
    high = np.float32(float(factor))
    low = np.float32(float(factor - Fraction(float(high))))
    product = pair.hi * high
    (a, b), (c, d) = _halves(pair.hi), _halves(jnp.asarray(high))
    error = ((a * c - product) + a * d + b * c) + b * d
    rest = error + (pair.hi * low + pair.lo * high)
    return Pair(*_two_sum(product, jnp.where(jnp.isfinite(rest), rest, 0.0)))


def subtract(a: Pair, b: Pair) -> jax.Array:
    """Returns a - b as one float32: right to the last place even where hi cancels."""
    return (a.hi - b.hi) + (a.lo - b.lo)


def total(values: jax.Array) -> Pair:
    """Returns the sum of all elements of `values` (any shape and real dtype) as one pair."""
    if values.dtype == jnp.bool_:
        return split(jnp.sum(values, dtype=jnp.int32))
    if jnp.issubdtype(values.dtype, jnp.integer) and values.dtype.itemsize >= 4:
        return _integer_total(values)
    hi, lo = split(values)
    return pair_of(_sum(hi)) if values.dtype != jnp.float64 else add(pair_of(_sum(hi)), pair_of(_sum(lo)))


def weighted_total(values: jax.Array, weight: jax.Array) -> Pair:
    """Return the sum of weight * value over all elements as one pair; an element of weight 0 adds nothing.

    Flags and integers weighted by flags or integers are summed exactly to 2^48; else each product is rounded
    to float32.

    Args:
        values: any shape and real dtype.
        weight: of the same shape, any real dtype.
    """
    if weight.dtype == jnp.bool_:
        return total(jnp.where(weight, values, jnp.zeros_like(values)))
    values = jnp.where(weight != 0, values, jnp.zeros_like(values))
    if not jnp.issubdtype(weight.dtype, jnp.integer) or jnp.issubdtype(values.dtype, jnp.floating):
        hi, lo = (part * weight.astype(jnp.float32) for part in split(values))
        narrow = values.dtype in (jnp.float32, jnp.bool_)
        return pair_of(_sum(hi)) if narrow else add(pair_of(_sum(hi)), pair_of(_sum(lo)))
    if max(values.dtype.itemsize, weight.dtype.itemsize) > 4:
        return split(jnp.sum(values.astype(jnp.int64) * weight.astype(jnp.int64)))
    wrapped = jnp.sum(values.astype(jnp.uint32) * weight.astype(jnp.uint32), dtype=jnp.uint32)
    return _unwrapped(wrapped, _sum(values.astype(jnp.float32) * weight.astype(jnp.float32)))


def split(values: jax.Array) -> Pair:
    """Returns a real array as pairs, element by element; 32-bit integers exactly, wider ones to 2^48."""
    if jnp.issubdtype(values.dtype, jnp.integer):
        low = values & (0xFFF if values.dtype.itemsize <= 4 else 0xFFFFFF)
        return add(pair_of((values - low).astype(jnp.float32)), pair_of(low.astype(jnp.float32)))
    hi = values.astype(jnp.float32)
    if values.dtype != jnp.float64:
        return pair_of(hi)
    return Pair(hi, jnp.where(jnp.isfinite(hi), values - hi.astype(values.dtype), 0.0).astype(jnp.float32))


def deviations(values: jax.Array, center: jax.Array) -> jax.Array:
    """Returns `values - center` as float32, with the digits of integers and float64 that cancel."""
    hi, lo = split(values)
    return (hi - center) + lo


def count(elements: int) -> Pair:
    """Returns a number of elements known while tracing, exactly."""
    hi = np.float32(elements)
    return Pair(jnp.asarray(hi), jnp.asarray(np.float32(elements - int(hi))))


def zero_squares() -> Squares:
    """Returns the sum of squares 0."""
    return Squares(jnp.asarray(_MIN_SCALE), zero_pair())


def squares_of(
    values: jax.Array, weight: jax.Array | None = None, *, largest: jax.Array | None = None
) -> Squares:
    """Returns the sum of weight * values^2 over all elements of a float32 array.

    `largest` is the largest magnitude among them, where the caller knows it.
    """
    scale = power_of_two(jnp.max(jnp.abs(values), initial=0.0) if largest is None else largest)
    # Exact, as the scale is a power of two whose inverse is a normal number; faster than a division.
    squares = jnp.square(values * (1.0 / scale))
    return Squares(scale, pair_of(_sum(squares if weight is None else weight * squares)))


def squares_fit(largest: jax.Array) -> jax.Array:
    """Tells whether squares of magnitudes up to `largest` neither vanish nor, 2^47 of them, overflow."""
    return (largest >= 2.0**-40) & (largest <= 2.0**40)


def unscaled_squares_of(values: jax.Array) -> Squares:
    """Returns the sum of squares of a float32 array whose largest magnitude is one of those that fit."""
    total = pair_of(_sum(jnp.square(values)))
    # Not a constant: the branches of a cond must vary over the same replicas under shard_map.
    return Squares(jnp.ones_like(total.hi), total)


def elementwise_squares(values: jax.Array, weight: jax.Array) -> Squares:
    """Returns weight * value^2 for each element by itself."""
    scale = power_of_two(jnp.abs(values))
    return Squares(scale, pair_of(weight * jnp.square(values * (1.0 / scale))))


def add_squares(a: Squares, b: Squares) -> Squares:
    """Returns a + b on the larger of the two scales."""
    scale = jnp.maximum(a.scale, b.scale)
    return Squares(scale, add(rescale(a, scale), rescale(b, scale)))


def rescale(squares: Squares, scale: jax.Array) -> Pair:
    """Returns the total that a sum of squares has on another scale, not below its own."""
    factor = jnp.square(squares.scale * (1.0 / scale))
    return Pair(squares.total.hi * factor, squares.total.lo * factor)


def root_mean(squares: Squares, weight: Pair) -> jax.Array:
    """Returns sqrt(squares / weight) as float32."""
    return squares.scale * jnp.sqrt(squares.total.value / weight.value)


def total_limbs(pair: Pair) -> jax.Array:
    """Splits totals into three float32 limbs, shape [3, ...], that a plain sum over replicas adds up well.

    A sum in float32 would round the 24 bits of hi. Its upper and lower half are summed apart, so replicas of
    similar size lose nothing.
    """
    upper, lower = _halves(pair.hi)
    return jnp.stack([upper, lower, pair.lo])


def count_limbs(pair: Pair) -> jax.Array:
    """Splits counts below 2^48 into three float32 limbs, shape [3, ...], of multiples of 2^32, 2^16 and 1.

    Summed over up to 128 replicas, each limb stays within float32's 24 bits: counts stay exact. The parts are
    truncated, not floored: the lo of a sum of fractions is often a negative number near 0, whose floor would
    move 2^16 between two limbs and round the fraction away.
    """
    high = jnp.trunc(pair.hi / 2.0**32) * 2.0**32
    rest = pair.hi - high
    middle = jnp.trunc(rest / 2.0**16) * 2.0**16
    lo_middle = jnp.trunc(pair.lo / 2.0**16) * 2.0**16
    return jnp.stack([high, middle + lo_middle, (rest - middle) + (pair.lo - lo_middle)])


def of_limbs(limbs: jax.Array) -> Pair:
    """Returns the pairs that (summed) limbs of shape [3, ...] stand for."""
    return add(add(pair_of(limbs[0]), pair_of(limbs[1])), pair_of(limbs[2]))


def _sum(values: jax.Array) -> jax.Array:
    """Returns the sum of all elements; axis by axis where XLA would run through several in order.

    The barrier keeps it from making one loop of them: 240 000 equal values in three axes would err by 2e-5.
    """
    while values.ndim > 1 and not _SUMS_AXES_IN_A_TREE:
        values = _apart(jnp.sum(values, axis=-1))
    return jnp.sum(values)


@jax.custom_jvp
def _apart(values: jax.Array) -> jax.Array:
    """Returns the values through a barrier to fusion, which jax 0.5.0 cannot differentiate by itself."""
    return jax.lax.optimization_barrier(values)


@_apart.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return _apart(*primals), tangents[0]


def _halves(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a float32 as the sum of two of 12 bits each (Veltkamp's splitting)."""
    upper = value * np.float32(4097.0)
    upper = jnp.where(jnp.isfinite(upper), upper - (upper - value), value)
    return upper, jnp.where(jnp.isfinite(value), value - upper, 0.0)


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns fl(a + b) and its rounding error, which is 0 once the sum is not finite."""
    sum_ = a + b
    b_part = sum_ - a
    error = (a - (sum_ - b_part)) + (b - b_part)
    return sum_, jnp.where(jnp.isfinite(sum_), error, 0.0)


def _integer_total(values: jax.Array) -> Pair:
    """Returns the sum of integers, exact to 2^48."""
    wrapped = jnp.sum(values, dtype=values.dtype)
    return (
        split(wrapped) if values.dtype.itemsize > 4 else _unwrapped(wrapped, _sum(values.astype(jnp.float32)))
    )


def _unwrapped(wrapped: jax.Array, near: jax.Array) -> Pair:
    """Return the number that 32-bit integer arithmetic has wrapped.

    It is right but for a multiple of 2^32, and a float32 that is near it says which.
    """
    wraps = jnp.round((near - wrapped.astype(jnp.float32)) / 2.0**32)
    return add(pair_of(wraps * 2.0**32), split(wrapped))


def power_of_two(magnitude: jax.Array) -> jax.Array:
    """Returns the largest power of two not above a float32 >= 0, within the scales; 1 for Inf and NaN."""
    exponent = jax.lax.bitcast_convert_type(magnitude, jnp.uint32) & jnp.uint32(0x7F800000)
    power = jax.lax.bitcast_convert_type(exponent, jnp.float32)
    return jnp.where(jnp.isfinite(magnitude), jnp.clip(power, _MIN_SCALE, _MAX_SCALE), 1.0)
