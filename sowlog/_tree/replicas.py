"""Merging over replicas: three collectives for any number of metrics.

The cost is in the collective, not in its bytes. So every state names its arrays to sum, to take the maximum
of, and to sum in the knowledge of both (a second moment about the mean of all). Each of the three travels as
one vector.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from sowlog._reduce import ambient
from sowlog._reduce.reducer import Exchange
from sowlog._reduce.state import State
from sowlog._tree.tags import check_states, is_state, unstack

Axis = Hashable | tuple[Hashable, ...]
_Collective = Callable[[jax.Array, Any], jax.Array]


def all_reduce(tree: Any, axis_name: Axis) -> Any:
    """Merge a tree of states over the replicas of a mapped axis; each replica gets the result.

    Call it inside `shard_map`, `pmap` or `vmap(axis_name=...)`, before `pack`: without it each replica would
    report its own shard. `last` keeps the value of the highest index that has one.

    Args:
        tree: a tree of states of one structure on all replicas.
        axis_name: the mapped axis, or several.

    Returns:
        The merged tree, equal on all replicas. It costs one psum, one pmax and one more psum, with bytes that
        do not depend on the number of replicas, and one gather for all custom reducers without `exchange`.

    Raises:
        TypeError: A leaf is not a state, so its merge is undefined.

    Example:
        >>> import jax, jax.numpy as jnp, sowlog
        >>> step = lambda x: sowlog.all_reduce({"loss": sowlog.mean.of(x)}, "batch")
        >>> states = jax.vmap(step, axis_name="batch")(jnp.array([1.0, 2.0, 6.0]))
        >>> states
        {'loss': State(mean, shape=(3,))}
        >>> states["loss"].compute().tolist()
        [3.0, 3.0, 3.0]
    """
    check_states(tree)
    with ambient.unchecked():
        return _all_reduce(tree, axis_name)


def _all_reduce(tree: Any, axis_name: Axis) -> Any:
    states, structure = jax.tree.flatten(tree, is_leaf=is_state)
    replica = jax.lax.axis_index(axis_name)
    exchanges = [state.reducer.exchange(state.parts, state.seen, replica) for state in states]
    merged = iter(_exchange(_with_seen(states, exchanges), axis_name))
    alone = [state for state, exchange in zip(states, exchanges, strict=True) if exchange is None]
    gathered = iter(_gather(alone, axis_name, replica) if alone else ())
    return structure.unflatten([next(gathered if exchange is None else merged) for exchange in exchanges])


def _with_seen(states: list[State], exchanges: list[Exchange | None]) -> list[Exchange]:
    return [
        _exchange_state(state, exchange)
        for state, exchange in zip(states, exchanges, strict=True)
        if exchange is not None
    ]


def _exchange_state(state: State, parts: Exchange) -> Exchange:
    """Exchange a whole state: its parts, and whether any replica has a value."""
    sums = yield next(parts)
    maxima, seen = yield parts.send(sums), state.seen.astype(jnp.float32)
    last = yield parts.send(maxima)
    return dataclasses.replace(state, parts=_finish(parts, last), seen=seen > 0)


def _exchange(exchanges: list[Exchange], axis_name: Axis) -> list[State]:
    """Run all exchanges together, each round as one collective."""
    given = [next(exchange) for exchange in exchanges]
    for collective in (jax.lax.psum, jax.lax.pmax):
        received = _reduce_together(given, collective, axis_name)
        given = [exchange.send(got) for exchange, got in zip(exchanges, received, strict=True)]
    received = _reduce_together(given, jax.lax.psum, axis_name)
    return [_finish(exchange, got) for exchange, got in zip(exchanges, received, strict=True)]


def _finish(exchange: Exchange, received: Any) -> Any:
    try:
        exchange.send(received)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("an exchange yields three times: sums, maxima, and sums again.")


def _reduce_together(trees: Any, collective: _Collective, axis_name: Axis) -> Any:
    leaves, structure = jax.tree.flatten(trees)
    if not leaves:
        return trees
    together = collective(jnp.concatenate([leaf.ravel() for leaf in leaves]), axis_name)
    parts = jnp.split(together, _ends([leaf.size for leaf in leaves]))
    return structure.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def _ends(sizes: list[int]) -> list[int]:
    ends = [0]
    for size in sizes[:-1]:
        ends.append(ends[-1] + size)
    return ends[1:]


def _gather(states: list[State], axis_name: Axis, replica: jax.Array) -> list[State]:
    """Merge states by their reducers alone: each replica gets the states of all, in one collective.

    The states travel as integers, and their sum with the zeros of the other replicas is exact. A checked
    shard_map requires a result that JAX knows to be equal on all replicas: in every version a sum is, and an
    all_gather is not.
    """
    replicas = jax.lax.psum(1, axis_name)

    def spread(leaf: jax.Array) -> jax.Array:
        words = _to_words(leaf)
        return jnp.zeros((replicas, *words.shape), words.dtype).at[replica].set(words)

    leaves, structure = jax.tree.flatten(states)
    words = _reduce_together([spread(leaf) for leaf in leaves], jax.lax.psum, axis_name)
    gathered = [_of_words(word, leaf) for word, leaf in zip(words, leaves, strict=True)]
    of_each = unstack(structure.unflatten(gathered))
    return [functools.reduce(State.merge, states) for states in zip(*of_each, strict=True)]


def _to_words(leaf: jax.Array) -> jax.Array:
    """Return an array's bits as uint32, two for each element of 64 bits along a new last axis."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    if leaf.dtype.itemsize < 4:
        bits = jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize])
        return bits.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32)


def _of_words(words: jax.Array, like: jax.Array) -> jax.Array:
    if like.dtype == jnp.bool_:
        return words.astype(jnp.bool_)
    if like.dtype.itemsize < 4:
        words = words.astype(_UNSIGNED[like.dtype.itemsize])
    return jax.lax.bitcast_convert_type(words, like.dtype)


_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16}
