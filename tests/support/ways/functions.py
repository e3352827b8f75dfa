"""The ways of plain functions: JAX's own transforms.

JAX caches a trace by its function, and tests change the sows: so each way makes new functions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import sowlog
from tests.support.ways.base import (
    ROWS,
    Framework,
    Way,
    Ways,
    shard_map_over,
    sow_all,
    sow_loss,
    sow_statistics,
)
from tests.support.ways.passes import value_and_grad

Function = Callable[[jax.Array], Any]


def _sower() -> Function:
    """Return a new function that sows the row it is given, and returns it."""

    def sow(row: jax.Array) -> jax.Array:
        sow_all(row)
        return row

    return sow


def _collect(call: Function) -> Way:
    return lambda rows: sowlog.collect(call)(rows)[1]


def _each(rows: jax.Array) -> None:
    for row in rows:
        sow_all(row)


def _layers(rows: jax.Array) -> None:
    for index, row in enumerate(rows):
        with sowlog.scope(f"layer_{index}"):
            sow_all(row)


def _scan(wrap: Callable[[Any], Any] = lambda body: body, **settings: Any) -> Way:
    def call(rows: jax.Array) -> None:
        sow = _sower()
        jax.lax.scan(wrap(lambda carry, row: (carry, sow(row))), 0, rows, **settings)

    return _collect(call)


def _element(rows: jax.Array) -> None:
    sow = _sower()
    jax.lax.scan(jax.checkpoint(lambda carry, row: (carry, sow(row))), 0, rows)


def _fori_loop(rows: jax.Array) -> None:
    sow = _sower()
    jax.lax.fori_loop(0, ROWS, lambda index, total: total + sow(rows[index]), jnp.zeros(3))


def _while_loop(rows: jax.Array) -> None:
    sow = _sower()
    jax.lax.while_loop(lambda i: i < ROWS, lambda i: i + 1 + 0 * sow(rows[i])[0].astype(int), 0)


def _cond(rows: jax.Array) -> None:
    for index, row in enumerate(jnp.concatenate([rows, 1e6 * rows])):
        # The rows beyond are never sown: their branch is not taken.
        jax.lax.cond(index < ROWS, _sower(), lambda row: row, row)


def _mapped_cond(rows: jax.Array) -> None:
    sow = _sower()
    both = jnp.concatenate([rows, 1e6 * rows])
    jax.vmap(lambda i, row: jax.lax.cond(i < ROWS, sow, lambda row: row, row))(jnp.arange(2 * ROWS), both)


def _switch(rows: jax.Array) -> None:
    branches = [sowlog.scope("never")(_sower()), sowlog.scope("always")(_sower()), lambda row: row]
    for row in rows:
        jax.lax.switch(jnp.int32(1), branches, row)


def _of_total(transform: Callable[[Function], Function]) -> Way:
    """Transform the function from the rows to their sum, which sows them."""

    def call(rows: jax.Array) -> None:
        sow = _sower()
        transform(lambda rows: jnp.sum(sow(rows)))(rows)

    return _collect(call)


def _custom_vjp(rows: jax.Array) -> None:
    """Sow the statistics inside, and the loss of the result outside: inside, its gradient would be lost."""

    def identity(rows: jax.Array) -> jax.Array:
        sow_statistics(rows)
        return rows

    custom = jax.custom_vjp(identity)
    custom.defvjp(lambda rows: (identity(rows), None), lambda _, cotangent: (cotangent,))
    sow_loss(custom(rows))


def _custom_jvp(rows: jax.Array) -> None:
    def identity(rows: jax.Array) -> jax.Array:
        sow_statistics(rows)
        return rows

    custom = jax.custom_jvp(identity)
    custom.defjvp(lambda primals, tangents: (identity(*primals), *tangents))
    sow_loss(custom(rows))


def _sharded(*, check: bool) -> Way:
    def call(rows: jax.Array) -> None:
        sow = _sower()
        shard_map_over(lambda row: jax.lax.psum(sow(row), "batch"), check=check)(rows)

    return _collect(call)


_whole = _collect(lambda rows: sow_all(rows))
_STRUCTURES: Ways = {
    "one call": (_whole, 1),
    "repeated calls": (_collect(_each), 1),
    "a Python loop over layers": (_collect(_layers), 1),
    "jax.lax.scan": (_scan(), 1),
    "jax.lax.scan, stacked": (_scan(sowlog.stacked), 1),
    "jax.lax.scan, unrolled": (_scan(unroll=2), 1),
    "jax.lax.scan(jax.checkpoint)": (_collect(_element), 1),
    "jax.lax.map": (_collect(lambda rows: jax.lax.map(_sower(), rows)), 1),
    "jax.lax.fori_loop": (_collect(_fori_loop), 1),
    "jax.lax.while_loop": (_collect(_while_loop), 1),
    "jax.vmap": (_collect(lambda rows: jax.vmap(_sower())(rows)), 1),
    "jax.vmap, stacked": (_collect(lambda rows: jax.vmap(sowlog.stacked(_sower()))(rows)), 1),
    "jax.lax.cond, one branch": (_collect(_cond), 1),
    "jax.vmap of jax.lax.cond": (_collect(_mapped_cond), 1),
    "jax.lax.switch, different names": (_collect(_switch), 1),
    "jax.jit": (_collect(lambda rows: jax.jit(_sower())(rows)), 1),
    "jax.checkpoint": (_collect(lambda rows: jax.checkpoint(_sower())(rows)), 1),
    "jax.vjp": (_of_total(lambda f: lambda rows: jax.vjp(f, rows)[1](1.0)), 1),
    "jax.jvp": (_of_total(lambda f: lambda rows: jax.jvp(f, (rows,), (rows,))), 1),
    "jax.linearize": (_of_total(lambda f: lambda rows: jax.linearize(f, rows)[1](rows)), 1),
    "jax.value_and_grad": (_of_total(jax.value_and_grad), 1),
    "jax.hessian": (_of_total(jax.hessian), 1),
    "jax.custom_vjp": (_collect(_custom_vjp), 1),
    "jax.custom_jvp": (_collect(_custom_jvp), 1),
    "jax.value_and_grad of jax.custom_vjp": (value_and_grad(_collect(_custom_vjp)), 1),
    "jax.shard_map, checked": (_sharded(check=True), ROWS),
    "jax.shard_map, unchecked": (_sharded(check=False), ROWS),
}
FUNCTIONS = Framework("function", _whole, _collect(_element), _STRUCTURES)
