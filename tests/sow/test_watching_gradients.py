"""Watches of arrays behind the forward pass: gradients of outputs, and updates."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sowlog
from tests.sow.test_watching import Block, X, rms


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        x, _ = blocks(name="blocks")(x, None)
        return nn.Dense(3, name="head")(x)


MODEL = Stack()
PARAMS = MODEL.init(jax.random.key(0), X)["params"]


def loss_of(params):
    return jnp.sum(jnp.square(MODEL.apply({"params": params}, X)))


def gradients_by_hand():
    """Return the gradient of each module's output: that of zeros which are added to it."""

    def loss(zeros):
        x = X
        for layer in range(2):
            dense = jax.tree.map(lambda leaf, layer=layer: leaf[layer], PARAMS["blocks"]["dense"])
            x = x + (x @ dense["kernel"] + dense["bias"][None] + zeros[f"blocks/dense{layer}"])
            x = x + zeros[f"blocks{layer}"]
        y = x @ PARAMS["head"]["kernel"] + PARAMS["head"]["bias"][None] + zeros["head"]
        return jnp.sum(jnp.square(y))

    zeros = {name: jnp.zeros_like(X) for name in ("blocks0", "blocks1", "blocks/dense0", "blocks/dense1")}
    return jax.grad(loss)({**zeros, "head": jnp.zeros((3, 3))})


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_gradients_of_the_outputs_of_every_module(jit):
    """By layer under scan and remat; the gradient of the parameters is the one without a watch."""

    def step(params):
        with sowlog.watch("**", sowlog.rms, of="grads"):
            return sowlog.collect(jax.grad(loss_of))(params)

    grads, backward = (jax.jit(step) if jit else step)(PARAMS)
    wanted = {path: rms(gradient) for path, gradient in gradients_by_hand().items()}
    results = sowlog.compute(backward["metrics"])
    assert results == pytest.approx(
        {
            **{f"blocks/grads/rms/0{layer}": wanted[f"blocks{layer}"] for layer in range(2)},
            **{f"blocks/dense/grads/rms/0{layer}": wanted[f"blocks/dense{layer}"] for layer in range(2)},
            "head/grads/rms": wanted["head"],
            "grads/rms": wanted["head"],
        },
        rel=1e-5,
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), grads, jax.grad(loss_of)(PARAMS))


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.linear(x))


class Network(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, x):
        return jnp.tanh(self.linear(x))


def test_gradients_in_nnx_and_equinox():
    """And of a decorated function; a module whose output is not differentiated has none."""
    model = Layer(nnx.Rngs(0))
    _, backward = sowlog.collect(
        nnx.grad(lambda model: jnp.sum(model(X))), watch=sowlog.watch("linear", sowlog.max, of="grads")
    )(model)
    slopes = 1 - np.square(np.tanh(np.asarray(model.linear(X))))
    assert sowlog.compute(backward["metrics"]) == pytest.approx({"linear/grads/max": slopes.max()}, rel=1e-5)

    network = Network(eqx.nn.Linear(2, 2, key=jax.random.key(0)))
    _, backward = sowlog.collect(
        eqx.filter_grad(lambda network: jnp.sum(jax.vmap(network)(X))),
        watch=sowlog.watch("linear", sowlog.max, of="grads"),
    )(network)
    slopes = 1 - np.square(np.tanh(np.asarray(jax.vmap(network.linear)(X))))
    assert sowlog.compute(backward["metrics"]) == pytest.approx({"linear/grads/max": slopes.max()}, rel=1e-5)

    @sowlog.scope("square")
    def square(x):
        return x * x

    loss = lambda x: 3 * square(x) + jax.lax.stop_gradient(sowlog.scope("aside")(jnp.sin)(x))  # noqa: E731
    _, backward = sowlog.collect(jax.grad(loss), watch=sowlog.watch("*", sowlog.max, of="grads"))(2.0)
    assert sowlog.compute(backward["metrics"]) == {"square/grads/max": 3.0}


def test_a_watch_of_gradients_needs_a_collect_around_the_gradient():
    """As `sow_grad` does."""
    watched = sowlog.collect(loss_of, watch=sowlog.watch("head", sowlog.rms, of="grads"))
    assert sowlog.compute(watched(PARAMS)[1]["metrics"]) == {}
    with pytest.raises(sowlog.LostMetricError, match=r"the gradient of head/grads/rms is sown in a backward"):
        jax.grad(lambda params: watched(params)[0])(PARAMS)


def trained(watch, *, stacked="blocks/**", observer="updates"):
    """Return the updates of one step, and the results of its sows."""
    optimizer = optax.chain(optax.sgd(0.1), sowlog.observe(observer, stacked=stacked))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss_of)(params), state, params)
        return updates, state

    (updates, _), sown = sowlog.collect(step, watch=watch)(PARAMS, optimizer.init(PARAMS))
    return updates, sowlog.compute(sown["metrics"])


def test_updates_of_modules_and_of_what_is_inside_of_them():
    """Stacked layers have their own statistics, unless a module holds others beside them."""
    updates, results = trained(sowlog.watch("**", [sowlog.rms], of="updates"))
    everything = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(updates)])
    layers = {
        layer: np.concatenate([np.ravel(leaf[layer]) for leaf in jax.tree.leaves(updates["blocks"])])
        for layer in range(2)
    }
    head = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(updates["head"])])
    assert results == pytest.approx(
        {
            "updates/rms": rms(everything),
            **{f"blocks/updates/rms/0{layer}": rms(values) for layer, values in layers.items()},
            **{f"blocks/dense/updates/rms/0{layer}": rms(values) for layer, values in layers.items()},
            "head/updates/rms": rms(head),
        },
        rel=1e-5,
    )
    _, merged = trained(sowlog.watch("blocks", [sowlog.rms], of="updates"), stacked=())
    assert merged == pytest.approx({"blocks/updates/rms": rms(np.concatenate(list(layers.values())))})


def test_a_watch_of_updates_that_meets_none_is_an_error():
    """It names the observer to write, and the modules that there are."""
    with pytest.raises(
        sowlog.UnmatchedWatchError,
        match=r'"bloks" matches no module whose updates.*blocks, blocks/dense, head',
    ):
        trained(sowlog.watch("bloks", of="updates"))
    with pytest.raises(
        sowlog.UnmatchedWatchError, match=r"Modules: none. Put the observer at the end of the"
    ):
        trained(sowlog.watch("blocks", of="updates"), observer="late")
    with pytest.raises(ValueError, match=r"a watch is of 'gradients', which is none of .* grads, updates"):
        sowlog.watch("blocks", of="gradients")
