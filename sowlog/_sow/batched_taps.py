"""The vmaps around a tap of `sow_grad`: which keep the states of their examples apart, and in which order.

A vmap leaves no transform in the backward pass: the cotangent of a tap has an axis for each vmap around it,
the outermost first. A loop is a transform there, and stacks the states of its steps in front of these axes.
"""

import contextlib
import contextvars
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sowlog._reduce.state import State
from sowlog._sow import internals
from sowlog._sow.collector import merge_axis
from sowlog._sow.labels import Label

Vmap = int | None
"""A vmap around a tap: None if its examples are merged, else the number of stacking loops inside of it."""
NOT_MAPPED = -1
"""A vmap that keeps its examples apart, around a tap of a value that it does not map."""

_stacking: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("sowlog_stacking", default=())


def _running() -> Any:
    """Return the tag of the vmap whose function runs; None if another transform's does."""
    trace = next(internals.current_traces(), None)
    return None if trace is None or internals.mapped(trace, ()) is None else trace.tag


@contextlib.contextmanager
def stacking_vmap() -> Generator[bool]:
    """Keep the examples of the running vmap apart. The value is False if no vmap runs."""
    vmap = _running()
    token = _stacking.set(_stacking.get() if vmap is None else (*_stacking.get(), vmap))
    try:
        yield vmap is not None
    finally:
        _stacking.reset(token)


def is_stacking() -> bool:
    """Return whether the running vmap keeps its examples apart."""
    vmap = _running()
    # All tags compare equal.
    return any(vmap is own for own in _stacking.get())


def state_of_examples(
    state_of: Callable[[jax.Array], State], label: Label, vmaps: Sequence[Vmap], cotangent: jax.Array
) -> State:
    """Return the state of a cotangent with an axis for each vmap; those that stack keep theirs."""
    for _ in vmaps:
        state_of = jax.vmap(state_of)
    state, kept = state_of(cotangent), 0
    for vmap in vmaps:
        if vmap is None:
            state = merge_axis(label.join, jax.tree.map(lambda x, axis=kept: jnp.moveaxis(x, axis, 0), state))
        else:
            kept += 1
    return state


def order_of(vmaps: Sequence[Vmap], loops: int) -> tuple[int, ...]:
    """Return the order of nesting of the axes that loops and then vmaps stack; () if it is theirs."""
    depths = [*range(loops, 0, -1), *(inside + 0.5 for inside in vmaps if inside is not None)]
    order = tuple(sorted(range(len(depths)), key=lambda axis: -depths[axis]))
    return () if order == tuple(range(len(depths))) else order
