"""Gradients of mapping transforms inside of each other, of which some keep their steps apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog

pytestmark = pytest.mark.usefixtures("light_compilation")


def leaf(x, cotangent):
    """Sow the gradient of x, and its oracle: both have the tag, the axes and the values of one sow."""
    sowlog.sow("oracle", cotangent)
    return jnp.sum(sowlog.sow_grad("gradient", x, sowlog.mean) * cotangent)


def scanned(function, wrap):
    def run(x, cotangent):
        body = wrap(lambda total, row: (total + function(*row), None))
        return jax.lax.scan(body, jnp.zeros(()), (x, cotangent))[0]

    return run


TRANSFORMS = {
    "vmap": lambda function: lambda *args: jnp.sum(jax.vmap(function)(*args)),
    "vmap*": lambda function: lambda *args: jnp.sum(jax.vmap(sowlog.stacked(function))(*args)),
    "scan": lambda function: scanned(function, lambda body: body),
    "scan*": lambda function: scanned(function, sowlog.stacked),
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "scope": sowlog.scope("scope"),
}
NESTED = (
    "vmap scan*",
    "scan* vmap",
    "vmap* vmap",
    "vmap vmap*",
    "vmap* scan",
    "vmap* scan*",
    "scan* vmap* scope",
    "vmap jit scan*",
    "scan* jit vmap*",
    "vmap scan* checkpoint",
    "vmap* vmap scan*",
    "scan* vmap* scan*",
    "vmap* scan* vmap*",
)


@pytest.mark.parametrize("nested", NESTED)
def test_states_are_those_of_a_forward_sow(nested):
    """Merged and stacked over the same transforms, with the indices in the order of nesting; * stacks."""
    function, names = leaf, nested.split()
    for name in reversed(names):
        function = TRANSFORMS[name](function)
    loops = [name for name in names if name.rstrip("*") in ("vmap", "scan")]
    shape = (2, 3, 4)[: len(loops)]
    cotangent = jnp.arange(1.0, 1 + 2 * np.prod(shape)).reshape(*shape, 2)
    updates = jax.jit(sowlog.collect(jax.grad(function)))(jnp.ones_like(cotangent), cotangent)[1]
    computed = sowlog.compute(updates["metrics"])
    oracle = {tag: value for tag, value in computed.items() if "oracle" in tag}
    assert len(oracle) == np.prod([size for name, size in zip(loops, shape, strict=True) if "*" in name])
    assert {tag: computed[tag.replace("oracle", "gradient")] for tag in oracle} == pytest.approx(oracle)
    assert len(computed) == 2 * len(oracle)


def test_a_value_that_a_stacking_vmap_does_not_map_is_an_error():
    """It has one gradient, of all examples; a vmap that merges has that one."""
    cotangent = jnp.array([[1.0, 2.0], [3.0, 4.0]])

    def loss(x, wrap):
        return jnp.sum(jax.vmap(wrap(leaf), in_axes=(None, 0))(x, cotangent))

    _, updates = sowlog.collect(jax.grad(loss))(jnp.ones(2), lambda function: function)
    assert sowlog.compute(updates["metrics"])["gradient"] == 5.0
    for wrap in (sowlog.stacked, lambda function: sowlog.stacked(jax.jit(function))):
        with pytest.raises(sowlog.LostMetricError, match=r"gradient of gradient .* is not mapped"):
            sowlog.collect(jax.grad(loss))(jnp.ones(2), wrap)
