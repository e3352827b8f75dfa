"""Sums of squares without overflow or underflow: a float32 pair on a scale."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sowlog._reduce.compensated import MIN_SCALE, Pair, add, pair_of, power_of_two, tree_sum, zero_pair


class Squares(NamedTuple):
    """The sum of squares scale^2 * total; scale is a power of two.

    Without the scale the squares of values beyond 1e19 overflow float32, and those of values under 1e-19
    vanish (Blue, "A portable Fortran program to find the Euclidean norm of a vector", 1978).
    """

    scale: jax.Array
    total: Pair


def zero_squares() -> Squares:
    """Return the sum of squares 0."""
    return Squares(jnp.asarray(MIN_SCALE), zero_pair())


def squares_of(
    values: jax.Array, weight: jax.Array | None = None, *, largest: jax.Array | None = None
) -> Squares:
    """Return the sum of weight * values^2 over all elements of a float32 array.

    `largest` is the largest magnitude among them, where the caller knows it.
    """
    scale = power_of_two(jnp.max(jnp.abs(values), initial=0.0) if largest is None else largest)
    # The scale is a power of two with a normal inverse: the product is exact, and faster than a division.
    squares = jnp.square(values * (1.0 / scale))
    return Squares(scale, pair_of(tree_sum(squares if weight is None else weight * squares)))


def squares_fit(largest: jax.Array) -> jax.Array:
    """Return whether no square of a magnitude up to `largest` underflows, and no sum of 2^47 overflows."""
    return (largest >= 2.0**-40) & (largest <= 2.0**40)


def unscaled_squares_of(values: jax.Array) -> Squares:
    """Return the sum of squares of a float32 array with a largest magnitude that `squares_fit` accepts."""
    total = pair_of(tree_sum(jnp.square(values)))
    # Under shard_map the branches of a cond must vary over the same axes, so the scale is no constant.
    return Squares(jnp.ones_like(total.hi), total)


def elementwise_squares(values: jax.Array, weight: jax.Array) -> Squares:
    """Return weight * value^2 elementwise."""
    scale = power_of_two(jnp.abs(values))
    return Squares(scale, pair_of(weight * jnp.square(values * (1.0 / scale))))


def add_squares(a: Squares, b: Squares) -> Squares:
    """Return a + b on the larger of the two scales."""
    scale = jnp.maximum(a.scale, b.scale)
    return Squares(scale, add(rescale(a, scale), rescale(b, scale)))


def rescale(squares: Squares, scale: jax.Array) -> Pair:
    """Return the total that a sum of squares has on another scale, not below its own."""
    factor = jnp.square(squares.scale * (1.0 / scale))
    return Pair(squares.total.hi * factor, squares.total.lo * factor)


def root_mean(squares: Squares, weight: Pair) -> jax.Array:
    """Return sqrt(squares / weight) as float32."""
    return jax.lax.mul(squares.scale, jax.lax.sqrt(jax.lax.div(squares.total.value, weight.value)))
