"""Exponential bins, and the counts of elements in them.

The bin of a float32 is its exponent and the first bits of its mantissa. So binning costs a shift and a clip
per element, the bins are the same for all values, and two histograms merge by adding counts.

Bins are ordered from the most negative values to the largest. Magnitudes below 2^-32 are counted as zero,
those from 2^32 on in the outermost bins; NaN and infinities are counted apart.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sowlog._reduce import compensated
from sowlog._reduce.compensated import Pair
from sowlog._reduce.limbs import (
    LIMB_BITS,
    float_limbs,
    integer_limbs,
)
from sowlog._reduce.reducer import Reducer
from sowlog._reduce.values import is_counted

_MIN_EXPONENT, _MAX_EXPONENT = -32, 32
_MANTISSA_BITS, _EXPONENT_BIAS = 23, 127
_MAX_SUB_BINS = 256
_GROUP = 1 << (31 - LIMB_BITS)
"""The number of limbs that int32 sums without wrapping."""


class Counts(NamedTuple):
    """The accumulator of both reducers: all counts in one array, for one scatter."""

    bins: Pair
    """Counts of shape [bins + 3]: the bins, then NaN, +Inf and -Inf."""
    min: jax.Array
    max: jax.Array

    def finite(self) -> Pair:
        """Return the counts of the bins alone."""
        return Pair(self.bins.hi[:-3], self.bins.lo[:-3])


def bin_edges(sub_bins: int) -> NDArray[np.float64]:
    """Return the edges of the bins, float64 of shape [bins + 1], increasing; the outermost are infinite.

    Args:
        sub_bins: bins per power of two.
    """
    powers = np.exp2(np.arange(_MIN_EXPONENT, _MAX_EXPONENT, dtype=np.float64))
    positive = (powers[:, None] * (1.0 + np.arange(sub_bins) / sub_bins)).ravel()
    return np.concatenate([[-np.inf], -positive[:0:-1], [-positive[0], positive[0]], positive[1:], [np.inf]])


def bin_count(sub_bins: int) -> int:
    """Return the number of bins.

    Args:
        sub_bins: bins per power of two.
    """
    return 2 * (_MAX_EXPONENT - _MIN_EXPONENT) * sub_bins + 1


def bin_middles(sub_bins: int) -> NDArray[np.float64]:
    """Return the middle of each bin, shape [bins]."""
    edges = bin_edges(sub_bins)
    # The outermost bins are open: their inner edge represents them, and quantiles are clipped to min and max.
    edges[0], edges[-1] = edges[1], edges[-2]
    return (edges[:-1] + edges[1:]) / 2


def check_sub_bins(reducer: Reducer, sub_bins: int) -> None:
    """Raise a ValueError if the number of bins is no power of two up to 256."""
    if sub_bins not in (1 << bits for bits in range(_MAX_SUB_BINS.bit_length())):
        name = type(reducer).__name__.lower()
        raise ValueError(
            f"{name}(sub_bins={sub_bins}): bins per power of two are 1, 2, 4 ... {_MAX_SUB_BINS}."
        )


def empty_counts(sub_bins: int) -> Counts:
    """Return the counts before any element."""
    size = bin_count(sub_bins) + 3
    bins = Pair(jnp.zeros(size, jnp.float32), jnp.zeros(size, jnp.float32))
    return Counts(bins, jnp.full((), jnp.inf, jnp.float32), jnp.full((), -jnp.inf, jnp.float32))


def add_counts(a: Counts, b: Counts) -> Counts:
    """Return the counts of both."""
    return Counts(compensated.add(a.bins, b.bins), jnp.minimum(a.min, b.min), jnp.maximum(a.max, b.max))


def count(value: jax.Array, weight: jax.Array | None, sub_bins: int) -> Counts:
    """Return the counts of all elements of an array, each by its weight."""
    value = value.astype(jnp.float32)
    return _count_elements(value, sub_bins) if weight is None else _count_weights(value, weight, sub_bins)


def _count_elements(value: jax.Array, sub_bins: int) -> Counts:
    """Count each element once.

    A test of each element for NaN and infinities costs as much as the binning, and min and max show whether
    there are any. Only then they are moved out of the outermost bins, where their bits place them.
    """
    counts = scatter(_bin_index(value, sub_bins), jnp.ones(value.shape, jnp.int32), _places(sub_bins))
    smallest, largest = jnp.min(value, initial=jnp.inf), jnp.max(value, initial=-jnp.inf)
    are_finite = jnp.isfinite(smallest) & jnp.isfinite(largest)

    def as_is(_: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return counts, smallest, largest

    def set_apart(value: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        finite = jnp.isfinite(value)
        below = jnp.sum(~finite & jnp.signbit(value), dtype=jnp.int32)
        above = jnp.sum(~finite & ~jnp.signbit(value), dtype=jnp.int32)
        apart = jnp.stack([jnp.sum(is_kind, dtype=jnp.int32) for is_kind in _kinds_apart(value)])
        mended = counts.at[0].add(-below).at[bin_count(sub_bins) - 1].add(-above).at[-3:].set(apart)
        return mended, *_extremes(value, finite)

    counted, smallest, largest = jax.lax.cond(are_finite, as_is, set_apart, value)
    return Counts(compensated.split(counted), smallest, largest)


def _count_weights(value: jax.Array, weight: jax.Array, sub_bins: int) -> Counts:
    """Count each element by its weight; an element of weight 0 is ignored."""
    index = _bin_index(value, sub_bins)
    for place, is_kind in enumerate(_kinds_apart(value)):
        index = jnp.where(is_kind, bin_count(sub_bins) + place, index)
    if weight.dtype == jnp.bool_:
        bins = compensated.split(scatter(index, weight.astype(jnp.int32), _places(sub_bins)))
    else:
        bins = weighted_counts(index.ravel(), weight.ravel(), _places(sub_bins))
    return Counts(bins, *_extremes(value, jnp.isfinite(value) & is_counted(weight)))


def _places(sub_bins: int) -> int:
    """Return the number of bins, with those for NaN and infinities."""
    return bin_count(sub_bins) + 3


def weighted_counts(index: jax.Array, weight: jax.Array, size: int) -> Pair:
    """Return the sum of the weights in each of so many bins, shape [size].

    A scatter adds sequentially: a float32 sum would stop at 2^24, and an int32 sum would wrap. So each weight
    is split into limbs of a few bits, and int32 sums a limb exactly over a group of elements. Masks and small
    counts are one limb.

    Args:
        index: the bin of each element, int32 of shape [elements].
        weight: its weight, of the same shape.
        size: the number of bins.
    """
    groups = max(1, -(-index.size // _GROUP))
    places = index + (jnp.arange(index.size, dtype=jnp.int32) // _GROUP) * size

    def counted(digits: jax.Array) -> Pair:
        return compensated.split(scatter(places, digits, groups * size).reshape(groups, -1))

    def as_one_limb(weight: jax.Array) -> Pair:
        return compensated.total_of_rows(counted(weight.astype(jnp.int32)))

    def as_limbs(weight: jax.Array) -> Pair:
        limbs, scale = _limbs(weight)
        rows = [Pair(*(part * unit for part in counted(digits))) for digits, unit in limbs]
        hi, lo = compensated.total_of_rows(Pair(*(jnp.concatenate(part) for part in zip(*rows, strict=True))))
        return Pair(
            jax.lax.cond(jnp.all(jnp.isfinite(weight)), lambda hi: hi, spoiled, hi * scale), lo * scale
        )

    def spoiled(hi: jax.Array) -> jax.Array:
        # A weight that is not finite has no limbs: its bin becomes NaN or infinite.
        odd = jnp.where(jnp.isfinite(weight), 0.0, weight.astype(jnp.float32))
        return hi + scatter(index, odd, size)

    fits = (weight >= 0) & (weight < 1 << LIMB_BITS)
    if jnp.issubdtype(weight.dtype, jnp.floating):
        fits &= weight == jnp.floor(weight)
    return jax.lax.cond(jnp.all(fits), as_one_limb, as_limbs, weight)


def _limbs(weight: jax.Array) -> tuple[list[tuple[jax.Array, float]], jax.Array]:
    """Return (digits, unit) of each limb, and the scale: a weight is scale * sum of unit * digits."""
    if jnp.issubdtype(weight.dtype, jnp.integer):
        return integer_limbs(weight), jnp.ones((), jnp.float32)
    finite = jnp.where(jnp.isfinite(weight), weight, 0.0).astype(jnp.float32)
    scale = compensated.power_of_two(jnp.max(jnp.abs(finite), initial=0.0))
    return float_limbs(finite, scale), scale


def _kinds_apart(value: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return jnp.isnan(value), value == jnp.inf, value == -jnp.inf


def _extremes(value: jax.Array, counted: jax.Array) -> tuple[jax.Array, jax.Array]:
    smallest = jnp.min(jnp.where(counted, value, jnp.inf), initial=jnp.inf)
    return smallest, jnp.max(jnp.where(counted, value, -jnp.inf), initial=-jnp.inf)


def scatter(index: jax.Array, amounts: jax.Array, size: int) -> jax.Array:
    """Return the total of each of so many bins. An unsigned index needs no test for negative ones."""
    zeros = jnp.zeros(size, amounts.dtype)
    return zeros.at[index.ravel().astype(jnp.uint32)].add(amounts.ravel(), mode="promise_in_bounds")


def _bin_index(value: jax.Array, sub_bins: int) -> jax.Array:
    """Return the bin of each float32: its exponent and first mantissa bits, mirrored for negative values.

    NaN and infinities are placed in the outermost bins.
    """
    shift = _MANTISSA_BITS - (sub_bins.bit_length() - 1)
    bits = jax.lax.bitcast_convert_type(value, jnp.int32)
    magnitude = (bits >> shift) & ((1 << (31 - shift)) - 1)
    lowest = (_MIN_EXPONENT + _EXPONENT_BIAS) * sub_bins
    # 0 is the bin around zero, 1 .. bins // 2 the bins outwards.
    half = bin_count(sub_bins) // 2
    outwards = jnp.clip(magnitude - (lowest - 1), 0, half)
    sign = bits >> 31  # 0 or -1, with which two's complement negates.
    return half + ((outwards ^ sign) - sign)
