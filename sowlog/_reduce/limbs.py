"""Numbers cut into limbs of a few bits, which a plain sum adds exactly.

int32 sums the limbs of many numbers without wrapping; float32 sums those of a pair over replicas.
"""

import jax
import jax.numpy as jnp

from sowlog._reduce.compensated import (
    Pair,
    add,
    are_whole,
    halves,
    pair_of,
    power_of_two,
    split,
    total_of_rows,
)

LIMB_BITS, _FLOAT_LIMBS = 14, 4
"""What int32 sums exactly: 2^17 limbs of 14 bits."""


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
    """Splits totals into three float32 limbs, shape [3, ...], that a plain sum over replicas adds up well.

    A sum in float32 would round the 24 bits of hi. Its upper and lower half are summed apart, so replicas of
    similar size lose nothing.
    """
    upper, lower = halves(pair.hi)
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
