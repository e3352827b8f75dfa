"""`sowlog.explain_nonfinite`: faults are planted at known places, which the report must name."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import sowlog
from sowlog import explain_nonfinite

LAYERS = 4


def written_nan(x):
    return x + jnp.nan


def exp_of_large(x):
    return jnp.exp(x * 0 + 1000)


def zero_by_zero(x):
    return (x - x) / (x * 0)


def log_of_negative(x):
    return jnp.log(-1 - x * x)


def product_in_bfloat16(x):
    return (x.astype(jnp.bfloat16) * 0 + 3e38) * 2


FAULTS = {
    written_nan: ("nan", "add"),
    exp_of_large: ("+inf", "exp"),
    zero_by_zero: ("nan", "div"),
    log_of_negative: ("nan", "log"),
    product_in_bfloat16: ("+inf", "mul"),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def backward_fault(fault, here, x):
    return x


backward_fault.defvjp(
    lambda fault, here, x: (x, here),
    lambda fault, here, g: (None, jnp.where(here, fault(g).astype(g.dtype), g)),
)


class Mlp(nn.Module):
    fault: object
    is_backward: bool

    @nn.compact
    def __call__(self, x, here):
        x = nn.Dense(3)(x)
        if self.is_backward:
            return backward_fault(self.fault, here, x)
        return jnp.where(here, self.fault(jax.lax.stop_gradient(x)).astype(x.dtype), x)


class Block(nn.Module):
    fault: object
    is_backward: bool

    @nn.compact
    def __call__(self, carry, _):
        x, layer, planted = carry
        mlp = nn.remat(Mlp)(self.fault, self.is_backward, name="mlp")
        return (x + mlp(x, layer == planted), layer + 1, planted), None


class Model(nn.Module):
    fault: object
    is_backward: bool

    @nn.compact
    def __call__(self, x, planted):
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS)
        carry = blocks(self.fault, self.is_backward, name="blocks")((x, 0, planted), None)[0]
        return jnp.square(carry[0]).mean()


@pytest.mark.parametrize("is_backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_in_a_layer_is_named_in_either_pass(fault, is_backward):
    """Kind, primitive, layer, line, module path and pass, in a scanned and checkpointed model under jit."""
    model, x = Model(fault, is_backward), jnp.ones((2, 3))
    params = model.init(jax.random.key(0), x, -1)["params"]
    step = jax.jit(jax.value_and_grad(lambda params, x, planted: model.apply({"params": params}, x, planted)))
    for layer in range(LAYERS):
        report = explain_nonfinite(step)(params, x, layer)
        kind, name = FAULTS[fault]
        assert (report.kind, report.name, report.origin) == (kind, name, "equation")
        assert report.iterations == (layer,)
        # JAX gives the equations of a backward rule the line that calls its function.
        function = "Mlp.__call__" if is_backward else fault.__name__
        assert report.source.startswith(f"{__file__}:")
        assert report.source.endswith(f" ({function})")
        assert report.module == "Model/blocks/mlp"
        assert report.phase == ("backward" if is_backward else "forward")
        assert report.index == (0, 0)
        assert report.results
        if fault is not written_nan:
            assert all(operand.nans == operand.infinities == 0 for operand in report.operands)
        assert 4 <= len(str(report).splitlines()) <= 10
    assert not explain_nonfinite(step)(params, x, -1)


def test_finite_results_have_a_report_that_is_false():
    """A NaN that is not selected, and a masked score, reach no result."""

    def masked(x):
        chosen = jnp.where(x > 0, jnp.log(x), 0)
        return chosen, jax.nn.softmax(jnp.where(x > 0, x, -jnp.inf))

    report = explain_nonfinite(masked)(jnp.array([-1.0, 2.0]))
    assert not report.found
    assert not report
    assert "All results are finite" in str(report)


def test_a_nan_of_a_mask_is_named_with_the_origin_of_its_infinity():
    """The softmax of a row that is masked as a whole."""

    def attention(scores, mask):
        scores = jnp.where(mask, scores, -jnp.inf)
        return jax.nn.softmax(scores)

    report = explain_nonfinite(attention)(jnp.ones((2, 2)), jnp.array([[True, False], [False, False]]))
    assert (report.kind, report.name, report.index) == ("nan", "sub", (1, 0))
    assert (report.cause.kind, report.cause.name) == ("-inf", "select_n")
    assert "from: -inf taken from a constant by select_n" in str(report)


def test_an_infinity_comes_before_the_nan_that_it_becomes():
    """The overflow is the origin, and no equation that computes with it."""
    report = explain_nonfinite(lambda x: jnp.exp(x) - jnp.exp(x))(jnp.array([1.0, 100.0]))
    assert (report.kind, report.name, report.index, report.cause) == ("+inf", "exp", (1,), None)


def test_constants_that_reach_a_result_are_named():
    """They are an origin if there is no other."""
    report = explain_nonfinite(lambda x, m: jnp.where(m, x, jnp.inf))(jnp.ones(2), jnp.array([True, False]))
    assert (report.kind, report.name, report.index) == ("+inf", "select_n", (1,))
    assert explain_nonfinite(lambda: jnp.full(2, jnp.nan))().origin == "constant"


def test_arguments_that_are_not_finite_are_named_by_their_path():
    """With the number and the first index of such elements, and the line that uses them first."""

    def apply(params, x):
        return params["w"][0] * x

    params = {"w": (jnp.array([1.0, jnp.nan, jnp.nan]), jnp.ones(2))}
    report = explain_nonfinite(jax.jit(apply))(params, jnp.ones(3))
    assert (report.kind, report.origin, report.name) == ("nan", "argument", "params['w'][0]")
    assert (report.result.nans, report.index) == (2, (1,))
    assert report.source.endswith(
        "test_arguments_that_are_not_finite_are_named_by_their_path.<locals>.apply)"
    )
    report = explain_nonfinite(lambda *, x: x + params["w"][0])(x=jnp.ones(3))
    assert report.origin == "captured array"
    report = explain_nonfinite(lambda *args, **kwargs: (args, kwargs))(1, b=jnp.array(-jnp.inf))
    assert (report.kind, report.name, report.results) == ("-inf", "b", ("result[1]['b']",))


def test_loops_and_branches_are_named_from_outside():
    """A while loop in a scan, and the branch that was taken in it."""

    def solve(x):
        def inner(state):
            step, x = state
            return step + 1, jax.lax.cond(step == 2, jnp.log, jnp.sin, x)

        def outer(x, start):
            return jax.lax.while_loop(lambda state: state[0] < 4, inner, (start, x))[1] - 1, None

        return jax.lax.scan(outer, x, jnp.array([3, 3, 1, 3]))[0]

    report = explain_nonfinite(solve)(jnp.array([0.5]))
    assert (report.name, report.iterations, report.branches) == ("log", (2, 1), (1,))
    assert [around.name for around in report.within] == ["scan", "while", "cond"]


def test_a_long_loop_names_its_iteration():
    """Those with finite results run compiled; later ones pass the NaN on."""

    def body(x, i):
        return jnp.where(i == 700, jnp.log(-jnp.abs(x)), jnp.sin(x)), jnp.cos(x)

    report = explain_nonfinite(lambda x: jax.lax.scan(body, x, jnp.arange(1000)))(jnp.ones(2))
    assert (report.name, report.iterations) == ("log", (700,))
    assert report.within[0].length == 1000


def test_an_example_of_vmap_is_named_by_its_index():
    """The first axis of the index is that of the examples."""
    report = explain_nonfinite(jax.vmap(lambda x: jnp.log(x).sum()))(jnp.array([[1.0, 2], [3, -4], [5, 6]]))
    assert (report.name, report.index, report.operands[0].min) == ("log", (1, 1), -4.0)


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_shard_is_named(is_checked):
    """In a scan in a shard_map, whose operands are those of the shard."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

    def model(x, weights):
        def layer(x, weight):
            return jnp.log(x * weight) + jax.lax.psum(x * 0, "data") + 2, None

        return jax.lax.scan(layer, x, weights)[0]

    sharded = jax.shard_map(
        model, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"), check_vma=is_checked
    )
    x = jnp.array([1.0, 2, 3, -4])
    report = explain_nonfinite(jax.jit(sharded))(x, jnp.ones(2))
    assert (report.name, report.iterations, report.shard) == ("log", (0,), (("data", 1),))
    assert (report.operands[0].shape, report.index) == ((2,), (1,))
    assert not explain_nonfinite(sharded)(jnp.abs(x), jnp.ones(2))


def test_a_factor_of_a_derivative_is_named_by_the_line_it_derives():
    """The gradient of a root at zero."""

    def root(x):
        return jnp.where(x > 0, jnp.sqrt(x), 0).sum()

    report = explain_nonfinite(jax.grad(root))(jnp.array([1.0, 0.0]))
    assert (report.kind, report.name, report.index) == ("+inf", "div", (1,))
    assert report.source.endswith("root)")


def test_models_of_nnx_and_equinox_are_arguments():
    """Their arrays have paths, and a value that a call leaves in an nnx model is a result."""
    model = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    report = explain_nonfinite(lambda model, x: model(x).shape)(model, jnp.full((3, 2), 1e38))
    assert report.kind == "+inf"
    assert report.results == ("model['var'].value",)
    assert np.isfinite(model.var[...]).all()
    linear = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    linear = eqx.tree_at(lambda linear: linear.bias, linear, jnp.array([0, jnp.nan]))
    assert explain_nonfinite(linear)(jnp.ones(2)).name == "fn.bias"
    assert explain_nonfinite(eqx.filter_jit(lambda m, x: (m, m(x))))(linear, jnp.ones(2)).name == "m.bias"


class Layer(nnx.Module):
    """A layer whose value is not finite where `planted` is its number."""

    def __init__(self, rngs):
        self.inner = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x, planted):
        sowlog.sow(self, "rms", x, sowlog.rms)
        return jnp.log(jnp.square(self.inner(x)) + 1 - 1e6 * (planted == 0)), planted - 1


class Layers(nnx.Module):
    """Layers in a list, or stacked ones in a scan."""

    def __init__(self, *, is_scanned):
        rngs = nnx.Rngs(0)
        make = nnx.vmap(Layer, in_axes=(0,))
        self.blocks = make(rngs.split(LAYERS)) if is_scanned else nnx.List([Layer(rngs), Layer(rngs)])

    def __call__(self, x, planted):
        if not isinstance(self.blocks, nnx.List):
            scan = nnx.scan(lambda carry, layer: (layer(*carry), None), in_axes=(nnx.Carry, 0))
            return scan((x, planted), self.blocks)[0][0]
        for layer in self.blocks:
            x, planted = layer(x, planted)
        return x


@pytest.mark.parametrize("is_scanned", [False, True], ids=["list", "scan"])
def test_a_module_of_nnx_is_named_by_its_path(is_scanned):
    """Also in a jitted function that was traced, and collected, without the names."""
    model, x = Layers(is_scanned=is_scanned), jnp.ones((2, 3))
    forward = nnx.jit(lambda model, x, planted: model(x, planted))

    def loss(model, x, planted):
        y, updates = sowlog.collect(forward)(model, x, planted)
        return y.sum(), updates

    step = nnx.jit(nnx.value_and_grad(loss, has_aux=True))
    step(model, x, -1)
    report = explain_nonfinite(step)(model, x, 1)
    assert (report.name, report.phase) == ("log", "forward")
    assert report.module == ("blocks" if is_scanned else "blocks/1")
    assert report.iterations == ((1,) if is_scanned else ())
    assert not explain_nonfinite(step)(model, x, -1)


def test_a_module_of_equinox_is_named_by_its_fields():
    """Without the names of classes that Equinox itself writes."""

    class Log(eqx.Module):
        inner: eqx.nn.Linear

        def __call__(self, x):
            return jnp.log(-jnp.abs(self.inner(x)))

    class Model(eqx.Module):
        layers: list[Log]

        def __call__(self, x):
            return self.layers[1](self.layers[0].inner(x))

    model = Model([Log(eqx.nn.Linear(2, 2, key=jax.random.key(number))) for number in range(2)])
    step = eqx.filter_jit(eqx.filter_value_and_grad(lambda model, xs: jax.vmap(model)(xs).sum()))
    step(model, jnp.ones((3, 2)))
    report = explain_nonfinite(step)(model, jnp.ones((3, 2)))
    assert (report.name, report.module, report.index) == ("log", "layers/1", (0, 0))
    wide = eqx.tree_at(lambda model: model.layers[0].inner.weight, model, jnp.full((2, 2), 3e38))
    report = explain_nonfinite(step)(wide, jnp.full((3, 2), 3.0))
    assert (report.name, report.module) == ("dot_general", "layers/0/inner")


def test_a_sown_nan_is_found_and_an_empty_maximum_is_none():
    """The states of a collect are results; the start of a maximum is -inf."""

    def model(x):
        sowlog.sow("log", jnp.log(x), sowlog.mean)
        with sowlog.scope("rare"):
            return jax.lax.cond(x.sum() > 100, lambda: _sown(x), lambda: x)

    explain = explain_nonfinite(sowlog.collect(model))
    assert not explain(jnp.array([1.0, 2.0]))
    assert explain(jnp.array([1.0, -2.0])).name == "log"


def _sown(x):
    sowlog.sow("max", x, sowlog.max)
    return x


def test_integers_keys_and_complex_numbers_are_evaluated():
    """Only numbers that can be infinite are looked at."""

    def draw(key, n):
        x = jax.random.normal(key, (2,))
        return jax.lax.complex(x, x * 0 + n) / 0

    report = explain_nonfinite(draw)(jax.random.key(0), jnp.int32(3))
    assert report.name == "div"
    assert report.operands[0].dtype == "complex64"


def test_a_callback_runs_once():
    """Each equation with an effect is evaluated once, those of a loop as well."""
    seen = []

    def body(x, i):
        jax.debug.callback(lambda i: seen.append(int(i)), i)
        return jnp.log(x - 5), None

    report = explain_nonfinite(lambda x: jax.lax.scan(body, x, jnp.arange(20))[0])(jnp.float32(1))
    jax.effects_barrier()
    assert report.iterations == (0,)
    assert sorted(seen) == list(range(20))


def test_modes_of_jax_do_not_end_the_search():
    """Such as the one that raises at each NaN, and the guard against implicit transfers."""
    x = jnp.array([-1.0])
    with jax.debug_nans(True), jax.transfer_guard("disallow"):
        assert explain_nonfinite(jax.jit(jnp.log))(x).name == "log"


def test_arguments_are_not_donated():
    """The step that went wrong may be explained with its own state, and run again."""
    x = jnp.array([-1.0])
    assert explain_nonfinite(jax.jit(jnp.log, donate_argnums=0))(x)
    assert not x.is_deleted()


def test_errors_show_the_call_to_write():
    """A value in place of a function, shapes, and a call inside of a transform."""
    with pytest.raises(TypeError, match=r"was given int, which cannot be called\. Write: sowlog.explain"):
        explain_nonfinite(3)
    outside = r"Call it outside, with the transform inside"
    with pytest.raises(TypeError, match=outside):
        jax.jit(lambda x: explain_nonfinite(jnp.log)(x) and x)(1.0)
    with pytest.raises(TypeError, match=outside):
        jax.jit(lambda x: explain_nonfinite(jnp.log)(np.ones(2)) and x)(1.0)
    with pytest.raises(TypeError, match=outside):
        explain_nonfinite(jnp.log)(jax.ShapeDtypeStruct((2,), jnp.float32))
