"""Distributions: `histogram` and `quantiles`, on bins with a width in proportion to the value.

Such bins bound the relative error of a quantile by half a bin (Masson, Rim and Lee, "DDSketch: a fast and
fully-mergeable quantile sketch with relative-error guarantees", 2019).
"""

import dataclasses
from fractions import Fraction
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sowlog._reduce import compensated, reprs
from sowlog._reduce.bins import (
    Counts,
    add_counts,
    bin_edges,
    bin_middles,
    check_sub_bins,
    count,
    empty_counts,
)
from sowlog._reduce.compensated import Pair
from sowlog._reduce.limbs import (
    count_limbs,
    cumulative,
    of_limbs,
    total_limbs,
)
from sowlog._reduce.reducer import Exchange, Reducer
from sowlog._reduce.squares import (
    Squares,
    add_squares,
    rescale,
    squares_fit,
    squares_of,
    unscaled_squares_of,
    zero_squares,
)
from sowlog._reduce.state import Parts
from sowlog._reduce.values import is_counted

_FRACTIONAL_SLACK, _WHOLE_SLACK = 2.0**-22, 2.0**-42
"""The rounding of a share, relative to the total: for weights rounded by float32, and for whole counts."""


@final
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class HistogramValue:
    """The result of `histogram`: counts by bin, and exact extremes and moments.

    Attributes:
        counts: the number (or weight) of finite elements in each bin, shape [*batch, bins]; float32, or
            float64 on the host.
        residues: the rounding of the counts by float32: `counts + residues` is exact to 2^48.
        min: the smallest finite element, shape [*batch].
        max: the largest finite element.
        sum: the sum of the finite elements.
        sum_squares: the sum of their squares.
        nan: the number of elements that are NaN.
        positive_inf: the number of elements that are +Inf.
        negative_inf: the number of elements that are -Inf.
        sub_bins: bins per power of two (static).

    Example:
        >>> import sowlog
        >>> value = sowlog.histogram.of([0.5, 2.0, 2.0]).compute()
        >>> value
        HistogramValue(3 elements, min=0.5, max=2.0)
        >>> [(float(edge), int(count)) for edge, count in zip(value.edges, value.counts) if count]
        [(0.5, 1), (2.0, 2)]
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

    def __repr__(self) -> str:
        return f"HistogramValue({reprs.place_of(self, self.min) or self._summary()})"

    def _summary(self) -> str:
        try:
            nonfinite = float(self.nan) + float(self.positive_inf) + float(self.negative_inf)
            elements = float(np.sum(np.asarray(self.counts, np.float64) + self.residues)) + nonfinite
        except Exception:
            # The arrays are on another host, or a guard forbids to read them.
            return "unreadable"
        apart = f", {nonfinite:g} nonfinite" if nonfinite else ""
        extremes = f"min={reprs.number_text(self.min)}, max={reprs.number_text(self.max)}"
        return f"{elements:g} element{'s' * (elements != 1)}{apart}, {extremes}"


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Histogram(Reducer):
    """The distribution of all elements, for TensorBoard's histogram and distribution tabs.

    Bins are exponential: `sub_bins` to each power of two from 2^-32 to 2^32, for either sign, and one around
    0. Larger elements are counted in the outermost bins. NaN and infinities are counted apart, and logged as
    `<tag>/nonfinite` if there are any.

    Attributes:
        sub_bins: bins per power of two, itself a power of two up to 256.

    Example:
        >>> import sowlog
        >>> sowlog.histogram.of([0.5, 2.0]).merge(sowlog.histogram.of(3.0))
        State(histogram, HistogramValue(3 elements, min=0.5, max=3.0))
    """

    sub_bins: int = 4

    def __post_init__(self) -> None:
        check_sub_bins(self, self.sub_bins)

    def empty(self) -> Parts:
        return {
            "counts": empty_counts(self.sub_bins),
            "sum": compensated.zero_pair(),
            "squares": zero_squares(),
        }

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        value = value.astype(jnp.float32)
        counts = count(value, weight, self.sub_bins)
        total, squares = _moments(value, weight, counts)
        return {"counts": counts, "sum": total, "squares": squares}

    def merge(self, a: Parts, b: Parts) -> Parts:
        return {
            "counts": add_counts(a["counts"], b["counts"]),
            "sum": compensated.add(a["sum"], b["sum"]),
            "squares": add_squares(a["squares"], b["squares"]),
        }

    def exchange(self, parts: Parts, seen: jax.Array, replica: jax.Array) -> Exchange:
        counts: Counts = parts["counts"]
        bins, total = yield count_limbs(counts.bins), total_limbs(parts["sum"])
        negated, largest, scale = yield -counts.min, counts.max, parts["squares"].scale
        squares = yield total_limbs(rescale(parts["squares"], scale))
        return {
            "counts": Counts(of_limbs(bins), -negated, largest),
            "sum": of_limbs(total),
            "squares": Squares(scale, of_limbs(squares)),
        }

    def compute(self, parts: Parts) -> HistogramValue:
        counts: Counts = parts["counts"]
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

    Example:
        >>> import sowlog
        >>> sowlog.quantiles(percents=(50, 99)).of([1.0, 2.0, 4.0])
        State(quantiles(percents=(50, 99)), p50=2.03125, p99=4.0)
    """

    percents: tuple[float, ...] = (1, 5, 25, 50, 75, 95, 99)
    sub_bins: int = 32

    def __post_init__(self) -> None:
        check_sub_bins(self, self.sub_bins)
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
        return empty_counts(self.sub_bins)

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return count(value, weight, self.sub_bins)

    def merge(self, a: Counts, b: Counts) -> Parts:
        return add_counts(a, b)

    def exchange(self, parts: Counts, seen: jax.Array, replica: jax.Array) -> Exchange:
        bins = yield count_limbs(parts.bins)
        negated, largest = yield -parts.min, parts.max
        yield ()
        return Counts(of_limbs(bins), -negated, largest)

    def compute(self, parts: Counts) -> dict[str, jax.Array]:
        counts = parts.finite()
        below = cumulative(counts)
        total = Pair(below.hi[-1], below.lo[-1])
        slack = total.hi * jnp.where(compensated.are_whole(counts), _WHOLE_SLACK, _FRACTIONAL_SLACK)
        needed = compensated.multiply(total, [_share(percent) for percent in self.percents])
        missing = compensated.subtract(
            Pair(needed.hi[None, :], needed.lo[None, :]), Pair(below.hi[:, None], below.lo[:, None])
        )
        # Count the bins below: a few thousand comparisons cost less than the loop of a search.
        index = jnp.sum(missing > slack, axis=0)
        middle = jnp.asarray(bin_middles(self.sub_bins), jnp.float32)[jnp.minimum(index, counts.hi.size - 1)]
        known = (total.hi > 0) & jnp.isfinite(jnp.sum(counts.hi))
        values = jnp.where(known, jnp.clip(middle, parts.min, parts.max), jnp.nan)
        return {_name_of(percent): values[i] for i, percent in enumerate(self.percents)}


def _share(percent: float) -> Fraction:
    """Return a percentage as the exact fraction of its decimal digits: 99.9 is 999/1000."""
    return Fraction(str(percent)) / 100


def _name_of(percent: float) -> str:
    return f"p{percent:g}"


def _moments(value: jax.Array, weight: jax.Array | None, counts: Counts) -> tuple[Pair, Squares]:
    """Return the sum and the sum of squares of the finite elements.

    A scale costs another pass over the data, and a mask one more. Finite values of ordinary magnitude need
    neither.
    """
    largest = jnp.maximum(jnp.maximum(-counts.min, counts.max), 0.0)
    float_weight = None if weight is None else weight.astype(jnp.float32)

    def plainly(value: jax.Array) -> tuple[Pair, Squares]:
        return compensated.total(value), unscaled_squares_of(value)

    def carefully(value: jax.Array) -> tuple[Pair, Squares]:
        counted = jnp.isfinite(value) if weight is None else jnp.isfinite(value) & is_counted(weight)
        finite = jnp.where(counted, value, 0.0)
        weighted = finite if float_weight is None else finite * float_weight
        squares = squares_of(finite, float_weight, largest=largest)
        return compensated.total(weighted), squares

    if weight is not None:
        return carefully(value)
    is_plain = squares_fit(largest) & jnp.all(counts.bins.hi[-3:] == 0)
    return jax.lax.cond(is_plain, plainly, carefully, value)


histogram = Histogram()
quantiles = Quantiles()
