"""Values and sums under a weight; None is a weight of 1 everywhere."""

import jax
import jax.numpy as jnp

from sowlog._reduce import compensated
from sowlog._reduce.compensated import Pair
from sowlog._reduce.values import is_counted


def masked(value: jax.Array, weight: jax.Array | None, neutral: float) -> jax.Array:
    """Return the values as float32, with `neutral` in place of those that do not count."""
    values = value.astype(jnp.float32)
    return values if weight is None else jnp.where(is_counted(weight), values, neutral)


def weighted_total(value: jax.Array, weight: jax.Array | None) -> Pair:
    """Return the sum of weight * value."""
    return compensated.total(value) if weight is None else compensated.weighted_total(value, weight)


def total_weight(value: jax.Array, weight: jax.Array | None) -> Pair:
    """Return the sum of the weights."""
    return compensated.count(value.size) if weight is None else compensated.total(weight)
