"""The ways of Equinox: its filtered transforms, and scans over stacked modules.

JAX caches a trace by its function, and tests change the sows: so each way makes new functions.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import sowlog
from tests.support.ways.base import ROWS, Framework, Way, Ways, sow_all, sow_loss, sow_statistics


class Sower(eqx.Module):
    """A layer that sows the row it is given."""

    scale: jax.Array

    def __call__(self, row: jax.Array) -> jax.Array:
        row = self.scale * row
        sow_all(row)
        return row


def _module() -> Sower:
    return Sower(jnp.float32(1))


def _stack() -> Sower:
    """Return a layer for each row, stacked."""
    return eqx.filter_vmap(Sower)(jnp.ones(ROWS))


def _collect(call: Callable[[jax.Array], Any]) -> Way:
    return lambda rows: sowlog.collect(call)(rows)[1]


def _shared(rows: jax.Array) -> None:
    sower = _module()
    for row in rows:
        sower(row)


def _layers(rows: jax.Array) -> None:
    for index, row in enumerate(rows):
        with sowlog.scope(f"layer_{index}"):
            _module()(row)


def _scan(wrap: Callable[[Any], Any]) -> Way:
    """Scan over stacked layers, of which each takes a row."""

    def call(rows: jax.Array) -> None:
        arrays, static = eqx.partition(_stack(), eqx.is_array)

        def body(carry: Any, layer_and_row: Any) -> Any:
            arrays, row = layer_and_row
            return carry, eqx.combine(arrays, static)(row)

        jax.lax.scan(wrap(body), 0, (arrays, rows))

    return _collect(call)


def _element(rows: jax.Array) -> None:
    sower = _module()
    jax.lax.scan(eqx.filter_checkpoint(lambda carry, row: (carry, sower(row))), 0, rows)


def _ensemble(wrap: Callable[[Any], Any]) -> Way:
    return _collect(lambda rows: eqx.filter_vmap(wrap(lambda sower, row: sower(row)))(_stack(), rows))


def _while_loop(kind: str, **settings: Any) -> Way:
    def call(rows: jax.Array) -> None:
        sower = _module()

        def body(carry: Any) -> Any:
            index, total = carry
            return index + 1, total + sow_of(rows[index])

        def sow_of(row: jax.Array) -> jax.Array:
            sow_statistics(sower.scale * row)
            return row

        loop = eqx.internal.while_loop
        _, total = loop(lambda carry: carry[0] < ROWS, body, (0, jnp.zeros(3)), kind=kind, **settings)
        # A loop that recomputes is a custom derivative: the loss is sown of its result.
        sow_loss(total)

    return _collect(call)


def _cond(rows: jax.Array) -> None:
    for index, row in enumerate(jnp.concatenate([rows, 1e6 * rows])):
        # The rows beyond are never sown: their branch is not taken.
        jax.lax.cond(index < ROWS, lambda row: _module()(row), lambda row: row, row)


def _of_total(transform: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Way:
    """Transform the function from a module and the rows to a sum."""

    def call(rows: jax.Array) -> None:
        transform(lambda sower, rows: jnp.sum(sower(rows)))(_module(), rows)

    return _collect(call)


def _custom_vjp(rows: jax.Array) -> None:
    """Sow the statistics inside, and the loss of the result outside: inside, its gradient would be lost."""

    def identity(rows: jax.Array) -> jax.Array:
        sow_statistics(rows)
        return rows

    custom = eqx.filter_custom_vjp(identity)
    custom.def_fwd(lambda perturbed, rows: (identity(rows), None))
    custom.def_bwd(lambda residuals, cotangent, perturbed, rows: cotangent)
    sow_loss(custom(rows))


def _custom_jvp(rows: jax.Array) -> None:
    def identity(rows: jax.Array) -> jax.Array:
        sow_statistics(rows)
        return rows

    custom = eqx.filter_custom_jvp(identity)
    custom.def_jvp(lambda primals, tangents: (identity(*primals), *tangents))
    sow_loss(custom(rows))


_whole = _collect(lambda rows: _module()(rows))
_STRUCTURES: Ways = {
    "one call": (_whole, 1),
    "a shared module": (_collect(_shared), 1),
    "a Python loop over layers": (_collect(_layers), 1),
    "jax.lax.scan over stacked layers": (_scan(sowlog.stacked), 1),
    "jax.lax.scan over layers, merged": (_scan(lambda body: body), 1),
    "jax.lax.scan(filter_checkpoint)": (_scan(eqx.filter_checkpoint), 1),
    "filter_vmap": (
        _collect(lambda rows: eqx.filter_vmap(lambda m, row: m(row), in_axes=(None, 0))(_module(), rows)),
        1,
    ),
    "filter_vmap of an ensemble": (_ensemble(lambda call: call), 1),
    "filter_vmap of an ensemble, stacked": (_ensemble(sowlog.stacked), 1),
    "a checkpointed while loop": (_while_loop("checkpointed", checkpoints=2), 1),
    "a bounded while loop": (_while_loop("bounded", max_steps=ROWS), 1),
    "jax.lax.cond, one branch": (_collect(_cond), 1),
    "filter_jit": (_collect(lambda rows: eqx.filter_jit(lambda m, rows: m(rows))(_module(), rows)), 1),
    "filter_checkpoint": (_collect(lambda rows: eqx.filter_checkpoint(_module())(rows)), 1),
    "filter_closure_convert": (
        _collect(lambda rows: eqx.filter_closure_convert(_module(), rows)(rows)),
        1,
    ),
    "filter_vjp": (
        _of_total(lambda f: lambda sower, rows: eqx.filter_vjp(f, sower, rows)[1](jnp.float32(1))),
        1,
    ),
    "filter_jvp": (
        _of_total(lambda f: lambda sower, rows: eqx.filter_jvp(f, (sower, rows), (sower, rows))),
        1,
    ),
    "filter_value_and_grad": (_of_total(eqx.filter_value_and_grad), 1),
    "filter_custom_vjp": (_collect(_custom_vjp), 1),
    "filter_custom_jvp": (_collect(_custom_jvp), 1),
}
EQUINOX = Framework("Equinox", _whole, _collect(_element), _STRUCTURES)
