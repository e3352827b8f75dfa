"""Model FLOPs, against counts by hand."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.train.running import digits, moe
from train import data, parts
from train.config.experiment import Config
from train.parallel.devices import Devices
from train.rates import flops

X = jnp.ones((8, 4))
W = jnp.ones((4, 4))
PRODUCT = 2 * 8 * 4 * 4
"""FLOPs of X @ W."""


class Nothing:
    """No checkpoint."""

    def restore(self, like: Any) -> None:
        return None


def counted(config: Config) -> float:
    """Return the model FLOPs of a run's step."""
    dataset = data.load(config.data)
    return parts.assemble(config, dataset, Nothing(), Devices(devices=jax.devices()[:1])).work.count_flops()


def transformer(config: Any, *, batch: int, length: int) -> float:
    """Count a step of moe_lm: all products have two operands that depend on parameters."""
    task, tokens = config.task, batch * length
    places = math.ceil(task.capacity * tokens * task.top_k / task.experts)
    projections = 2 * tokens * task.width * (3 * task.width + task.width)
    attention = 2 * 2 * batch * length * length * task.width
    router = 2 * tokens * task.width * task.experts
    experts = 2 * 2 * task.experts * places * task.width * task.expert_width
    combined = 2 * tokens * task.top_k * task.width
    head = 2 * tokens * task.width * 256
    return 3 * (task.layers * (projections + attention + router + experts + combined) + head)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_transformer_counts_as_by_hand(microbatches: int) -> None:
    """A scan over layers, each computed again in the backward pass, in a loop over microbatches."""
    config = moe(f"microbatches={microbatches}", "task.layers=3")
    by_hand = microbatches * transformer(config, batch=4 // microbatches, length=16)
    assert counted(config) == by_hand


@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_convolutional_network_counts_as_by_hand(microbatches: int) -> None:
    """No gradient flows into the images, so the first convolution has one product less."""
    width, images = 2, 8
    first = 2 * images * 8 * 8 * width * (3 * 3 * 1)
    second = 2 * images * 4 * 4 * 2 * width * (3 * 3 * width)
    head = 2 * images * (4 * 4 * 2 * width) * 10
    assert counted(digits(f"microbatches={microbatches}")) == 2 * first + 3 * second + 3 * head


def layer(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.tanh(x @ w)


@jax.custom_vjp
def custom(x: jax.Array, w: jax.Array) -> jax.Array:
    return layer(x, w)


custom.defvjp(lambda x, w: (custom(x, w), (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))


def scanned(body: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda x, w: jax.lax.scan(lambda x, _: (body(x, w), None), x, length=5)[0]


def sharded(x: jax.Array, w: jax.Array) -> jax.Array:
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("data",))
    spec = jax.sharding.PartitionSpec("data")
    whole = jax.sharding.PartitionSpec()
    return jax.shard_map(layer, mesh=mesh, in_specs=(spec, whole), out_specs=spec)(x, w)


def branched(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.cond(x[0, 0] > 0, lambda x: layer(layer(x, w), w), lambda x: layer(x, w), x)


def looped(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda x: jnp.sum(x) > 1e3, lambda x: layer(x, w), x)


@pytest.mark.parametrize(
    ("function", "products"),
    [
        # The first of several layers has no gradient of its input, unless a carry has one from a step before.
        (layer, 2),
        (lambda x, w: layer(layer(x, w), w), 2 + 3),
        (jax.jit(layer), 2),
        (jax.checkpoint(layer), 2),
        (custom, 2),
        (scanned(layer), 5 * 3),
        (scanned(jax.checkpoint(layer)), 5 * 3),
        (jax.checkpoint(scanned(layer)), 5 * 3),
        (lambda x, w: jax.lax.fori_loop(0, 5, lambda _, x: layer(x, w), x), 5 * 3),
        (looped, 3),
        (branched, 2 + 3),
        (sharded, 2),
        (jax.vmap(layer, (0, None)), 2),
        (lambda x, w: layer(x, jax.lax.stop_gradient(w)), 1),
        (lambda x, w: layer(x, 1.0 * (w > 0)), 1),
        (lambda x, w: layer(x, w) + x @ jnp.eye(4), 2 + 1),
    ],
)
def test_a_transform_counts_as_the_products_that_it_runs(
    function: Callable[[jax.Array, jax.Array], jax.Array], products: int
) -> None:
    """Those of the forward pass, and one of each operand that depends on the parameters."""
    assert flops.of_gradient(lambda w, x: jnp.sum(function(x, w)), W, X) == products * PRODUCT


def test_the_backward_pass_has_the_products_that_are_counted() -> None:
    """As the jaxpr of the gradient itself has them, where nothing is computed again."""

    def objective(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(layer(layer(x, w), w))

    equations = jax.make_jaxpr(jax.value_and_grad(objective))(W, X).jaxpr.eqns
    products = [each for each in equations if each.primitive.name == "dot_general"]
    assert flops.of_gradient(objective, W, X) == len(products) * PRODUCT


def test_a_grouped_and_a_transposed_convolution_count_their_multiplications() -> None:
    """Of a kernel that sees one group of channels, and of an input with zeros between its elements."""
    x, w = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 2, 6))
    form = ("NHWC", "HWIO", "NHWC")

    def grouped(w: jax.Array) -> jax.Array:
        return jnp.sum(
            jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=form, feature_group_count=2)
        )

    assert flops.of_gradient(grouped, w) == 2 * (2 * 2 * 8 * 8 * 6 * (3 * 3 * 2))
    kernel = jnp.ones((2, 2, 4, 6))

    def transposed(kernel: jax.Array) -> jax.Array:
        return jnp.sum(jax.lax.conv_transpose(x, kernel, (2, 2), "VALID", dimension_numbers=form))

    # Each element of the input meets each of the kernel once.
    assert flops.of_gradient(transposed, kernel) == 2 * (2 * x.size * kernel.size / 4)
