"""A sow by name in modules of Haiku and of Penzai."""

import dataclasses
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from penzai import pz

import sowlog

ROWS = jnp.arange(8.0).reshape(4, 2) / 4


def assert_sown(updates, inputs, outputs):
    """Compare a maximum in a layer, a mean over both layers, and a loss, with NumPy."""
    computed = sowlog.compute({**updates["metrics"], "losses": updates["losses"]})
    last = np.asarray(outputs[-1])
    assert set(computed) == {
        *(f"layer_{index}/{name}" for index in range(2) for name in ("largest", "mean")),
        *("losses/square", "losses/square/weighted", "losses/total"),
    }
    for index in range(2):
        np.testing.assert_allclose(computed[f"layer_{index}/largest"], np.max(inputs[index]), rtol=1e-6)
        np.testing.assert_allclose(computed[f"layer_{index}/mean"], np.mean(outputs[index]), rtol=1e-6)
    np.testing.assert_allclose(computed["losses/square"], np.sum(last**2), rtol=1e-5)
    np.testing.assert_allclose(computed["losses/total"], np.sum(last**2) / 2, rtol=1e-5)


def assert_trained_alike(forward, params):
    """The objective has the gradient of the plain function plus that of the loss, in one jitted step."""

    def objective(params):
        y, updates = sowlog.collect(forward)(params, ROWS)
        return jnp.sum(y) + sowlog.total_loss(updates), updates

    def by_hand(params):
        y = forward(params, ROWS)
        return jnp.sum(y) + 0.5 * jnp.sum(y**2)

    gradient, updates = jax.jit(jax.grad(objective, has_aux=True))(params)
    wanted = jax.jit(jax.grad(by_hand))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gradient, wanted)
    return updates


def test_haiku_modules_sow():
    """As they are and under hk.remat, in scopes of their own names."""

    class Layer(hk.Module):
        def __call__(self, x):
            with sowlog.scope(self.name):
                sowlog.sow("largest", x, sowlog.max)
                y = jnp.tanh(hk.Linear(2, name="linear")(x))
                sowlog.sow("mean", y)
            return y

    def model(x):
        for index in range(2):
            layer = Layer(name=f"layer_{index}")
            x = hk.remat(layer)(x) if index else layer(x)
        sowlog.sow_loss("square", jnp.sum(x**2), weight=0.5)
        return x

    transformed = hk.without_apply_rng(hk.transform(model))
    params = transformed.init(jax.random.key(0), ROWS)
    updates = assert_trained_alike(transformed.apply, params)
    inputs = [np.asarray(ROWS)]
    for index in range(2):
        layer = params[f"layer_{index}/linear"]
        inputs.append(np.tanh(inputs[-1] @ np.asarray(layer["w"]) + np.asarray(layer["b"])))
    assert_sown(updates, inputs[:2], inputs[1:])


def test_haiku_transforms_sow():
    """hk.scan, hk.vmap, hk.cond and hk.grad count a sow once for each run, with the state of Haiku beside."""

    def row_of(x):
        sowlog.sow("last", x[0], sowlog.last)
        hk.set_state("rows", hk.get_state("rows", (), init=jnp.zeros) + 1)
        return x * hk.get_parameter("scale", (2,), init=jnp.ones)

    def model(x):
        # A transform of Haiku's may not make the first parameter or state.
        hk.get_parameter("scale", (2,), init=jnp.ones)
        hk.get_state("rows", (), init=jnp.zeros)
        with sowlog.scope("scan"):
            _, y = hk.scan(lambda carry, row: (carry, row_of(row)), 0, x)
        with sowlog.scope("vmap"):
            hk.vmap(row_of, split_rng=False)(y)
        with sowlog.scope("cond"):
            hk.cond(x[0, 0] < 1, row_of, lambda row: row, x[0])
        with sowlog.scope("grad"):
            return hk.grad(lambda x: jnp.sum(row_of(x[1])))(x)

    transformed = hk.without_apply_rng(hk.transform_with_state(model))
    params, state = transformed.init(jax.random.key(0), ROWS)
    (y, after), updates = jax.jit(sowlog.collect(transformed.apply))(params, state, ROWS)
    without = jax.jit(transformed.apply)(params, state, ROWS)
    jax.tree.map(np.testing.assert_array_equal, (y, after), without)
    assert sowlog.compute(updates["metrics"]) == {
        "scan/last": 1.5,
        "vmap/last": 1.5,
        "cond/last": 0.0,
        "grad/last": 0.5,
    }


def test_penzai_layers_sow():
    """In a pz.nn.Sequential, on named arrays."""

    @pz.pytree_dataclass
    class Layer(pz.nn.Layer):
        weight: Any
        name: str = dataclasses.field(metadata={"pytree_node": False})

        def __call__(self, x, **side_inputs):
            with sowlog.scope(self.name):
                sowlog.sow("largest", x.unwrap("batch", "features"), sowlog.max)
                y = pz.nx.nmap(jnp.tanh)(x * self.weight.value)
                sowlog.sow("mean", y.unwrap("batch", "features"))
            return y

    def layer(index):
        weight = pz.nx.wrap(jnp.array([1.0, -2.0]) + index).tag("features")
        return Layer(pz.Parameter(value=weight, label=f"weight_{index}"), f"layer_{index}")

    model = pz.nn.Sequential([layer(0), layer(1)])
    unbound, parameters = pz.unbind_params(model, freeze=True)

    def forward(parameters, x):
        y = pz.bind_variables(unbound, parameters)(pz.nx.wrap(x).tag("batch", "features"))
        y = y.unwrap("batch", "features")
        sowlog.sow_loss("square", jnp.sum(y**2), weight=0.5)
        return y

    updates = assert_trained_alike(forward, parameters)
    inputs = [np.asarray(ROWS)]
    for index in range(2):
        inputs.append(np.tanh(inputs[-1] * (np.array([1.0, -2.0]) + index)))
    assert_sown(updates, inputs[:2], inputs[1:])
