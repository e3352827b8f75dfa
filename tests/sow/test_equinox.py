"""Sows in Equinox modules, under the transforms of Equinox."""

import functools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import sowlog
from sowlog.testing import count_traces

ROWS = jnp.arange(8.0).reshape(4, 2) / 4
BOTH_ROWS = [np.asarray(row) for row in ROWS]


class Layer(eqx.Module):
    """Sows a count, the mean and the last of its input."""

    weight: jax.Array

    @sowlog.scope("layer")
    def __call__(self, x, *, key=None):
        sowlog.sow("runs", 1 + 0 * jnp.ravel(x)[0], sowlog.sum)
        sowlog.sow("mean", x)
        sowlog.sow("last", jnp.ravel(x)[-1], sowlog.last)
        return jnp.sin(self.weight * x)


LAYER = Layer(jnp.float32(1.5))
TWO_LAYERS = [np.asarray(ROWS), np.sin(1.5 * np.asarray(ROWS))]


def call(layer, x):
    return layer(x)


def total(layer, x):
    return jnp.sum(layer(x))


def scanned(layer, x, wrap=lambda body: body):
    """Scan over stacked layers, the second of twice the weight."""
    stack = eqx.filter_vmap(lambda factor: Layer(factor * layer.weight))(jnp.array([1.0, 2.0]))
    arrays, static = eqx.partition(stack, eqx.is_array)
    return jax.lax.scan(wrap(lambda x, one: (eqx.combine(one, static)(x), None)), x, arrays)[0]


@eqx.filter_custom_vjp
def by_vjp(args):
    layer, x = args
    return layer(x)


@by_vjp.def_fwd
def _(perturbed, args):
    layer, x = args
    return layer(x), None


@by_vjp.def_bwd
def _(residuals, g, perturbed, args):
    layer, x = args
    return eqx.filter_vjp(lambda layer, x: jnp.sin(layer.weight * x), layer, x)[1](g)


@eqx.filter_custom_jvp
def by_jvp(layer, x):
    return layer(x)


@by_jvp.def_jvp
def _(primals, tangents):
    layer, x = primals
    slope = tangents[0].weight * x
    return layer(x), jnp.cos(layer.weight * x) * slope


def on_four_devices(layer, x):
    mesh = Mesh(np.array(jax.devices()[:4]), ("rows",))
    specs = {"in_specs": (PartitionSpec(), PartitionSpec("rows")), "out_specs": PartitionSpec("rows")}
    return jax.shard_map(call, mesh=mesh, **specs)(layer, x)


def loop(kind, layer, x):
    """Apply the layer twice, in a loop that Equinox can differentiate."""
    checkpoints = {"checkpoints": 1} if kind == "checkpointed" else {}
    return eqx.internal.scan(
        lambda x, _: (jnp.sin(1.5 * x) + 0 * layer(x), None), x, None, length=2, kind=kind, **checkpoints
    )[0]


jitted = eqx.filter_jit(call)
jitted(LAYER, ROWS)

# name -> (a function of a layer and the rows, the arrays that the layer takes, in order)
CASES = {
    "no transform": (call, [ROWS]),
    "filter_jit": (lambda layer, x: eqx.filter_jit(lambda layer, x: layer(x))(layer, x), [ROWS]),
    "filter_jit of a module": (lambda layer, x: eqx.filter_jit(layer)(x), [ROWS]),
    "filter_jit, traced before and called twice": (
        lambda layer, x: jitted(layer, x[:2]) + jitted(layer, x[2:]),
        [ROWS[:2], ROWS[2:]],
    ),
    "filter_vmap": (eqx.filter_vmap(call, in_axes=(None, 0)), BOTH_ROWS),
    "filter_vmap of an unmapped value": (
        lambda layer, x: eqx.filter_vmap(lambda row: row + layer(x[0]))(x),
        [ROWS[0]] * 4,
    ),
    "filter_vmap of filter_jit": (eqx.filter_vmap(jitted, in_axes=(None, 0)), BOTH_ROWS),
    "filter_grad": (lambda layer, x: eqx.filter_grad(total)(layer, x).weight, [ROWS]),
    "filter_value_and_grad of filter_jit": (
        lambda layer, x: eqx.filter_value_and_grad(lambda layer, x: jnp.sum(jitted(layer, x)))(layer, x)[0],
        [ROWS],
    ),
    "filter_vmap of filter_grad": (
        lambda layer, x: eqx.filter_vmap(eqx.filter_grad(total), in_axes=(None, 0))(layer, x).weight,
        BOTH_ROWS,
    ),
    "scan over stacked layers": (scanned, TWO_LAYERS),
    "scan of filter_checkpoint": (functools.partial(scanned, wrap=eqx.filter_checkpoint), TWO_LAYERS),
    "filter_grad of scan": (
        lambda layer, x: eqx.filter_grad(lambda layer, x: jnp.sum(scanned(layer, x)))(layer, x).weight,
        TWO_LAYERS,
    ),
    "filter_checkpoint": (eqx.filter_checkpoint(call), [ROWS]),
    "filter_jvp": (lambda layer, x: eqx.filter_jvp(call, (layer, x), (layer, x))[1], [ROWS]),
    "filter_vjp": (lambda layer, x: eqx.filter_vjp(total, layer, x)[1](jnp.float32(1))[1], [ROWS]),
    "filter_jacfwd": (lambda layer, x: eqx.filter_jacfwd(lambda x: layer(x))(x), [ROWS]),
    "filter_jacrev": (lambda layer, x: eqx.filter_jacrev(lambda x: layer(x))(x), [ROWS]),
    "filter_hessian": (lambda layer, x: eqx.filter_hessian(lambda x: total(layer, x))(x), [ROWS]),
    "filter_closure_convert": (lambda layer, x: eqx.filter_closure_convert(layer, x)(x), [ROWS]),
    "filter_custom_vjp": (lambda layer, x: by_vjp((layer, x)), [ROWS]),
    "filter_custom_jvp": (by_jvp, [ROWS]),
    "jax.shard_map": (on_four_devices, BOTH_ROWS),
    "filter_eval_shape, which only traces": (
        lambda layer, x: x * layer.weight + eqx.filter_eval_shape(layer, x).ndim,
        [],
    ),
    "nn.Sequential": (
        lambda layer, x: eqx.nn.Sequential([layer, eqx.nn.Lambda(jnp.tanh)])(x),
        [ROWS],
    ),
    "error_if": (lambda layer, x: layer(eqx.error_if(x, jnp.any(x > 100), "too large")), [ROWS]),
    "tree_at": (
        lambda layer, x: eqx.tree_at(lambda layer: layer.weight, layer, layer.weight**2)(x),
        [ROWS],
    ),
    "a checkpointed loop": (functools.partial(loop, "checkpointed"), TWO_LAYERS),
    "a bounded loop": (functools.partial(loop, "bounded"), TWO_LAYERS),
}


def assert_sown(updates, wanted):
    computed = sowlog.compute(updates["metrics"])
    if not wanted:
        assert computed == {}
        return
    assert set(computed) == {"layer/runs", "layer/mean", "layer/last"}
    assert computed["layer/runs"] == len(wanted)
    np.testing.assert_allclose(computed["layer/mean"], np.mean([np.mean(x) for x in wanted]), rtol=1e-6)
    np.testing.assert_allclose(computed["layer/last"], np.ravel(wanted[-1])[-1], rtol=1e-6)


@pytest.mark.parametrize("case", list(CASES))
def test_a_sow_in_an_equinox_module_arrives_once_for_each_run(case):
    """With the gradient taken around the collect, which is bit for bit that of the function without."""
    function, wanted = CASES[case]

    @eqx.filter_value_and_grad(has_aux=True)
    def objective(layer, x):
        y, updates = sowlog.collect(function)(layer, x)
        return jnp.sum(y), updates

    traced = count_traces(lambda layer, x: objective(layer, x))
    step = eqx.filter_jit(traced)
    for _ in range(2):
        (value, updates), gradient = step(LAYER, ROWS)
        assert_sown(updates, wanted)
    assert traced.traces == 1
    without = eqx.filter_value_and_grad(lambda layer, x: jnp.sum(function(layer, x)))
    jax.tree.map(np.testing.assert_array_equal, (value, gradient), eqx.filter_jit(without)(LAYER, ROWS))


@pytest.mark.parametrize("case", list(CASES))
def test_a_gradient_inside_of_the_collect_counts_the_same(case):
    """The forward pass counts, and the backward pass does not."""
    function, wanted = CASES[case]
    differentiated = eqx.filter_grad(lambda layer, x: jnp.sum(function(layer, x)))
    _, updates = eqx.filter_jit(lambda layer, x: sowlog.collect(differentiated)(layer, x))(LAYER, ROWS)
    assert_sown(updates, wanted)


@pytest.mark.parametrize(
    "case", ["no transform", "filter_jit, traced before and called twice", "filter_grad"]
)
def test_an_eager_function_counts_the_same(case):
    """Also where a jitted function is called that JAX would not bind."""
    function, wanted = CASES[case]
    _, updates = sowlog.collect(function)(LAYER, ROWS)
    assert_sown(updates, wanted)


def test_filter_pmap_merges_devices():
    """It maps over devices, and is refused a gradient by JAX."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        _, updates = sowlog.collect(eqx.filter_pmap(call, in_axes=(None, 0)))(LAYER, ROWS)
    assert_sown(updates, BOTH_ROWS)


def test_the_members_of_an_ensemble_are_stacked():
    """`sowlog.stacked` keeps a state of each, in a filter_vmap over modules and in a scan over layers."""
    ensemble = eqx.filter_vmap(Layer)(jnp.array([1.0, 2.0, 3.0]))

    def members(ensemble, x):
        return eqx.filter_vmap(sowlog.stacked(lambda layer, x: layer(layer.weight * x)), in_axes=(0, None))(
            ensemble, x
        )

    _, updates = eqx.filter_jit(sowlog.collect(members))(ensemble, ROWS)
    computed = sowlog.compute(updates["metrics"])
    last = float(ROWS[-1, -1])
    assert [computed[f"layer/last/{member:02}"] for member in range(3)] == [last, 2 * last, 3 * last]
    _, updates = eqx.filter_jit(sowlog.collect(lambda layer, x: scanned(layer, x, sowlog.stacked)))(
        LAYER, ROWS
    )
    computed = sowlog.compute(updates["metrics"])
    np.testing.assert_allclose(
        [computed[f"layer/last/{layer:02}"] for layer in range(2)],
        [rows[-1, -1] for rows in TWO_LAYERS],
        rtol=1e-6,
    )


class Block(eqx.Module):
    """A linear layer, BatchNorm and dropout."""

    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        self.linear = eqx.nn.Linear(2, 3, key=key)
        self.norm = eqx.nn.BatchNorm(3, axis_name="batch", momentum=0.5, mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)

    @sowlog.scope("block")
    def __call__(self, x, state, key):
        x = self.linear(x)
        sowlog.sow("before", x, sowlog.max)
        x, state = self.norm(x, state)
        sowlog.sow("after", x, sowlog.std)
        sowlog.sow_loss("square", jnp.sum(x**2), weight=0.5)
        return self.dropout(x, key=key), state


def test_the_state_of_batch_norm_is_updated_as_without_collect():
    """Bit for bit, as are the results; the statistics are those of the whole batch."""
    block, state = eqx.nn.make_with_state(Block)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), len(ROWS))

    def forward(block, state, x):
        return eqx.filter_vmap(block, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))(
            x, state, keys
        )

    (y, after), updates = eqx.filter_jit(sowlog.collect(forward))(block, state, ROWS)
    y_without, after_without = eqx.filter_jit(forward)(block, state, ROWS)
    jax.tree.map(np.testing.assert_array_equal, (y, after), (y_without, after_without))
    assert not eqx.tree_equal(after, state)
    features = np.asarray(ROWS) @ np.asarray(block.linear.weight).T + np.asarray(block.linear.bias)
    normal = (features - features.mean(0)) / np.sqrt(features.var(0) + 1e-5)
    computed = sowlog.compute({**updates["metrics"], "losses": updates["losses"]})
    np.testing.assert_allclose(computed["block/before"], features.max(), rtol=1e-5)
    np.testing.assert_allclose(computed["block/after"], normal.std(), rtol=1e-4)
    np.testing.assert_allclose(computed["losses/block/square"], np.sum(normal**2), rtol=1e-4)
    np.testing.assert_allclose(sowlog.total_loss(updates), np.sum(normal**2) / 2, rtol=1e-4)


class Model(eqx.Module):
    """Layers in a Python loop."""

    layers: list[Layer]

    def __call__(self, x):
        for index, layer in enumerate(self.layers):
            with sowlog.scope(f"layers/{index}"):
                x = layer(x)
        return x


def test_a_scope_names_a_module_by_its_place():
    """Around a call, and as the decorator of a method."""
    _, updates = sowlog.collect(Model([LAYER, LAYER]))(ROWS)
    computed = sowlog.compute(updates["metrics"])
    wanted = {f"layers/{index}/layer/{name}" for index in (0, 1) for name in ("runs", "mean", "last")}
    assert set(computed) == wanted
    np.testing.assert_allclose(computed["layers/1/layer/mean"], TWO_LAYERS[1].mean(), rtol=1e-6)


def test_the_module_as_an_argument_is_refused():
    """The message has the line to write, and the library."""

    class Wrong(eqx.Module):
        def __call__(self, x):
            sowlog.sow(self, "rms", x, sowlog.rms)
            return x

    message = r'Wrong, a module of Equinox.*sowlog.sow\("rms", value\).*@sowlog.scope\("layer"\)'
    with pytest.raises(TypeError, match=message):
        sowlog.collect(Wrong())(ROWS)
