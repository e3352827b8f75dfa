"""Sows that no mechanism could return: functions of an array [3], and the text of their errors."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import pallas

import sowlog


def _sow(x: jax.Array) -> jax.Array:
    sowlog.sow("norm", jnp.sum(x))
    return x


def _loss(x: jax.Array) -> jax.Array:
    sowlog.sow_loss("loss", jnp.sum(x))
    return x


def _condition(x: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda x: _sow(x)[0] < 3, lambda x: x + 1, x)


def _stacked_in_while(x: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda x: x[0] < 3, sowlog.stacked(lambda x: _sow(x) + 1), x)


def _custom_vjp(x: jax.Array) -> jax.Array:
    custom = jax.custom_vjp(_loss)
    custom.defvjp(lambda x: (x, None), lambda _, g: (g,))
    return jax.jit(custom)(x)


def _custom_jvp(x: jax.Array) -> jax.Array:
    custom = jax.custom_jvp(_loss)
    custom.defjvp(lambda x, t: (x[0], t[0]))
    return jax.jit(custom)(x)


def _linear_solve(x: jax.Array) -> jax.Array:
    return jax.lax.custom_linear_solve(_loss, x, lambda operator, b: operator(b), symmetric=True)


def _rule_in_a_loop(x: jax.Array) -> jax.Array:
    custom = jax.custom_jvp(lambda x: 2 * x)
    custom.defjvp(lambda x, t: (_sow(x[0]), 2 * t[0]))
    return jax.grad(lambda x: jax.lax.fori_loop(0, 2, lambda i, x: custom(x), x).sum())(x)


def _custom_vmap(x: jax.Array) -> jax.Array:
    custom = jax.custom_batching.custom_vmap(_sow)
    custom.def_vmap(lambda size, mapped, x: (x, True))
    return jax.jit(custom)(x)


def _pallas_kernel(x: jax.Array) -> jax.Array:
    def kernel(x_ref: Any, y_ref: Any) -> None:
        y_ref[...] = _sow(x_ref[...])

    return pallas.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


class _Plain(nn.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        self.sow("metrics", "norm", jnp.sum(x))
        return x


def _plain_in_a_branch(x: jax.Array) -> jax.Array:
    return jax.lax.cond(x[0] > 0, lambda x: _Plain().apply({}, x), lambda x: x, x)


def _plain_in_a_loop(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 2, lambda i, x: _Plain().apply({}, x), x)


def _taken(x: jax.Array) -> jax.Array:
    sowlog.sow("encoder", x)
    return sowlog.scope("encoder")(_sow)(x)


IMPOSSIBLE: dict[str, tuple[Callable[[jax.Array], Any], str]] = {
    "the condition of a while loop": (_condition, "norm is sown in the cond_fn"),
    "`sowlog.stacked` in a while loop": (_stacked_in_while, "norm is stacked inside a jax.lax.while_loop"),
    "a loss in jax.custom_vjp": (_custom_vjp, "loss is a loss sown inside a custom derivative"),
    "a loss in jax.custom_jvp": (_custom_jvp, "loss is a loss sown inside a custom derivative"),
    "a loss in jax.lax.custom_linear_solve": (
        _linear_solve,
        "loss is a loss sown inside jax.lax.custom_linear_solve",
    ),
    "the rule of a derivative, in the gradient of a loop": (
        _rule_in_a_loop,
        "norm is sown in a rule of a custom derivative",
    ),
    "a Pallas kernel": (_pallas_kernel, "norm is sown inside a transform .*, such as a Pallas kernel"),
    "a transform without a rule": (_custom_vmap, "norm is sown inside custom_vmap_call"),
    "`module.sow` without a reducer, in one branch": (
        _plain_in_a_branch,
        "norm is sown inside one branch of a cond or switch",
    ),
    "`module.sow` without a reducer, in a loop": (_plain_in_a_loop, "norm is sown inside jax.lax.scan"),
    "the name of a scope or submodule that sows": (_taken, "encoder is sown under the name of a submodule"),
}
