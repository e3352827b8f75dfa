"""Reducers' functions under jit, compiled once for each shape."""

import functools

import jax

import sowlog


@functools.cache
def jit_of(reducer):
    """Return the `of` of a reducer under jit; eager, thousands of bins would compile for each operation."""
    return jax.jit(reducer.of)


compute = jax.jit(sowlog.State.compute)
merge = jax.jit(sowlog.State.merge)
