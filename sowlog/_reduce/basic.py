"""The reducers sum, mean, min, max, last and nonfinite.

Each says what the parts of one state are and how two of them merge; `reducer.py` does the rest for all.
"""

import dataclasses
from typing import ClassVar, final

import jax
import jax.numpy as jnp

from sowlog._reduce import compensated
from sowlog._reduce.compensated import Pair
from sowlog._reduce.limbs import count_limbs, of_limbs, total_limbs
from sowlog._reduce.reducer import Exchange, Reducer
from sowlog._reduce.state import Parts
from sowlog._reduce.values import is_counted
from sowlog._reduce.weights import masked, total_weight, weighted_total


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Sum(Reducer):
    """The sum of weight * value over everything, compensated; 32-bit integers are summed exactly to 2^48.

    Integers weighted by flags or integers are exact as well. A sum beyond 3.4e38 is infinite.
    """

    _takes_small_integers: ClassVar[bool] = True

    def empty(self) -> Parts:
        return compensated.zero_pair()

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return weighted_total(value, weight)

    def merge(self, a: Pair, b: Pair) -> Parts:
        return compensated.add(a, b)

    def exchange(self, parts: Pair, seen: jax.Array, replica: jax.Array) -> Exchange:
        limbs = yield total_limbs(parts)
        yield ()
        yield ()
        return of_limbs(limbs)

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

    _takes_small_integers: ClassVar[bool] = True

    def empty(self) -> Parts:
        return {"total": compensated.zero_pair(), "weight": compensated.zero_pair()}

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return {"total": weighted_total(value, weight), "weight": total_weight(value, weight)}

    def merge(self, a: dict[str, Pair], b: dict[str, Pair]) -> Parts:
        return {name: compensated.add(a[name], b[name]) for name in a}

    def exchange(self, parts: dict[str, Pair], seen: jax.Array, replica: jax.Array) -> Exchange:
        total, weight = yield (
            total_limbs(parts["total"]),
            count_limbs(parts["weight"]),
        )
        yield ()
        yield ()
        return {"total": of_limbs(total), "weight": of_limbs(weight)}

    def compute(self, parts: dict[str, Pair]) -> jax.Array:
        return parts["total"].value / parts["weight"].value


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Min(Reducer):
    """The smallest element of non-zero weight; a NaN among them gives NaN."""

    def empty(self) -> Parts:
        return jnp.full((), jnp.inf, jnp.float32)

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return jnp.min(masked(value, weight, jnp.inf), initial=jnp.inf)

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

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        return jnp.max(masked(value, weight, -jnp.inf), initial=-jnp.inf)

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

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
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
        """Keep the value of the last replica that saw one."""
        yield ()
        index = jnp.where(seen, replica, -1).astype(jnp.float32)
        last_index = yield index
        value = yield jnp.where(seen & (index == last_index), parts, 0.0)
        return value

    def compute(self, parts: jax.Array) -> jax.Array:
        return parts


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Nonfinite(Reducer):
    """How many elements of non-zero weight are NaN or infinite, counted exactly to 2^48.

    Without 64-bit types JAX makes a NumPy float64 beyond float32's range infinite, and so it counts.
    """

    def empty(self) -> Parts:
        return compensated.zero_pair()

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        bad = ~jnp.isfinite(value)
        return compensated.total(bad if weight is None else bad & is_counted(weight))

    def merge(self, a: Pair, b: Pair) -> Parts:
        return compensated.add(a, b)

    def exchange(self, parts: Pair, seen: jax.Array, replica: jax.Array) -> Exchange:
        limbs = yield count_limbs(parts)
        yield ()
        yield ()
        return of_limbs(limbs)

    def compute(self, parts: Pair) -> jax.Array:
        return parts.value


def _largest_of_replicas(values: jax.Array) -> Exchange:
    """Exchange values for the largest; a NaN travels as a flag, as collectives may pass over it."""
    nan = jnp.isnan(values)
    yield ()
    largest, any_nan = yield jnp.where(nan, -jnp.inf, values), nan.astype(jnp.float32)
    yield ()
    return jnp.where(any_nan > 0, jnp.nan, largest)


sum = Sum()
mean = Mean()
min = Min()
max = Max()
last = Last()
nonfinite = Nonfinite()
