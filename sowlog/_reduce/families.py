"""The reducers of the families of statistics that `sowlog.watch` knows by name."""

import dataclasses
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp

from sowlog._reduce import compensated
from sowlog._reduce.compensated import Pair
from sowlog._reduce.limbs import of_limbs, total_limbs
from sowlog._reduce.reducer import Exchange, Reducer
from sowlog._reduce.squares import Squares, add_squares, rescale, squares_of, zero_squares
from sowlog._reduce.state import Parts
from sowlog._reduce.weights import masked, total_weight, weighted_total


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Norm(Reducer):
    """The Euclidean norm of all elements: the root of the sum of weight * value^2, which may exceed float32.

    Example:
        >>> from sowlog._reduce.families import norm
        >>> norm.of([3.0, 4.0])
        State(norm, 5.0)
    """

    def empty(self) -> Parts:
        return zero_squares()

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return squares_of(masked(value, weight, 0.0), None if weight is None else weight.astype(jnp.float32))

    def merge(self, a: Squares, b: Squares) -> Parts:
        return add_squares(a, b)

    def exchange(self, parts: Squares, seen: jax.Array, replica: jax.Array) -> Exchange:
        yield ()
        scale = yield parts.scale
        total = yield total_limbs(rescale(parts, scale))
        return Squares(scale, of_limbs(total))

    def compute(self, parts: Squares) -> jax.Array:
        return parts.scale * jnp.sqrt(parts.total.value)


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Kurtosis(Reducer):
    """The fourth standardized moment over every element: 3 for a normal distribution, large with outliers.

    The state is the weight, the mean and the central moments two to four, merged by Pebay's formulas
    ("Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical
    moments", 2008). It is computed on values that are divided by a power of two near their largest magnitude,
    so that no power overflows. NaN if all values are equal.

    Example:
        >>> from sowlog._reduce.families import kurtosis
        >>> kurtosis.of([-1.0, 1.0, -1.0, 1.0])
        State(kurtosis, 1.0)
    """

    def empty(self) -> Parts:
        zero = compensated.zero_pair
        return {
            "weight": zero(),
            "mean": zero(),
            "scale": jnp.asarray(compensated.MIN_SCALE),
            **{name: jnp.zeros((), jnp.float32) for name in ("m2", "m3", "m4")},
        }

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        values = masked(value, weight, 0.0)
        scale = compensated.power_of_two(jnp.max(jnp.abs(values), initial=0.0))
        own_weight = total_weight(value, weight)
        divisor = jnp.where(own_weight.value == 0, 1.0, own_weight.value)
        scaled = values * (1.0 / scale)
        center = weighted_total(scaled, weight).value / divisor
        deviation = masked(scaled - center, weight, 0.0)
        rest = weighted_total(deviation, weight).value / divisor
        deviation = masked(deviation - rest, weight, 0.0)
        moments = {f"m{power}": weighted_total(deviation**power, weight).value for power in (2, 3, 4)}
        mean = compensated.add(compensated.pair_of(center), compensated.pair_of(rest))
        return {"weight": own_weight, "mean": mean, "scale": scale, **moments}

    def merge(self, a: Parts, b: Parts) -> Parts:
        scale = jnp.maximum(a["scale"], b["scale"])
        a, b = _on_scale(a, scale), _on_scale(b, scale)
        weight = compensated.add(a["weight"], b["weight"])
        divisor = jnp.where(weight.value == 0, 1.0, weight.value)
        d = compensated.subtract(b["mean"], a["mean"])
        share_a, share_b = a["weight"].value / divisor, b["weight"].value / divisor
        m2, m3, m4 = (a[name] + b[name] for name in ("m2", "m3", "m4"))
        cross2 = d**2 * a["weight"].value * share_b
        cross3 = d * (share_a * b["m2"] - share_b * a["m2"])
        cross4 = d * (share_a * b["m3"] - share_b * a["m3"])
        squares = d**2 * (share_b**2 * a["m2"] + share_a**2 * b["m2"])
        return {
            "weight": weight,
            "mean": compensated.add(a["mean"], compensated.pair_of(d * share_b)),
            "scale": scale,
            "m2": m2 + cross2,
            "m3": m3 + d * cross2 * (share_a - share_b) + 3 * cross3,
            "m4": m4
            + d**2 * cross2 * (share_a**2 - share_a * share_b + share_b**2)
            + 6 * squares
            + 4 * cross4,
        }

    def compute(self, parts: Parts) -> jax.Array:
        return parts["weight"].value * parts["m4"] / parts["m2"] ** 2


@final
@dataclasses.dataclass(frozen=True, repr=False)
class First(Reducer):
    """The result of another reducer for the first value, as for parameters, which each call has alike.

    Example:
        >>> import sowlog
        >>> from sowlog._reduce.families import First
        >>> First(sowlog.sum).of([3.0, 4.0]).merge(First(sowlog.sum).of([3.0, 4.0]))
        State(first of sum, 7.0)
    """

    reducer: Reducer = dataclasses.field(kw_only=False)
    ordered: ClassVar[bool] = True

    def empty(self) -> Parts:
        return self.reducer.empty()

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return self.reducer.from_value(value, weight)

    def merge(self, a: Parts, b: Parts) -> Parts:
        return a

    def compute(self, parts: Parts) -> Any:
        return self.reducer.compute(parts)

    def __repr__(self) -> str:
        return f"first of {self.reducer}"


def _on_scale(parts: Parts, scale: jax.Array) -> Parts:
    """Return moments of values divided by another scale, not below their own."""
    factor = parts["scale"] * (1.0 / scale)
    mean = Pair(*(part * factor for part in parts["mean"]))
    return {
        "weight": parts["weight"],
        "mean": mean,
        **{f"m{power}": parts[f"m{power}"] * factor**power for power in (2, 3, 4)},
    }


norm = Norm()
kurtosis = Kurtosis()
