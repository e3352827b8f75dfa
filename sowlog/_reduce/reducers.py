"""The reducers: sum, mean, min, max, last, std, rms, nonfinite.

Each says what the parts of one state are and how two of them merge; `_state` does the rest for all.
"""

import dataclasses
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp

from sowlog._reduce import compensated
from sowlog._reduce.compensated import Pair, Squares
from sowlog._reduce.state import Exchange, Parts, Reducer
from sowlog._reduce.values import is_counted


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Sum(Reducer):
    """The sum of weight * value over everything, compensated; 32-bit integers are summed exactly to 2^48.

    Integers weighted by flags or integers are exact as well. A sum beyond 3.4e38 is infinite.
    """

    def empty(self) -> Parts:
        return compensated.zero_pair()

    def lift(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return _weighted_total(value, weight)

    def merge(self, a: Pair, b: Pair) -> Parts:
        return compensated.add(a, b)

    def exchange(self, parts: Pair, seen: jax.Array, replica: jax.Array) -> Exchange:
        limbs = yield compensated.total_limbs(parts)
        yield ()
        yield ()
        return compensated.of_limbs(limbs)

    def compute(self, parts: Pair) -> jax.Array:
        return parts.value


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Mean(Reducer):
    """The mean over every element of every value, weighted: sum(weight * value) / sum(weight).

    Not a mean of means: a call with 10 elements counts ten times a call with one.

    Both sums must lie within float32's range: if they pass 3.4e38 the result is infinite or NaN, and products
    below 1e-38 count as 0. Scale such values and weights before they are sown, for example by their maximum.
    """

    def empty(self) -> Parts:
        return {"total": compensated.zero_pair(), "weight": compensated.zero_pair()}

    def lift(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return {"total": _weighted_total(value, weight), "weight": _total_weight(value, weight)}

    def merge(self, a: dict[str, Pair], b: dict[str, Pair]) -> Parts:
        return {name: compensated.add(a[name], b[name]) for name in a}

    def exchange(self, parts: dict[str, Pair], seen: jax.Array, replica: jax.Array) -> Exchange:
        total, weight = yield (
            compensated.total_limbs(parts["total"]),
            compensated.count_limbs(parts["weight"]),
        )
        yield ()
        yield ()
        return {"total": compensated.of_limbs(total), "weight": compensated.of_limbs(weight)}

    def compute(self, parts: dict[str, Pair]) -> jax.Array:
        return parts["total"].value / parts["weight"].value


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Min(Reducer):
    """The smallest element of non-zero weight; a NaN among them gives NaN."""

    def empty(self) -> Parts:
        return jnp.full((), jnp.inf, jnp.float32)

    def lift(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return jnp.min(_masked(value, weight, jnp.inf), initial=jnp.inf)

    def merge(self, a: jax.Array, b: jax.Array) -> Parts:
        return jnp.minimum(a, b)

    def exchange(self, parts: jax.Array, seen: jax.Array, replica: jax.Array) -> Exchange:
        return -(yield from _largest_of_replicas(-parts))

    def compute(self, parts: jax.Array) -> jax.Array:
        return parts


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Max(Reducer):
    """The largest element of non-zero weight; a NaN among them gives NaN."""

    def empty(self) -> Parts:
        return jnp.full((), -jnp.inf, jnp.float32)

    def lift(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return jnp.max(_masked(value, weight, -jnp.inf), initial=-jnp.inf)

    def merge(self, a: jax.Array, b: jax.Array) -> Parts:
        return jnp.maximum(a, b)

    def exchange(self, parts: jax.Array, seen: jax.Array, replica: jax.Array) -> Exchange:
        return (yield from _largest_of_replicas(parts))

    def compute(self, parts: jax.Array) -> jax.Array:
        return parts


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Last(Reducer):
    """The last element of non-zero weight, in row-major order: the one reducer whose order counts."""

    ordered: ClassVar[bool] = True

    def empty(self) -> Parts:
        return jnp.zeros((), jnp.float32)

    def lift(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        flat = value.astype(jnp.float32).ravel()
        if flat.size == 0:
            return self.empty()
        if weight is None:
            return flat[-1]
        index = jnp.max(jnp.where(is_counted(weight).ravel(), jnp.arange(flat.size), 0))
        return flat[index]

    def merge(self, a: jax.Array, b: jax.Array) -> Parts:
        del a
        return b

    def exchange(self, parts: jax.Array, seen: jax.Array, replica: jax.Array) -> Exchange:
        """Keeps the value of the last replica that saw one."""
        yield ()
        index = jnp.where(seen, replica, -1).astype(jnp.float32)
        last_index = yield index
        value = yield jnp.where(seen & (index == last_index), parts, 0.0)
        return value

    def compute(self, parts: jax.Array) -> jax.Array:
        return parts


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Std(Reducer):
    """The standard deviation over every element (of the population, as `numpy.std`), weighted.

    Count, mean and second moment about the mean are kept, and merged by the formula of Chan, Golub and
    LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979), so that a
    mean far from 0 costs no digits, as E[x^2] - E[x]^2 does. The sum of weight * value must lie within
    float32's range, as for `mean`.
    """

    def empty(self) -> Parts:
        return {
            "weight": compensated.zero_pair(),
            "mean": compensated.zero_pair(),
            "m2": compensated.zero_squares(),
        }

    def lift(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        total_weight = _total_weight(value, weight)
        divisor = jnp.where(total_weight.value == 0, 1.0, total_weight.value)
        center = _weighted_total(value, weight).value / divisor
        # The deviations' own mean repairs the rounding of `center`.
        deviation = _masked(compensated.deviations(value, center), weight, 0.0)
        rest = _weighted_total(deviation, weight).value / divisor
        float_weight = None if weight is None else weight.astype(jnp.float32)
        return {
            "weight": total_weight,
            "mean": compensated.add(compensated.pair_of(center), compensated.pair_of(rest)),
            "m2": compensated.squares_of(_masked(deviation - rest, weight, 0.0), float_weight),
        }

    def merge(self, a: Parts, b: Parts) -> Parts:
        weight = compensated.add(a["weight"], b["weight"])
        share = b["weight"].value / jnp.where(weight.value == 0, 1.0, weight.value)
        delta = compensated.subtract(b["mean"], a["mean"])
        between = compensated.squares_of(delta, a["weight"].value * share)
        return {
            "weight": weight,
            "mean": compensated.add(a["mean"], compensated.pair_of(delta * share)),
            "m2": compensated.add_squares(compensated.add_squares(a["m2"], b["m2"]), between),
        }

    def exchange(self, parts: Parts, seen: jax.Array, replica: jax.Array) -> Exchange:
        """Takes the second moments about the mean of all, and mends that mean's rounding at the end."""
        own_weight = parts["weight"].value
        limbs, weighted_mean = yield (
            compensated.count_limbs(parts["weight"]),
            own_weight * parts["mean"].value,
        )
        weight = compensated.of_limbs(limbs)
        divisor = jnp.where(weight.value == 0, 1.0, weight.value)
        center = weighted_mean / divisor
        delta = jnp.where(seen, compensated.subtract(parts["mean"], compensated.pair_of(center)), 0.0)
        between = compensated.elementwise_squares(delta, own_weight)
        own = compensated.add_squares(parts["m2"], between)
        scale = yield own.scale
        moment, deviation = yield (
            compensated.total_limbs(compensated.rescale(own, scale)),
            own_weight * delta,
        )
        rest = deviation / divisor
        excess = compensated.elementwise_squares(rest, -weight.value)
        m2 = compensated.add_squares(Squares(scale, compensated.of_limbs(moment)), excess)
        mean = compensated.add(compensated.pair_of(center), compensated.pair_of(rest))
        return {"weight": weight, "mean": mean, "m2": m2}

    def compute(self, parts: Parts) -> jax.Array:
        return compensated.root_mean(parts["m2"], parts["weight"])


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Rms(Reducer):
    """The root of the mean square over every element, weighted; safe for squares beyond float32's range."""

    def empty(self) -> Parts:
        return {"weight": compensated.zero_pair(), "squares": compensated.zero_squares()}

    def lift(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        masked = _masked(value, weight, 0.0)
        float_weight = None if weight is None else weight.astype(jnp.float32)
        return {
            "weight": _total_weight(value, weight),
            "squares": compensated.squares_of(masked, float_weight),
        }

    def merge(self, a: Parts, b: Parts) -> Parts:
        return {
            "weight": compensated.add(a["weight"], b["weight"]),
            "squares": compensated.add_squares(a["squares"], b["squares"]),
        }

    def exchange(self, parts: dict[str, Any], seen: jax.Array, replica: jax.Array) -> Exchange:
        weight = yield compensated.count_limbs(parts["weight"])
        scale = yield parts["squares"].scale
        squares = yield compensated.total_limbs(compensated.rescale(parts["squares"], scale))
        return {
            "weight": compensated.of_limbs(weight),
            "squares": Squares(scale, compensated.of_limbs(squares)),
        }

    def compute(self, parts: dict[str, Any]) -> jax.Array:
        squares: Squares = parts["squares"]
        return compensated.root_mean(squares, parts["weight"])


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Nonfinite(Reducer):
    """How many elements of non-zero weight are NaN or infinite, counted exactly to 2^48.

    Without 64-bit types JAX makes a NumPy float64 beyond float32's range infinite, and so it counts.
    """

    def empty(self) -> Parts:
        return compensated.zero_pair()

    def lift(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        bad = ~jnp.isfinite(value)
        return compensated.total(bad if weight is None else bad & is_counted(weight))

    def merge(self, a: Pair, b: Pair) -> Parts:
        return compensated.add(a, b)

    def exchange(self, parts: Pair, seen: jax.Array, replica: jax.Array) -> Exchange:
        limbs = yield compensated.count_limbs(parts)
        yield ()
        yield ()
        return compensated.of_limbs(limbs)

    def compute(self, parts: Pair) -> jax.Array:
        return parts.value


def _largest_of_replicas(values: jax.Array) -> Exchange:
    """Exchanges values for the largest; a NaN travels as a flag, as collectives may pass over it."""
    nan = jnp.isnan(values)
    yield ()
    largest, any_nan = yield jnp.where(nan, -jnp.inf, values), nan.astype(jnp.float32)
    yield ()
    return jnp.where(any_nan > 0, jnp.nan, largest)


def _masked(value: jax.Array, weight: jax.Array | None, neutral: float) -> jax.Array:
    values = value.astype(jnp.float32)
    return values if weight is None else jnp.where(is_counted(weight), values, neutral)


def _weighted_total(value: jax.Array, weight: jax.Array | None) -> Pair:
    return compensated.total(value) if weight is None else compensated.weighted_total(value, weight)


def _total_weight(value: jax.Array, weight: jax.Array | None) -> Pair:
    return compensated.count(value.size) if weight is None else compensated.total(weight)


sum = Sum()
mean = Mean()
min = Min()
max = Max()
last = Last()
std = Std()
rms = Rms()
nonfinite = Nonfinite()
