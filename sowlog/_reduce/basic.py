"""The reducers sum, mean, min, max, last and nonfinite.

Each defines the parts of one state and the merge of two; `reducer.py` adds axes, weights and absence for all.
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

    Integers weighted by bools or integers are exact as well. A sum beyond 3.4e38 is infinite.

    Example:
        >>> import sowlog
        >>> sowlog.sum.of([1.0, 2.0]).merge(sowlog.sum.of(4.0))
        State(sum, 7.0)
    """

    _takes_small_integers: ClassVar[bool] = True
    _is_short: ClassVar[bool] = True

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

    Both sums must lie within float32's range: beyond 3.4e38 the result is infinite or NaN, and products below
    1e-38 count as 0. Scale such values and weights before they are sown, for example by their maximum.

    Example:
        >>> import sowlog
        >>> sowlog.mean.of([1.0, 2.0]).merge(sowlog.mean.of(6.0))
        State(mean, 3.0)
        >>> sowlog.mean.of([1.0, 2.0, 9.0], weight=[1, 1, 0])
        State(mean, 1.5)
    """

    _takes_small_integers: ClassVar[bool] = True
    _is_short: ClassVar[bool] = True

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
        return jax.lax.div(parts["total"].value, parts["weight"].value)


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Min(Reducer):
    """The smallest element of non-zero weight; NaN if one of them is NaN.

    Example:
        >>> import sowlog
        >>> sowlog.min.of([3.0, -1.0]).merge(sowlog.min.of(0.0))
        State(min, -1.0)
    """

    _is_short: ClassVar[bool] = True

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
    """The largest element of non-zero weight; NaN if one of them is NaN.

    Example:
        >>> import sowlog
        >>> sowlog.max.of([-3.0, -1.0]).merge(sowlog.max.of(-2.0))
        State(max, -1.0)
    """

    _is_short: ClassVar[bool] = True

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
    """The last element of non-zero weight, in row-major order: the only reducer whose merge has an order.

    Example:
        >>> import sowlog
        >>> sowlog.last.of([1.0, 2.0]).merge(sowlog.last.of(0.5))
        State(last, 0.5)
    """

    ordered: ClassVar[bool] = True
    _is_short: ClassVar[bool] = True

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
        """Keep the value of the last replica that has one."""
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
    """The number of elements of non-zero weight that are NaN or infinite, exact to 2^48.

    Without 64-bit types JAX converts a NumPy float64 beyond float32's range to infinity, which is counted.

    Example:
        >>> import sowlog
        >>> sowlog.nonfinite.of([1.0, float("nan"), float("inf")])
        State(nonfinite, 2.0)
    """

    _is_short: ClassVar[bool] = True

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
    """Exchange values for the largest; a NaN travels as a flag, since a collective may ignore it."""
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
