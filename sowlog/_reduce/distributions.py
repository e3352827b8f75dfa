"""Distributions: `histogram` and `quantiles`, on bins whose width grows with the value.

A bin is read off the bits of a float32: its exponent and the first bits of its mantissa. So binning costs a
shift and a clip per element, the bins are the same for every value ever sown, and two histograms merge by
adding counts. The same idea bounds the relative error of a quantile by half a bin (Masson, Rim and Lee,
"DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", 2019).

Bins run from the most negative values over zero to the largest. Magnitudes below 2^-32 are counted as zero,
those from 2^32 on in the outermost bins; NaN and infinities are counted apart.
"""

import dataclasses
from fractions import Fraction
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sowlog._reduce import compensated
from sowlog._reduce.compensated import Pair, Squares
from sowlog._reduce.state import Exchange, Parts, Reducer
from sowlog._reduce.values import is_counted

_MIN_EXPONENT, _MAX_EXPONENT = -32, 32
_MANTISSA_BITS, _EXPONENT_BIAS = 23, 127
_MAX_SUB_BINS = 256

_GROUP = 1 << (31 - compensated.LIMB_BITS)
"""How many limbs int32 sums without wrapping."""

_FRACTIONAL_SLACK, _WHOLE_SLACK = 2.0**-22, 2.0**-42
"""The rounding of a share, relative to the total: of weights that float32 rounded, and of whole counts."""


@final
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class HistogramValue:
    """A histogram as computed: counts by bin, and what is known exactly beside them.

    Attributes:
        counts: how many finite elements (or how much weight) fell in each bin, shape [*batch, bins]; float32,
            or float64 once on the host.
        residues: what float32 rounds off the counts: `counts + residues` is exact to 2^48.
        min: the smallest finite element, shape [*batch].
        max: the largest finite element.
        sum: the sum of the finite elements.
        sum_squares: the sum of their squares.
        nan: how many elements were NaN.
        positive_inf: how many were +Inf.
        negative_inf: how many were -Inf.
        sub_bins: bins per power of two (static).
    """

    counts: Any
    residues: Any
    min: Any
    max: Any
    sum: Any
    sum_squares: Any
    nan: Any
    positive_inf: Any
    negative_inf: Any
    sub_bins: int = dataclasses.field(metadata={"static": True})

    @property
    def edges(self) -> NDArray[np.float64]:
        """The edges of the bins, shape [bins + 1], increasing; the outermost are infinite."""
        return bin_edges(self.sub_bins)


class _Counts(NamedTuple):
    """What both reducers accumulate, in one array so that one scatter counts it all."""

    bins: Pair
    """Counts of shape [bins + 3]: the bins, then NaN, +Inf and -Inf."""
    min: jax.Array
    max: jax.Array

    def finite(self) -> Pair:
        """Returns the counts of the bins alone."""
        return Pair(self.bins.hi[:-3], self.bins.lo[:-3])


def bin_edges(sub_bins: int) -> NDArray[np.float64]:
    """Returns the edges of the bins, float64 of shape [bins + 1], increasing; the outermost are infinite.

    Args:
        sub_bins: bins per power of two.
    """
    powers = np.exp2(np.arange(_MIN_EXPONENT, _MAX_EXPONENT, dtype=np.float64))
    positive = (powers[:, None] * (1.0 + np.arange(sub_bins) / sub_bins)).ravel()
    return np.concatenate([[-np.inf], -positive[:0:-1], [-positive[0], positive[0]], positive[1:], [np.inf]])


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Histogram(Reducer):
    """The distribution of all elements, for TensorBoard's histogram and distribution tabs.

    Bins are exponential: `sub_bins` to each power of two from 2^-32 to 2^32, for either sign, and one around
    0. What is larger is counted in the outermost bins; NaN and infinities are counted apart, and logged as
    `<tag>/nonfinite` when there are any.

    Attributes:
        sub_bins: bins per power of two, itself a power of two up to 256.
    """

    sub_bins: int = 4

    def __post_init__(self) -> None:
        _check_sub_bins(self, self.sub_bins)

    def empty(self) -> Parts:
        return {
            "counts": _empty_counts(self.sub_bins),
            "sum": compensated.zero_pair(),
            "squares": compensated.zero_squares(),
        }

    def lift(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        value = value.astype(jnp.float32)
        counts = _count(value, weight, self.sub_bins)
        total, squares = _moments(value, weight, counts)
        return {"counts": counts, "sum": total, "squares": squares}

    def merge(self, a: Parts, b: Parts) -> Parts:
        return {
            "counts": _add_counts(a["counts"], b["counts"]),
            "sum": compensated.add(a["sum"], b["sum"]),
            "squares": compensated.add_squares(a["squares"], b["squares"]),
        }

    def exchange(self, parts: Parts, seen: jax.Array, replica: jax.Array) -> Exchange:
        counts: _Counts = parts["counts"]
        bins, total = yield compensated.count_limbs(counts.bins), compensated.total_limbs(parts["sum"])
        negated, largest, scale = yield -counts.min, counts.max, parts["squares"].scale
        squares = yield compensated.total_limbs(compensated.rescale(parts["squares"], scale))
        return {
            "counts": _Counts(compensated.of_limbs(bins), -negated, largest),
            "sum": compensated.of_limbs(total),
            "squares": Squares(scale, compensated.of_limbs(squares)),
        }

    def compute(self, parts: Parts) -> HistogramValue:
        counts: _Counts = parts["counts"]
        squares: Squares = parts["squares"]
        nan, positive_inf, negative_inf = counts.bins.value[-3:]
        finite = counts.finite()
        return HistogramValue(
            counts=finite.hi,
            residues=finite.lo,
            min=counts.min,
            max=counts.max,
            sum=parts["sum"].value,
            sum_squares=jnp.square(squares.scale) * squares.total.value,
            nan=nan,
            positive_inf=positive_inf,
            negative_inf=negative_inf,
            sub_bins=self.sub_bins,
        )


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Quantiles(Reducer):
    """Quantiles of all finite elements: results p1, p5, p25, p50, p75, p95, p99.

    The q-quantile is the smallest element that, together with all smaller ones, holds the share q of the
    total weight: NumPy's `np.quantile(x, q, weights=w, method="inverted_cdf")`. It stays the same when each
    element is repeated or all weights are multiplied. A result is within a relative 1 / (2 * sub_bins) of it,
    by default 1/64, for magnitudes from 2^-32 to 2^32; smaller ones count as 0.

    Attributes:
        percents: the percentages, each in [0, 100].
        sub_bins: bins per power of two, itself a power of two up to 256.
    """

    percents: tuple[float, ...] = (1, 5, 25, 50, 75, 95, 99)
    sub_bins: int = 32

    def __post_init__(self) -> None:
        _check_sub_bins(self, self.sub_bins)
        outside = [percent for percent in self.percents if not 0 <= percent <= 100]
        if outside or not self.percents:
            raise ValueError(f"percents must hold numbers from 0 to 100, got {outside or 'none'}.")
        names = [_name_of(percent) for percent in self.percents]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"percents={self.percents} has two results named {', '.join(twice)}: leave one of them out."
            )

    def empty(self) -> Parts:
        return _empty_counts(self.sub_bins)

    def lift(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return _count(value, weight, self.sub_bins)

    def merge(self, a: _Counts, b: _Counts) -> Parts:
        return _add_counts(a, b)

    def exchange(self, parts: _Counts, seen: jax.Array, replica: jax.Array) -> Exchange:
        bins = yield compensated.count_limbs(parts.bins)
        negated, largest = yield -parts.min, parts.max
        yield ()
        return _Counts(compensated.of_limbs(bins), -negated, largest)

    def compute(self, parts: _Counts) -> dict[str, jax.Array]:
        counts = parts.finite()
        below = compensated.cumulative(counts)
        total = Pair(below.hi[-1], below.lo[-1])
        slack = total.hi * jnp.where(compensated.are_whole(counts), _WHOLE_SLACK, _FRACTIONAL_SLACK)
        shares = [compensated.multiply(total, _share(percent)) for percent in self.percents]
        needed = Pair(*(jnp.stack(part)[None, :] for part in zip(*shares, strict=True)))
        missing = compensated.subtract(needed, Pair(below.hi[:, None], below.lo[:, None]))
        # Counted, not searched: a few thousand comparisons, where the search is a loop of its own.
        index = jnp.sum(missing > slack, axis=0)
        middle = jnp.asarray(_bin_middles(self.sub_bins), jnp.float32)[jnp.minimum(index, counts.hi.size - 1)]
        known = (total.hi > 0) & jnp.isfinite(jnp.sum(counts.hi))
        values = jnp.where(known, jnp.clip(middle, parts.min, parts.max), jnp.nan)
        return {_name_of(percent): values[i] for i, percent in enumerate(self.percents)}


def _share(percent: float) -> Fraction:
    """Return a percentage as the exact share that its decimal digits say: 99.9 is 999/1000."""
    return Fraction(str(percent)) / 100


def _name_of(percent: float) -> str:
    return f"p{percent:g}"


def _check_sub_bins(reducer: Reducer, sub_bins: int) -> None:
    if sub_bins not in (1 << bits for bits in range(_MAX_SUB_BINS.bit_length())):
        name = type(reducer).__name__.lower()
        raise ValueError(
            f"{name}(sub_bins={sub_bins}): bins per power of two are 1, 2, 4 ... {_MAX_SUB_BINS}."
        )


def bin_count(sub_bins: int) -> int:
    """Returns how many bins there are for so many to each power of two."""
    return 2 * (_MAX_EXPONENT - _MIN_EXPONENT) * sub_bins + 1


def _bin_middles(sub_bins: int) -> NDArray[np.float64]:
    edges = bin_edges(sub_bins)
    # The outermost bins are open: their inner edge stands for them, and the clip to min and max mends it.
    edges[0], edges[-1] = edges[1], edges[-2]
    return (edges[:-1] + edges[1:]) / 2


def _empty_counts(sub_bins: int) -> _Counts:
    size = bin_count(sub_bins) + 3
    bins = Pair(jnp.zeros(size, jnp.float32), jnp.zeros(size, jnp.float32))
    return _Counts(bins, jnp.full((), jnp.inf, jnp.float32), jnp.full((), -jnp.inf, jnp.float32))


def _add_counts(a: _Counts, b: _Counts) -> _Counts:
    return _Counts(compensated.add(a.bins, b.bins), jnp.minimum(a.min, b.min), jnp.maximum(a.max, b.max))


def _count(value: jax.Array, weight: jax.Array | None, sub_bins: int) -> _Counts:
    value = value.astype(jnp.float32)
    return _count_elements(value, sub_bins) if weight is None else _count_weights(value, weight, sub_bins)


def _count_elements(value: jax.Array, sub_bins: int) -> _Counts:
    """Counts each element once.

    To tell NaN and infinities apart costs as much as the binning, and min and max know whether there are any:
    only then they are taken out of the outermost bins, where their bits put them.
    """
    counts = _scatter(_bin_index(value, sub_bins), jnp.ones(value.shape, jnp.int32), sub_bins)
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
    return _Counts(compensated.split(counted), smallest, largest)


def _count_weights(value: jax.Array, weight: jax.Array, sub_bins: int) -> _Counts:
    """Counts each element by its weight; one of weight 0 is none of the elements."""
    index = _bin_index(value, sub_bins)
    for place, is_kind in enumerate(_kinds_apart(value)):
        index = jnp.where(is_kind, bin_count(sub_bins) + place, index)
    if weight.dtype == jnp.bool_:
        bins = compensated.split(_scatter(index, weight.astype(jnp.int32), sub_bins))
    else:
        bins = _weighted_counts(index.ravel(), weight.ravel(), sub_bins)
    return _Counts(bins, *_extremes(value, jnp.isfinite(value) & is_counted(weight)))


def _weighted_counts(index: jax.Array, weight: jax.Array, sub_bins: int) -> Pair:
    """Return the sum of the weights in each bin, shape [bins + 3].

    A scatter adds one element after the other: a float32 sum would stand still at 2^24, an int32 one wrap. So
    each weight is cut into limbs of a few bits, and int32 sums a limb exactly over a group of elements. Masks
    and small counts are one limb.
    """
    groups = max(1, -(-index.size // _GROUP))
    places = index + (jnp.arange(index.size, dtype=jnp.int32) // _GROUP) * (bin_count(sub_bins) + 3)

    def counted(digits: jax.Array) -> Pair:
        return compensated.split(_scatter(places, digits, sub_bins, groups=groups).reshape(groups, -1))

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
        # A weight that is not finite has no limbs: it makes its own bin NaN or infinite.
        odd = jnp.where(jnp.isfinite(weight), 0.0, weight.astype(jnp.float32))
        return hi + _scatter(index, odd, sub_bins)

    fits = (weight >= 0) & (weight < 1 << compensated.LIMB_BITS)
    if jnp.issubdtype(weight.dtype, jnp.floating):
        fits &= weight == jnp.floor(weight)
    return jax.lax.cond(jnp.all(fits), as_one_limb, as_limbs, weight)


def _limbs(weight: jax.Array) -> tuple[list[tuple[jax.Array, float]], jax.Array]:
    """Return (digits, unit) of each limb, and the scale: a weight is scale * sum of unit * digits."""
    if jnp.issubdtype(weight.dtype, jnp.integer):
        return compensated.integer_limbs(weight), jnp.ones((), jnp.float32)
    finite = jnp.where(jnp.isfinite(weight), weight, 0.0).astype(jnp.float32)
    scale = compensated.power_of_two(jnp.max(jnp.abs(finite), initial=0.0))
    return compensated.float_limbs(finite, scale), scale


def _kinds_apart(value: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return jnp.isnan(value), value == jnp.inf, value == -jnp.inf


def _extremes(value: jax.Array, counted: jax.Array) -> tuple[jax.Array, jax.Array]:
    smallest = jnp.min(jnp.where(counted, value, jnp.inf), initial=jnp.inf)
    return smallest, jnp.max(jnp.where(counted, value, -jnp.inf), initial=-jnp.inf)


def _scatter(index: jax.Array, amounts: jax.Array, sub_bins: int, *, groups: int = 1) -> jax.Array:
    """Returns what falls in each bin of each group. An unsigned index spares the test for negative ones."""
    zeros = jnp.zeros(groups * (bin_count(sub_bins) + 3), amounts.dtype)
    return zeros.at[index.ravel().astype(jnp.uint32)].add(amounts.ravel(), mode="promise_in_bounds")


def _bin_index(value: jax.Array, sub_bins: int) -> jax.Array:
    """Returns the bin of each float32: its exponent and first mantissa bits, mirrored for negative values.

    NaN and infinities come to lie in the outermost bins.
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


def _moments(value: jax.Array, weight: jax.Array | None, counts: _Counts) -> tuple[Pair, Squares]:
    """Returns the sum and the sum of squares of the finite elements.

    A scale costs a pass of its own, and a mask as much again: an array of ordinary size needs neither.
    """
    largest = jnp.maximum(jnp.maximum(-counts.min, counts.max), 0.0)
    float_weight = None if weight is None else weight.astype(jnp.float32)

    def plainly(value: jax.Array) -> tuple[Pair, Squares]:
        return compensated.total(value), compensated.unscaled_squares_of(value)

    def carefully(value: jax.Array) -> tuple[Pair, Squares]:
        counted = jnp.isfinite(value) if weight is None else jnp.isfinite(value) & is_counted(weight)
        finite = jnp.where(counted, value, 0.0)
        weighted = finite if float_weight is None else finite * float_weight
        squares = compensated.squares_of(finite, float_weight, largest=largest)
        return compensated.total(weighted), squares

    if weight is not None:
        return carefully(value)
    is_plain = compensated.squares_fit(largest) & jnp.all(counts.bins.hi[-3:] == 0)
    return jax.lax.cond(is_plain, plainly, carefully, value)


histogram = Histogram()
quantiles = Quantiles()
