"""The ways of Flax linen: lifted transforms."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import sowlog
from tests.support.ways.base import ROWS, Framework, Way, Ways, sow_all, sow_loss, sow_statistics
from tests.support.ways.passes import value_and_grad

BOTH = ["metrics", "losses"]
AXES = {"metrics": 0, "losses": 0}


class Sower(nn.Module):
    """A layer that sows the row it is given."""

    @nn.compact
    def __call__(self, row: jax.Array) -> jax.Array:
        sow_all(row, self)
        return row


class Layer(nn.Module):
    """The same for loops: the carry is the index of the next row."""

    rows: Any

    @nn.compact
    def __call__(self, index: jax.Array, *_: Any) -> Any:
        sow_all(self.rows[index], self)
        return (index + 1, None) if _ else index + 1


def _collect(call: Callable[[nn.Module, jax.Array], Any]) -> Way:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, rows: jax.Array) -> Any:
            call(self, rows)

    return lambda rows: sowlog.collect(Model().apply)({}, rows)[1]


def _each(call: Callable[[nn.Module, jax.Array], Any]) -> Way:
    def all_rows(module: nn.Module, rows: jax.Array) -> None:
        for row in rows:
            call(module, row)

    return _collect(all_rows)


def _shared(module: nn.Module, rows: jax.Array) -> None:
    sower = Sower(name="sower")
    for row in rows:
        sower(row)


def _layers(module: nn.Module, rows: jax.Array) -> None:
    for index, row in enumerate(rows):
        Sower(name=f"layer_{index}")(row)


def _scan(**kwargs: Any) -> Way:
    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry: Any, row: jax.Array) -> Any:
            sow_all(row, self)
            return carry, None

    return _collect(lambda m, rows: nn.scan(Step, **kwargs)(name="layers")(None, rows))


def _scan_of_remat(module: nn.Module, rows: jax.Array) -> None:
    nn.scan(nn.remat(Layer), variable_axes=AXES, length=ROWS)(rows, name="layers")(jnp.int32(0), None)


def _remat_scan(module: nn.Module, rows: jax.Array) -> None:
    nn.remat_scan(Layer, lengths=(2, 2))(rows, name="layers")(jnp.int32(0))


def _while_loop(module: nn.Module, rows: jax.Array) -> None:
    def body(_: nn.Module, index: jax.Array) -> jax.Array:
        Sower(name="sower")(rows[index])
        return index + 1

    nn.while_loop(lambda _, index: index < ROWS, body, module, jnp.int32(0), carry_variables=BOTH)


def _cond(module: nn.Module, rows: jax.Array) -> None:
    def sow(module: nn.Module, row: jax.Array) -> jax.Array:
        sow_all(row, module)
        return row

    for index, row in enumerate(jnp.concatenate([rows, 1e6 * rows])):
        # The rows beyond are never sown: their branch is not taken.
        nn.cond(index < ROWS, sow, lambda _, row: row, module, row)


def _switch(module: nn.Module, rows: jax.Array) -> None:
    def branch(name: str) -> Callable[[nn.Module, jax.Array], jax.Array]:
        return lambda m, row: Sower(name=name)(row)

    for row in rows:
        nn.switch(jnp.int32(1), [branch("never"), branch("always"), lambda m, row: row], module, row)


def _nn_vjp(module: nn.Module, rows: jax.Array) -> None:
    nn.vjp(lambda m, rows: jnp.sum(Sower(name="sower")(rows)), module, rows)


def _nn_value_and_grad(module: nn.Module, rows: jax.Array) -> None:
    nn.value_and_grad(lambda m, rows: jnp.sum(Sower(name="sower")(rows)), module, rows)


def _custom_vjp(module: nn.Module, rows: jax.Array) -> None:
    """Sow the statistics inside, and the loss of the result outside: inside, its gradient would be lost."""

    def forward(m: nn.Module, rows: jax.Array) -> jax.Array:
        sow_statistics(rows, m)
        return rows

    def forward_and_residuals(m: nn.Module, rows: jax.Array) -> tuple[jax.Array, Any]:
        return nn.vjp(forward, m, rows)

    def backward(vjp: Any, cotangent: jax.Array) -> Any:
        return vjp(cotangent)

    differentiated = nn.custom_vjp(forward, forward_fn=forward_and_residuals, backward_fn=backward)
    sow_loss(differentiated(module, rows), module)


_whole = _collect(lambda m, rows: Sower(name="sower")(rows))


_STRUCTURES: Ways = {
    "one call": (_whole, 1),
    "repeated calls": (_each(lambda m, row: sow_all(row, m)), 1),
    "a shared module": (_collect(_shared), 1),
    "a Python loop over layers": (_collect(_layers), 1),
    "nn.scan over layers, variable_axes": (_scan(variable_axes=AXES), 1),
    "nn.scan, variable_carry": (_scan(variable_carry=BOTH), 1),
    "nn.scan over time, unrolled": (_scan(variable_axes=AXES, unroll=2, in_axes=0), 1),
    "nn.scan(nn.remat)": (_collect(_scan_of_remat), 1),
    "nn.remat_scan": (_collect(_remat_scan), 1),
    "nn.vmap": (_collect(lambda m, rows: nn.vmap(Sower, variable_axes=AXES)(name="heads")(rows)), 1),
    "nn.remat": (_collect(lambda m, rows: nn.remat(Sower)(name="sower")(rows)), 1),
    "nn.while_loop": (_collect(_while_loop), 1),
    "nn.cond, one branch": (_collect(_cond), 1),
    "nn.switch, different names": (_collect(_switch), 1),
    "nn.jit": (_collect(lambda m, rows: nn.jit(Sower)(name="sower")(rows)), 1),
    "nn.vjp": (_collect(_nn_vjp), 1),
    "nn.value_and_grad": (_collect(_nn_value_and_grad), 1),
    "nn.custom_vjp": (_collect(_custom_vjp), 1),
    "jax.value_and_grad of nn.custom_vjp": (value_and_grad(_collect(_custom_vjp)), 1),
}
_element = _collect(
    lambda m, rows: nn.scan(nn.remat(Layer), variable_carry=BOTH, length=1)(rows, name="layers")(
        jnp.int32(0), None
    )
)
LINEN = Framework("linen", _whole, _element, _STRUCTURES)
