"""The reducers of second moments: std and rms."""

import dataclasses
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp

from sowlog._reduce import compensated
from sowlog._reduce.limbs import count_limbs, of_limbs, total_limbs
from sowlog._reduce.reducer import Exchange, Reducer
from sowlog._reduce.squares import (
    Squares,
    add_squares,
    elementwise_squares,
    rescale,
    root_mean,
    squares_of,
    zero_squares,
)
from sowlog._reduce.state import Parts
from sowlog._reduce.weights import masked, total_weight, weighted_total


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Std(Reducer):
    """The standard deviation over every element (of the population, as `numpy.std`), weighted.

    The state is the count, the mean and the second moment about the mean, merged by the formula of Chan,
    Golub and LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979). A
    mean far from 0 costs no digits, unlike in E[x^2] - E[x]^2. The sum of weight * value must lie within
    float32's range, as for `mean`.

    Example:
        >>> import sowlog
        >>> sowlog.std.of([1001.0, 1003.0])
        State(std, 1.0)
    """

    _takes_small_integers: ClassVar[bool] = True

    def empty(self) -> Parts:
        return {
            "weight": compensated.zero_pair(),
            "mean": compensated.zero_pair(),
            "m2": zero_squares(),
        }

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        own_weight = total_weight(value, weight)
        divisor = jnp.where(own_weight.value == 0, 1.0, own_weight.value)
        center = weighted_total(value, weight).value / divisor
        # The mean of the deviations corrects the rounding of `center`.
        deviation = masked(compensated.deviations(value, center), weight, 0.0)
        rest = weighted_total(deviation, weight).value / divisor
        float_weight = None if weight is None else weight.astype(jnp.float32)
        return {
            "weight": own_weight,
            "mean": compensated.add(compensated.pair_of(center), compensated.pair_of(rest)),
            "m2": squares_of(masked(deviation - rest, weight, 0.0), float_weight),
        }

    def merge(self, a: Parts, b: Parts) -> Parts:
        weight = compensated.add(a["weight"], b["weight"])
        share = b["weight"].value / jnp.where(weight.value == 0, 1.0, weight.value)
        delta = compensated.subtract(b["mean"], a["mean"])
        between = squares_of(delta, a["weight"].value * share)
        return {
            "weight": weight,
            "mean": compensated.add(a["mean"], compensated.pair_of(delta * share)),
            "m2": add_squares(add_squares(a["m2"], b["m2"]), between),
        }

    def exchange(self, parts: Parts, seen: jax.Array, replica: jax.Array) -> Exchange:
        """Sum the second moments about the mean of all replicas, then correct that mean's rounding."""
        own_weight = parts["weight"].value
        limbs, weighted_mean = yield (
            count_limbs(parts["weight"]),
            own_weight * parts["mean"].value,
        )
        weight = of_limbs(limbs)
        divisor = jnp.where(weight.value == 0, 1.0, weight.value)
        center = weighted_mean / divisor
        delta = jnp.where(seen, compensated.subtract(parts["mean"], compensated.pair_of(center)), 0.0)
        between = elementwise_squares(delta, own_weight)
        own = add_squares(parts["m2"], between)
        scale = yield own.scale
        moment, deviation = yield (
            total_limbs(rescale(own, scale)),
            own_weight * delta,
        )
        rest = deviation / divisor
        excess = elementwise_squares(rest, -weight.value)
        m2 = add_squares(Squares(scale, of_limbs(moment)), excess)
        mean = compensated.add(compensated.pair_of(center), compensated.pair_of(rest))
        return {"weight": weight, "mean": mean, "m2": m2}

    def compute(self, parts: Parts) -> jax.Array:
        return root_mean(parts["m2"], parts["weight"])


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Rms(Reducer):
    """The root of the mean square over every element, weighted; the squares may exceed float32's range.

    Example:
        >>> import sowlog
        >>> sowlog.rms.of([1.0, 7.0])
        State(rms, 5.0)
    """

    def empty(self) -> Parts:
        return {"weight": compensated.zero_pair(), "squares": zero_squares()}

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        counted = masked(value, weight, 0.0)
        float_weight = None if weight is None else weight.astype(jnp.float32)
        return {
            "weight": total_weight(value, weight),
            "squares": squares_of(counted, float_weight),
        }

    def merge(self, a: Parts, b: Parts) -> Parts:
        return {
            "weight": compensated.add(a["weight"], b["weight"]),
            "squares": add_squares(a["squares"], b["squares"]),
        }

    def exchange(self, parts: dict[str, Any], seen: jax.Array, replica: jax.Array) -> Exchange:
        weight = yield count_limbs(parts["weight"])
        scale = yield parts["squares"].scale
        squares = yield total_limbs(rescale(parts["squares"], scale))
        return {
            "weight": of_limbs(weight),
            "squares": Squares(scale, of_limbs(squares)),
        }

    def compute(self, parts: dict[str, Any]) -> jax.Array:
        squares: Squares = parts["squares"]
        return root_mean(squares, parts["weight"])


std = Std()
rms = Rms()
