"""Limbs: numbers split into digits of a few bits, which a plain sum adds exactly.

int32 sums the limbs of many numbers without wrapping; float32 sums the limbs of a pair over replicas.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sowlog._reduce.compensated import (
    Pair,
    add,
    halves,
    pair_of,
    power_of_two,
    total_of_rows,
)

LIMB_BITS, _FLOAT_LIMBS = 14, 4
"""int32 sums 2^17 limbs of 14 bits exactly."""

_ROW = 64
"""Cumulative sums go over rows of 64 numbers, of which float32 sums limbs exactly."""


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


def total_limbs(pair: Pair) -> jax.Array:
    """Split totals into three float32 limbs, shape [3, ...], that a plain sum over replicas adds up well.

    A sum in float32 would round the 24 bits of hi. Its upper and lower half are summed apart, so totals of
    similar magnitude lose no bits.
    """
    upper, lower = halves(pair.hi)
    return jnp.stack([upper, lower, pair.lo])


def count_limbs(pair: Pair) -> jax.Array:
    """Split counts below 2^48 into three float32 limbs, shape [3, ...], of multiples of 2^32, 2^16 and 1.

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
    """Return the pairs that (summed) limbs of shape [3, ...] represent."""
    return add(add(pair_of(limbs[0]), pair_of(limbs[1])), pair_of(limbs[2]))


def cumulative(pairs: Pair) -> Pair:
    """Return the cumulative sums of non-negative pairs, shape [n], to 48 bits.

    A matrix product with a triangle of ones is a cumulative sum, and exact in float32 for limbs of 15 bits.
    One product sums each row, another the rows' totals. XLA compiles them in a quarter of the time of a scan.
    """
    size, scale = pairs.hi.size, power_of_two(jnp.max(pairs.hi, initial=0.0))
    limbs = list(zip(*(float_limbs(part, scale) for part in pairs), strict=True))
    digits = jnp.stack([(hi + lo).astype(jnp.float32) for (hi, _), (lo, _) in limbs])
    rows = -(-size // _ROW)
    padded = jnp.pad(digits, ((0, 0), (0, rows * _ROW - size))).reshape(len(limbs), rows, _ROW)
    within = _exact_product(padded, np.triu(np.ones((_ROW, _ROW))))
    totals = within[..., -1]  # [limbs, rows], up to 21 bits
    upper = jnp.floor(totals * 2.0**-12) * 2.0**12
    before = _exact_product(jnp.stack([upper, totals - upper]), np.triu(np.ones((rows, rows)), k=1))
    upper, lower = (jnp.broadcast_to(part[..., None], within.shape) for part in before)
    units = np.array([unit for (_, unit), _ in limbs], np.float32)[:, None, None]
    sums = total_of_rows(Pair(*(part * units for part in add(pair_of(within + lower), pair_of(upper)))))
    # Without the barrier XLA recomputes the sums for each number that they are compared with.
    return Pair(*(jax.lax.optimization_barrier(part.ravel()[:size] * scale) for part in sums))


def _exact_product(numbers: jax.Array, ones: NDArray[np.float64]) -> jax.Array:
    """Return numbers @ ones, exact where sums of whole numbers stay within 24 bits."""
    return jnp.dot(numbers, ones.astype(np.float32), precision=jax.lax.Precision.HIGHEST)
