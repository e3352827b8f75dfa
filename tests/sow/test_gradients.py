"""Statistics of gradients that flow back through activations, under each transform."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import sowlog
from sowlog.testing import count_traces
from tests.support.oracles import scalar_reducers

pytestmark = pytest.mark.usefixtures("light_compilation")

LAYERS, ROWS, WIDTH = 3, 4, 5
rng = np.random.default_rng(0)
WEIGHTS = jnp.asarray(rng.normal(size=(LAYERS, WIDTH, WIDTH)), jnp.float32)
INPUTS = jnp.asarray(rng.normal(size=(ROWS, WIDTH)), jnp.float32)
REDUCERS = {name: reducer for name, reducer in scalar_reducers().items() if name != "last"}


def gradients_of_layers():
    """Return the gradients of the activations before tanh, shape [layers, rows, width]."""

    def loss(offsets):
        h = INPUTS
        for weight, offset in zip(WEIGHTS, offsets, strict=True):
            h = jnp.tanh(h @ weight + offset)
        return jnp.sum(h**2)

    return np.asarray(jax.grad(loss)(jnp.zeros((LAYERS, ROWS, WIDTH))), np.float64)


ORACLE = gradients_of_layers()


def layer(h, weight):
    h = h @ weight
    for name, reducer in REDUCERS.items():
        h = sowlog.sow_grad(name, h, reducer)
    return jnp.tanh(h)


def in_a_loop(weights, x, layer=layer):
    for weight in weights:
        x = layer(x, weight)
    return jnp.sum(x**2)


def in_a_scan(weights, x, wrap=lambda body: body, **settings):
    body = wrap(lambda h, weight: (layer(h, weight), None))
    return jnp.sum(jax.lax.scan(body, x, weights, **settings)[0] ** 2)


def in_a_fori_loop(weights, x):
    return jnp.sum(jax.lax.fori_loop(0, LAYERS, lambda i, h: layer(h, weights[i]), x) ** 2)


def in_a_branch(weights, x):
    def one_of_two(h, weight):
        return jax.lax.cond(h[0, 0] > -100, layer, lambda h, _: h, h, weight)

    return in_a_loop(weights, x, one_of_two)


def in_a_vmap(weights, x):
    return jnp.sum(jax.vmap(lambda row: in_a_loop(weights, row))(x))


def in_a_mapped_branch(weights, x):
    def one_of_two(h, weight):
        return jax.lax.cond(h[0] > -100, layer, lambda h, _: h, h, weight)

    return jnp.sum(jax.vmap(lambda row: in_a_loop(weights, row, one_of_two))(x))


def in_a_shard_map(weights, x):
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    specs = PartitionSpec(), PartitionSpec("rows")

    @jax.shard_map(mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    def total(weights, x):
        return jax.lax.psum(in_a_scan(weights, x), "rows")

    return total(weights, x)


def inside_of_another_collect(weights, x):
    return sowlog.collect(in_a_scan)(weights, x)[0]


WAYS = {
    "a Python loop": in_a_loop,
    "jax.lax.scan": in_a_scan,
    "jax.lax.scan, unrolled": functools.partial(in_a_scan, unroll=2),
    "jax.lax.scan(jax.checkpoint)": functools.partial(in_a_scan, wrap=jax.checkpoint),
    "jax.checkpoint(jax.lax.scan)": jax.checkpoint(in_a_scan),
    "jax.checkpoint": jax.checkpoint(in_a_loop),
    "jax.lax.fori_loop": in_a_fori_loop,
    "jax.lax.cond": in_a_branch,
    "jax.vmap": in_a_vmap,
    "jax.vmap of jax.lax.cond": in_a_mapped_branch,
    "jax.jit of a layer": functools.partial(in_a_loop, layer=jax.jit(layer)),
    "jax.jit of jax.lax.scan": jax.jit(in_a_scan),
    "jax.shard_map": in_a_shard_map,
    "another collect": inside_of_another_collect,
}


def assert_oracle(updates):
    computed = sowlog.compute(updates["metrics"])
    flat = ORACLE.ravel()
    expected = {
        "sum": flat.sum(),
        "mean": flat.mean(),
        "min": flat.min(),
        "max": flat.max(),
        "std": flat.std(),
        "rms": np.sqrt(np.mean(flat**2)),
        "nonfinite": 0,
    }
    assert set(computed) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(computed[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_a_gradient_has_one_number(way):
    """Under jit, and the gradient of the parameters is that without, in value."""
    gradient = jax.value_and_grad(WAYS[way])
    (_, gradients), updates = jax.jit(sowlog.collect(gradient))(WEIGHTS, INPUTS)
    assert_oracle(updates)
    np.testing.assert_allclose(gradients, jax.jit(jax.grad(in_a_loop))(WEIGHTS, INPUTS), atol=1e-5)


@pytest.mark.parametrize("way", ["a Python loop", "jax.lax.scan(jax.checkpoint)", "jax.jit of a layer"])
def test_eager_gradients(way):
    """Without jit, by grad and by vjp."""
    assert_oracle(sowlog.collect(jax.grad(WAYS[way]))(WEIGHTS, INPUTS)[1])
    assert_oracle(sowlog.collect(lambda *args: jax.vjp(WAYS[way], *args)[1](1.0))(WEIGHTS, INPUTS)[1])


def test_gradients_of_examples_and_of_microbatches():
    """By vmap of grad, and by a scan of grad over microbatches: those of the batch."""

    def of_row(row):
        return jax.grad(in_a_scan)(WEIGHTS, row[None])

    def microbatches(x):
        return jax.lax.scan(lambda total, row: (total + of_row(row), None), jnp.zeros_like(WEIGHTS), x)[0]

    assert_oracle(jax.jit(sowlog.collect(jax.vmap(of_row)))(INPUTS)[1])
    assert_oracle(jax.jit(sowlog.collect(microbatches))(INPUTS)[1])


def test_gradients_are_bit_for_bit_those_without():
    """In a scan over checkpoints, compiled."""
    plain = jax.jit(jax.grad(WAYS["jax.lax.scan(jax.checkpoint)"]))(WEIGHTS, INPUTS)
    watched = jax.jit(sowlog.collect(jax.grad(WAYS["jax.lax.scan(jax.checkpoint)"])))(WEIGHTS, INPUTS)[0]
    np.testing.assert_array_equal(plain, watched)


def large_results(function):
    """Return the shapes of the scans' results that hold all layers."""
    jaxpr = jax.make_jaxpr(function)(WEIGHTS, INPUTS)
    scans = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    shapes = [result.aval.shape for scan in scans for result in scan.outvars]
    return sorted(shape for shape in shapes if np.prod(shape) >= ROWS * WIDTH * LAYERS)


def test_no_array_of_the_size_of_the_activations_is_kept():
    """A scan returns those that the gradient itself needs."""
    assert large_results(sowlog.collect(jax.grad(in_a_scan))) == large_results(jax.grad(in_a_scan))


def test_without_a_collect_the_program_is_the_same():
    """As without the sow, jaxpr for jaxpr; and an evaluation under a collect sows nothing."""
    plain = functools.partial(in_a_loop, layer=lambda h, weight: jnp.tanh(h @ weight))
    assert str(jax.make_jaxpr(jax.grad(in_a_loop))(WEIGHTS, INPUTS)) == str(
        jax.make_jaxpr(jax.grad(plain))(WEIGHTS, INPUTS)
    )
    assert sowlog.collect(in_a_scan)(WEIGHTS, INPUTS)[1]["metrics"] == {}
    jaxpr = jax.make_jaxpr(sowlog.collect(in_a_loop))(WEIGHTS, INPUTS)
    assert not jaxpr.effects


def test_a_collect_inside_of_the_gradient_alone_is_an_error():
    """The message has the line to write; so it is in a scan and in a jitted function."""

    def inside(weights, x):
        return sowlog.collect(in_a_loop)(weights, x)[0]

    for loss in (inside, inside_of_another_collect, jax.jit(inside)):
        with pytest.raises(sowlog.LostMetricError, match=r"no collect around it: .*collect\(jax\.value_and"):
            jax.grad(loss)(WEIGHTS, INPUTS)


def test_statistics_and_losses_of_one_step():
    """Losses come out of the collect inside of the gradient, gradients out of the one around it."""

    def model(weight, x):
        h = sowlog.sow_grad("h", x @ weight, sowlog.histogram)
        sowlog.sow_loss("size", jnp.mean(h**2), weight=0.5)
        sowlog.sow("h", h, sowlog.max)
        return h

    def step(weight, x):
        def loss_fn(weight):
            h, updates = sowlog.collect(model)(weight, x)
            return jnp.sum(h) + sowlog.total_loss(updates, expect="size"), updates

        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        ((_, updates), _), backward = sowlog.collect(gradient)(weight)
        return sowlog.pack({**updates, "gradients": backward["metrics"]})

    counted = count_traces(step)
    jitted = jax.jit(counted)
    for _ in range(2):
        computed = sowlog.compute(jitted(WEIGHTS[0], INPUTS))
    assert counted.traces == 1
    assert int(np.sum(computed["gradients/h"].counts)) == INPUTS.size
    assert computed["metrics/h"] == jnp.max(INPUTS @ WEIGHTS[0])
    assert computed["losses/size"] == pytest.approx(float(jnp.mean((INPUTS @ WEIGHTS[0]) ** 2)))


def test_scopes_name_the_gradients_of_a_jitted_layer():
    """Traced once, in several scopes: those inside and outside of the gradient, and around all of it."""
    traced = count_traces(layer)
    jitted = jax.jit(traced)

    def loss(weights, x):
        for index, weight in enumerate(weights):
            with sowlog.scope(f"layer_{index}"):
                x = jitted(x, weight)
        return jnp.sum(x**2)

    def train(weights, x):
        with sowlog.scope("loss"):
            gradient = jax.grad(jax.checkpoint(sowlog.scope("model")(loss)))
            return gradient(weights, x)

    def outer(weights, x):
        with sowlog.scope("step"):
            return jax.jit(train)(weights, x)

    computed = sowlog.compute(sowlog.collect(outer)(WEIGHTS, INPUTS)[1]["metrics"])
    assert traced.traces == 1
    expected = {f"step/loss/model/layer_{i}/{name}" for i in range(LAYERS) for name in REDUCERS}
    assert set(computed) == expected
    for index in range(LAYERS):
        tag = f"step/loss/model/layer_{index}/rms"
        assert computed[tag] == pytest.approx(np.sqrt(np.mean(ORACLE[index] ** 2)), rel=1e-5)


def test_scopes_around_and_inside_of_a_shard_map():
    """It runs its function; a jitted one inside has the names in their order."""

    @jax.jit
    @sowlog.scope("c")
    def inner(x):
        return sowlog.sow_grad("x", x, sowlog.sum)

    def on_shard(x):
        with sowlog.scope("b"):
            return jax.lax.psum(jnp.sum(inner(x)), "rows")

    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(on_shard, mesh=mesh, in_specs=PartitionSpec("rows"), out_specs=PartitionSpec())

    def loss(x):
        with sowlog.scope("a"):
            return mapped(x)

    updates = jax.jit(sowlog.collect(jax.grad(loss)))(INPUTS)[1]
    assert sowlog.compute(updates["metrics"]) == {"a/b/c/x": INPUTS.size}


STACKED = {
    "jax.lax.scan": lambda weights, x: in_a_scan(weights, x, sowlog.stacked),
    "jax.lax.scan of jax.checkpoint": lambda weights, x: in_a_scan(
        weights, x, lambda body: sowlog.stacked(jax.checkpoint(body))
    ),
    "jax.checkpoint of jax.lax.scan": jax.checkpoint(
        lambda weights, x: in_a_scan(weights, x, sowlog.stacked)
    ),
}


@pytest.mark.parametrize("way", STACKED)
def test_stacked_steps_are_kept_apart(way):
    """In the order of the forward pass, though the backward pass runs in the other."""
    updates = jax.jit(sowlog.collect(jax.grad(STACKED[way])))(WEIGHTS, INPUTS)[1]
    computed = sowlog.compute(updates["metrics"])
    assert set(computed) == {f"{name}/{i:02}" for name in REDUCERS for i in range(LAYERS)}
    for index in range(LAYERS):
        assert computed[f"max/{index:02}"] == pytest.approx(ORACLE[index].max(), rel=1e-5)
        assert computed[f"sum/{index:02}"] == pytest.approx(ORACLE[index].sum(), rel=1e-4)


BESIDE = {
    "scan": lambda body, x: jax.lax.scan(lambda x, _: (body(x), None), x, length=2)[0],
    "stacked scan": lambda body, x: jax.lax.scan(sowlog.stacked(lambda x, _: (body(x), None)), x, length=1)[
        0
    ],
    "cond": lambda body, x: jax.lax.cond(x[0] > -9, body, lambda x: x, x),
    "checkpoint": lambda body, x: jax.checkpoint(body)(x),
    "jit": lambda body, x: jax.jit(body)(x),
    "vmap": lambda body, x: jax.vmap(body)(x),
    "scan in a jit": lambda body, x: jax.jit(lambda x: BESIDE["scan"](body, x))(x),
}


@pytest.mark.parametrize("way", BESIDE)
def test_a_gradient_beside_a_value_has_each_scope_once(way):
    """A transform that holds a sow is bound anew by its rule, with taps that have their place."""

    def body(x):
        sowlog.sow("value", x)
        with sowlog.scope("deep"):
            return jnp.tanh(sowlog.sow_grad("gradient", x, sowlog.max))

    def inner(x):
        with sowlog.scope("middle"):
            return BESIDE[way](body, x)

    def loss_fn(x):
        with sowlog.scope("outer"):
            return jnp.sum(BESIDE["scan"](inner, x))

    layer = "/00" if way == "stacked scan" else ""
    for gradient in (jax.grad(loss_fn), jax.jit(jax.grad(loss_fn))):
        _, updates = sowlog.collect(gradient)(jnp.ones(3))
        expected = {f"outer/middle/value{layer}", f"outer/middle/deep/gradient{layer}"}
        assert set(sowlog.compute(updates["metrics"])) == expected


def test_stacked_examples_are_kept_apart():
    """Of grad of vmap, and of vmap of grad."""
    rows = {
        "grad of vmap": jax.grad(
            lambda weights, x: jnp.sum(jax.vmap(sowlog.stacked(lambda row: in_a_loop(weights, row)))(x))
        ),
        "vmap of grad": lambda weights, x: jax.vmap(
            sowlog.stacked(lambda row: jax.grad(in_a_loop)(weights, row))
        )(x),
    }
    for name, function in rows.items():
        computed = sowlog.compute(jax.jit(sowlog.collect(function))(WEIGHTS, INPUTS)[1]["metrics"])
        for row in range(ROWS):
            assert computed[f"max/{row:02}"] == pytest.approx(ORACLE[:, row].max(), rel=1e-5), name


def test_stacked_examples_of_merged_microbatches():
    """A gradient inside of the stacked function is stacked once, not by the scan outside, too."""
    rows = jax.vmap(sowlog.stacked(lambda row: jax.grad(in_a_loop)(WEIGHTS, row)))

    def microbatches(x):
        return jax.lax.scan(lambda _, rows_of_one: (None, rows(rows_of_one)), None, x)

    _, updates = jax.jit(sowlog.collect(microbatches))(INPUTS.reshape(2, ROWS // 2, WIDTH))
    assert updates["metrics"]["max"].seen.shape == (ROWS // 2,)
    np.testing.assert_allclose(
        updates["metrics"]["max"].compute(), ORACLE.max(axis=(0, 2)).reshape(2, -1).max(axis=0), rtol=1e-5
    )


def test_a_merging_loop_inside_of_a_stacked_one_is_an_error():
    """Its states would be those of the wrong loop; stacked in both has two indices."""

    def loss(weights, x, wrap):
        def outer(h, weight):
            return jax.lax.scan(wrap(lambda h, _: (layer(h, weight), None)), h, length=2)

        return jnp.sum(jax.lax.scan(sowlog.stacked(outer), x, weights)[0])

    with pytest.raises(sowlog.LostMetricError, match=r"sowlog\.stacked\(body\) for the inner loop as well"):
        sowlog.collect(jax.grad(loss))(WEIGHTS, INPUTS, lambda body: body)
    _, updates = sowlog.collect(jax.grad(loss))(WEIGHTS, INPUTS, sowlog.stacked)
    assert updates["metrics"]["max"].seen.shape == (LAYERS, 2)


class Block(nn.Module):
    @nn.compact
    def __call__(self, h):
        return sowlog.sow_grad(self, "h", nn.Dense(WIDTH)(h), sowlog.rms)


def test_linen_modules_have_their_path():
    """Called twice, under nn.remat and nn.scan, with a collect inside of the gradient for the losses."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.remat(Block)(name="first")(x)
            scan = nn.scan(
                lambda block, h, _: (block(h), None), variable_axes={"params": 0}, split_rngs={"params": True}
            )
            x, _ = scan(Block(name="blocks"), x, jnp.zeros(2))
            sowlog.sow_loss(self, "size", jnp.mean(x**2))
            return x

    variables = Model().init(jax.random.key(0), INPUTS)

    def loss(params):
        y, updates = sowlog.collect(Model().apply)({"params": params}, INPUTS)
        return jnp.sum(y) + sowlog.total_loss(updates, expect="size"), updates

    (_, updates), backward = jax.jit(sowlog.collect(jax.grad(loss, has_aux=True)))(variables["params"])
    assert set(sowlog.compute(updates["losses"])) == {"size", "size/weighted"}
    assert set(sowlog.compute(backward["metrics"])) == {"first/h", "blocks/h/00", "blocks/h/01"}


def test_nnx_modules_have_their_path():
    """The model is an argument of nnx.grad; an nnx.scan over stacked blocks keeps their gradients apart."""

    class NnxBlock(nnx.Module):
        def __init__(self, scale):
            self.scale = nnx.Param(scale)

        def __call__(self, x):
            return sowlog.sow_grad(self, "h", self.scale * x, sowlog.sum)

    class Model(nnx.Module):
        def __init__(self):
            self.first = NnxBlock(jnp.ones(()))
            self.blocks = NnxBlock(jnp.array([2.0, 3.0]))

        def __call__(self, x):
            scan = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return scan(nnx.remat(lambda block, x: block(x))(self.first, x), self.blocks)

    _, backward = sowlog.collect(nnx.grad(lambda model: jnp.sum(model(INPUTS))))(Model())
    expected = {"first/h": 6.0, "blocks/h/00": 3.0, "blocks/h/01": 1.0}
    assert sowlog.compute(backward["metrics"]) == {tag: n * INPUTS.size for tag, n in expected.items()}


def test_equinox_modules_have_their_scopes():
    """Under filter_grad, filter_jit and filter_checkpoint."""

    class Scale(eqx.Module):
        factor: jax.Array

        @sowlog.scope("scale")
        def __call__(self, x):
            return sowlog.sow_grad("h", self.factor * x, sowlog.sum)

    def loss(model):
        return 2 * jnp.sum(eqx.filter_checkpoint(model)(INPUTS))

    _, backward = sowlog.collect(eqx.filter_jit(eqx.filter_grad(loss)))(Scale(jnp.ones(())))
    assert sowlog.compute(backward["metrics"]) == {"scale/h": 2 * INPUTS.size}


def test_the_innermost_of_nested_gradients_is_recorded():
    """Of a gradient of a gradient; a Hessian and a tangent need no backward pass of it."""

    def loss(x):
        return jnp.sum(sowlog.sow_grad("x", x, sowlog.sum) ** 3)

    def outer(x):
        return jnp.sum(jax.grad(loss)(x) ** 2)

    x = jnp.array([1.0, 2.0])
    gradient, updates = sowlog.collect(jax.grad(outer))(x)
    np.testing.assert_allclose(gradient, 36 * x**3)
    assert sowlog.compute(updates["metrics"]) == {"x": 15.0}
    assert sowlog.collect(lambda x: jax.jvp(loss, (x,), (x,)))(x)[1]["metrics"] == {}


def test_gradients_that_do_not_flow_are_absent():
    """Of a value that the loss does not depend on, and behind stop_gradient; those of a branch not taken."""

    def loss(x):
        sowlog.sow_grad("unused", x, sowlog.sum)
        jnp.sum(jax.lax.stop_gradient(sowlog.sow_grad("stopped", x, sowlog.sum)))
        y = jax.lax.cond(x[0] > 0, lambda x: x, lambda x: sowlog.sow_grad("branch", x, sowlog.sum), x)
        return jnp.sum(sowlog.sow_grad("used", y, sowlog.sum))

    _, updates = jax.jit(sowlog.collect(jax.grad(loss)))(jnp.ones(3))
    assert set(updates["metrics"]) == {"used", "branch"}
    assert sowlog.compute(updates["metrics"]) == {"used": 3.0}


def total(x):
    return jnp.sum(sowlog.sow_grad("x", x, sowlog.sum))


def test_gradients_of_narrow_arrays_are_reduced_in_float32():
    """In bfloat16, whose sum of a thousand would stop at 256."""
    gradient, updates = sowlog.collect(jax.grad(total))(jnp.ones(1000, jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    assert sowlog.compute(updates["metrics"]) == {"x": 1000.0}


def test_last_is_that_of_the_first_layer():
    """The backward pass sows in its own order."""

    def body(h, weight):
        return jnp.tanh(sowlog.sow_grad("last", h @ weight, sowlog.last)), None

    def loss(weights):
        return jnp.sum(jax.lax.scan(body, INPUTS, weights)[0] ** 2)

    updates = sowlog.collect(jax.grad(loss))(WEIGHTS)[1]
    assert sowlog.compute(updates["metrics"])["last"] == pytest.approx(ORACLE[0, -1, -1], rel=1e-5)


def test_a_value_and_a_gradient_of_one_name_are_an_error():
    """They would be one number."""

    def loss(x):
        sowlog.sow("x", x, sowlog.sum)
        return jnp.sum(sowlog.sow_grad("x", x, sowlog.sum))

    with pytest.raises(TypeError, match=r"x: another sow left a value of another kind"):
        sowlog.collect(jax.grad(loss))(jnp.ones(2))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (jnp.arange(3), "is int32: only the gradient of a floating-point array"),
        (jnp.array([True]), "is bool: only the gradient"),
        (jnp.array([1j]), "is complex64: .* x.real and x.imag"),
        (jax.random.key(0), "is key<fry>: only the gradient"),
    ],
)
def test_arrays_that_no_gradient_flows_through_are_errors(x, message):
    """Under a collect, with the place."""
    with pytest.raises(TypeError, match=f"scope/x {message}"):
        sowlog.collect(sowlog.scope("scope")(lambda: sowlog.sow_grad("x", x, sowlog.sum)))()


def test_refused_arguments():
    """As those of sow; an array without elements has no gradient to be seen."""
    with pytest.raises(TypeError, match="no sowlog reducer"):
        sowlog.sow_grad("x", INPUTS, jnp.max)
    with pytest.raises(TypeError, match="reducer is missing"):
        sowlog.sow_grad("x", INPUTS)
    with pytest.raises(TypeError, match="only a module of Flax"):
        sowlog.sow_grad(3, "x", INPUTS, sowlog.max)
    assert sowlog.sow_grad("x", 3, sowlog.max) == 3
    assert sowlog.compute(sowlog.collect(jax.grad(total))(jnp.ones((0, 2)))[1]["metrics"]) == {}
