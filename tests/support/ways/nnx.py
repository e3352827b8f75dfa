"""The ways of Flax nnx: its transforms, scans over stacked modules, and split and merge by hand.

JAX caches a trace by its function, and tests change the sows: so each way makes new functions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import sowlog
from tests.support.ways.base import ROWS, Framework, Way, Ways, sow_all, sow_loss, sow_statistics


class Sower(nnx.Module):
    """A layer that sows the row it is given."""

    def __init__(self, scale: Any = 1.0):
        self.scale = nnx.Param(jnp.asarray(scale, jnp.float32))

    def __call__(self, row: jax.Array) -> jax.Array:
        row = self.scale[...] * row
        sow_all(row, self)
        return row


class Layers(nnx.Module):
    """A layer for each row, in a list and stacked."""

    def __init__(self):
        self.listed = nnx.List([Sower() for _ in range(ROWS)])
        self.stacked = nnx.vmap(Sower)(jnp.ones(ROWS))


Call = Callable[[Any, jax.Array], Any]


def _call(sower: Sower, rows: jax.Array) -> jax.Array:
    return sower(rows)


def _collect(call: Call, model: Callable[[], Any] = Sower) -> Way:
    """Collect a function of a model, which is made anew: nnx ties a model to the trace it was made in."""
    return lambda rows: sowlog.collect(call)(model(), rows)[1]


def _shared(sower: Sower, rows: jax.Array) -> None:
    for row in rows:
        sower(row)


def _layers(layers: Layers, rows: jax.Array) -> None:
    for layer, row in zip(layers.listed, rows, strict=True):
        layer(row)


def _scan_layers(layers: Layers, rows: jax.Array) -> None:
    nnx.scan(lambda layer, row: layer(row), in_axes=(0, 0), out_axes=0)(layers.stacked, rows)


def _element(sower: Sower, rows: jax.Array) -> None:
    nnx.scan(nnx.remat(lambda sower, row: sower(row)), in_axes=(None, 0), out_axes=0)(sower, rows)


def _while_loop(sower: Sower, rows: jax.Array) -> None:
    def body(carry: Any) -> Any:
        sower, index = carry
        sower(rows[index])
        return sower, index + 1

    nnx.while_loop(lambda carry: carry[1] < ROWS, body, (sower, jnp.int32(0)))


def _fori_loop(sower: Sower, rows: jax.Array) -> None:
    def body(index: jax.Array, carry: Any) -> Any:
        sower, total = carry
        return sower, total + sower(rows[index])

    nnx.fori_loop(0, ROWS, body, (sower, jnp.zeros(3)))


def _cond(sower: Sower, rows: jax.Array) -> None:
    for index, row in enumerate(jnp.concatenate([rows, 1e6 * rows])):
        # The rows beyond are never sown: their branch is not taken.
        nnx.cond(index < ROWS, lambda sower, row: sower(row), lambda _, row: row, sower, row)


def _switch(layers: Layers, rows: jax.Array) -> None:
    def branch(index: int) -> Call:
        return lambda layers, row: layers.listed[index](row)

    for row in rows:
        nnx.switch(jnp.int32(1), [branch(0), branch(1), lambda _, row: row], layers, row)


def _of_total(transform: Callable[[Call], Call]) -> Way:
    """Transform the function from a module and the rows to a sum."""
    return _collect(lambda sower, rows: transform(lambda sower, rows: jnp.sum(sower(rows)))(sower, rows))


def _vjp(total: Call) -> Call:
    return lambda sower, rows: nnx.vjp(total, sower, rows, graph_updates=False)[1](jnp.float32(1))


def _jvp(total: Call) -> Call:
    return lambda sower, rows: nnx.jvp(lambda rows: total(sower, rows), (rows,), (rows,), graph_updates=False)


def _custom_vjp(sower: Sower, rows: jax.Array) -> None:
    """Sow the statistics inside, and the loss of the result outside: inside, its gradient would be lost."""

    def identity(sower: Sower, rows: jax.Array) -> jax.Array:
        sow_statistics(rows, sower)
        return rows

    def backward(residuals: Any, cotangent: Any) -> Any:
        inputs, outputs = cotangent
        return inputs[0], outputs

    custom = nnx.custom_vjp(identity)
    custom.defvjp(lambda sower, rows: (identity(sower, rows), None), backward)
    sow_loss(custom(sower, rows), sower)


def _split_by_hand(sower: Sower, rows: jax.Array) -> None:
    structure, state = nnx.split(sower)
    jax.jit(lambda state, rows: nnx.merge(structure, state)(rows))(state, rows)


_whole = _collect(_call)
_STRUCTURES: Ways = {
    "one call": (_whole, 1),
    "a shared module": (_collect(_shared), 1),
    "a Python loop over layers": (_collect(_layers, Layers), 1),
    "nnx.scan over stacked layers": (_collect(_scan_layers, Layers), 1),
    "nnx.scan(nnx.remat)": (_collect(_element), 1),
    "nnx.vmap": (_collect(lambda m, rows: nnx.vmap(lambda m, row: m(row), in_axes=(None, 0))(m, rows)), 1),
    "nnx.vmap of an ensemble": (
        _collect(lambda m, rows: nnx.vmap(lambda m, row: m(row))(m.stacked, rows), Layers),
        1,
    ),
    "nnx.while_loop": (_collect(_while_loop), 1),
    "nnx.fori_loop": (_collect(_fori_loop), 1),
    "nnx.cond, one branch": (_collect(_cond), 1),
    "nnx.switch, different names": (_collect(_switch, Layers), 1),
    "nnx.jit": (_collect(lambda m, rows: nnx.jit(lambda m, rows: m(rows))(m, rows)), 1),
    "nnx.remat": (_collect(lambda m, rows: nnx.remat(lambda m, rows: m(rows))(m, rows)), 1),
    "nnx.vjp": (_of_total(_vjp), 1),
    "nnx.jvp": (_of_total(_jvp), 1),
    "nnx.value_and_grad": (_of_total(nnx.value_and_grad), 1),
    "nnx.custom_vjp": (_collect(_custom_vjp), 1),
    "split and merge by hand": (_collect(_split_by_hand), 1),
}
NNX = Framework("nnx", _whole, _collect(_element), _STRUCTURES)
