"""Statistics that are due at some steps only, by numbers on the device."""

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
from tests.sow.test_transforms import CASES, FEW, ROWS, assert_sown
from tests.support.matrix import cases


@pytest.mark.parametrize("case", cases(CASES, default=[*FEW, "shard_map of two branches", "grad of pmap"]))
def test_a_statistic_that_is_off_is_absent(case):
    """Under every transform; one trace serves both."""
    function, wanted = CASES[case]
    traced = count_traces(lambda x, flag: sowlog.collect(function, due=flag)(x))
    step = jax.jit(traced)
    for flag in (True, False, True):
        _, updates = step(ROWS, flag)
        assert_sown(updates["metrics"], wanted if flag else [])
    assert traced.traces == 1


def test_a_transform_that_is_bound_again_reads_nothing():
    """JAX maps a while loop by the jaxpr of its body, and binds the shard_map in it again."""
    mesh = jax.make_mesh((2,), ("shards",), (jax.sharding.AxisType.Auto,))
    specs = jax.sharding.PartitionSpec()

    def body(x):
        sowlog.sow("x", x, sowlog.sum)
        return x + 1

    shard = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=specs))

    def rows(x, flag):
        loop = jax.vmap(lambda x: jax.lax.while_loop(lambda x: x < 3, shard, x))
        return sowlog.collect(jax.jit(loop), due=flag)(x)

    for flag, wanted in ((True, {"x": 3.0 + 2.0}), (False, {})):
        y, updates = jax.jit(rows)(jnp.array([0.0, 2.0, 5.0]), flag)
        np.testing.assert_array_equal(y, [3.0, 3.0, 5.0])
        assert sowlog.compute(updates["metrics"]) == wanted


def test_a_cached_function_is_traced_for_the_numbers_that_are_given():
    """It was traced in a collect without a cadence, and with others."""
    cached = jax.jit(lambda x: sowlog.sow("x", x, every="slow"))

    def results(**numbers):
        return sowlog.compute(sowlog.collect(cached, **numbers)(2.0)[1]["metrics"])

    for _ in range(2):
        assert results() == {"x": 2.0}
        assert results(due={"slow": False}) == {}
        assert results(due={"slow": True}) == {"x": 2.0}
        assert results(due=False) == {}
        assert results(step=1) == {"x": 2.0}


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        sowlog.sow(self, "often", x, sowlog.max)
        sowlog.sow(self, "seldom", x, sowlog.max, every=10)
        x = sowlog.sow_grad(self, "grad", nn.Dense(2, use_bias=False)(x), sowlog.max, every="slow")
        return x, None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return layers(name="layers")(x, None)[0]


def test_one_compiled_step_has_every_cadence():
    """A number of steps and a flag, which changes while training; in scan and remat, forward and backward."""
    model, x = Stack(), jnp.ones((1, 2))
    params = model.init(jax.random.key(0), x)

    def loss_fn(params):
        y, updates = sowlog.collect(model.apply, watch=sowlog.watch("layers", sowlog.rms, every=4))(params, x)
        return jnp.sum(y), updates["metrics"]

    def step(number, slow):
        differentiate = sowlog.collect(
            jax.value_and_grad(loss_fn, has_aux=True), step=number, due={"slow": slow}
        )
        ((_, forward), _), backward = differentiate(params)
        return sowlog.pack({**forward, "backward": backward["metrics"]})

    traced = count_traces(step)
    jitted = jax.jit(traced)
    found = {}
    for number in range(11):
        names = {tag.rpartition("/")[0] for tag in sowlog.compute(jitted(number, number in (1, 2)))}
        found[number] = {name.split("/")[-1] for name in names}
    assert traced.traces == 1
    assert all("often" in names for names in found.values())
    assert [number for number, names in found.items() if "seldom" in names] == [0, 10]
    assert [number for number, names in found.items() if "rms" in names] == [0, 4, 8]
    assert [number for number, names in found.items() if "grad" in names] == [1, 2]


class Nnx(nnx.Module):
    def __call__(self, x):
        sowlog.sow(self, "x", x, every="slow")
        return x


class Equinox(eqx.Module):
    def __call__(self, x):
        sowlog.sow("x", x, every="slow")
        return x


@pytest.mark.parametrize(
    "function",
    [
        nnx.jit(lambda model, x: nnx.vmap(lambda model, x: model(x), in_axes=(None, 0))(model, x)),
        nnx.remat(lambda model, x: model(x)),
        eqx.filter_jit(lambda model, x: jax.vmap(Equinox())(x)),
        lambda model, x: eqx.filter_grad(lambda x: jnp.sum(Equinox()(x)))(x),
    ],
    ids=["nnx.jit", "nnx.remat", "filter_jit", "filter_grad"],
)
@pytest.mark.parametrize("flag", [True, False])
def test_cadences_in_nnx_and_equinox(function, flag):
    """By a flag that is traced, under their transforms."""
    model = Nnx()

    def step(flag):
        return sowlog.collect(function, due={"slow": flag})(model, jnp.array([1.0, 2.0]))[1]["metrics"]

    assert sowlog.compute(jax.jit(step)(flag)) == ({"x": 1.5} if flag else {})


def test_the_flags_of_an_outer_collect_hold_inside():
    """An inner one may set its own."""

    def inner(**numbers):
        function = lambda: sowlog.sow("x", 1.0, every="slow")  # noqa: E731
        return sowlog.compute(sowlog.collect(function, **numbers)()[1]["metrics"])

    outer, _ = sowlog.collect(lambda: (inner(), inner(due={"slow": True})), due={"slow": False})()
    assert outer == ({}, {"x": 1.0})


INSIDE = {
    "nothing": lambda function: function,
    "jit": jax.jit,
    "jit of jit": lambda function: jax.jit(jax.jit(function)),
    "checkpoint": jax.checkpoint,
    "scan": lambda function: lambda x: jax.lax.scan(lambda x, _: (function(x), None), x, None, length=1)[0],
    "fori_loop": lambda function: lambda x: jax.lax.fori_loop(0, 1, lambda _, x: function(x), x),
    "cond": lambda function: lambda x: jax.lax.cond(x > 0, function, lambda x: x, x),
    "shard_map": lambda function: jax.shard_map(
        function,
        mesh=jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,)),
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
    ),
}


@pytest.mark.parametrize("inside", INSIDE)
def test_a_collect_inside_of_a_custom_derivative_reads_the_flag(inside):
    """Under each transform in it and around it, where it becomes an equation, and in its gradient."""

    def inner(x):
        sowlog.sow("x", x, sowlog.sum, every="slow")
        return jnp.sin(x)

    def function(x):
        y, updates = sowlog.collect(inner)(x)
        sowlog.sow("inside", updates["metrics"]["x"].seen, sowlog.sum)
        return y

    transformed = INSIDE[inside](function)
    derivative = jax.custom_vjp(transformed)
    derivative.defvjp(lambda x: (transformed(x), x), lambda x, cotangent: (cotangent * jnp.cos(x),))
    for outside in ("nothing", "jit", "jit of jit"):
        around = INSIDE[outside](derivative)
        for call, y in ((around, np.sin(1)), (jax.grad(around), np.cos(1))):
            for is_due in (True, False):
                due = {"slow": jnp.asarray(is_due)}
                result, updates = sowlog.collect(call, due=due)(1.0)
                assert sowlog.compute(updates["metrics"]) == {"inside": is_due}, outside
                assert result == pytest.approx(y)


def test_without_a_step_a_statistic_is_computed_each_time():
    """As in an evaluation, also where Flax stores it."""
    model, x = Stack(), jnp.ones((1, 2))
    params = model.init(jax.random.key(0), x)
    _, updates = sowlog.collect(model.apply)(params, x)
    assert "layers/seldom/01" in sowlog.compute(updates["metrics"])
    assert (
        "seldom"
        in Layer().apply({"params": {"Dense_0": {"kernel": jnp.eye(2)}}}, x, mutable=["metrics"])[1][
            "metrics"
        ]
    )


def test_losses_are_due_at_each_step():
    """They are trained on."""
    _, updates = sowlog.collect(lambda: sowlog.sow_loss("l2", 2.0), due=False)()
    assert float(sowlog.total_loss(updates)) == 2.0


def sow_every(every, **numbers):
    return sowlog.collect(lambda: sowlog.sow("x", 1.0, every=every), **numbers)()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sow_every(0), ValueError, "every=0 is no cadence: write every=1"),
        (lambda: sow_every(2.5), TypeError, "every=2.5 is no cadence: write a number of steps"),
        (lambda: sow_every(True), TypeError, "every=True is no cadence"),
        (lambda: sow_every(""), ValueError, "every='' is no name of a flag"),
        (lambda: sowlog.watch("*", every=-1), ValueError, "every=-1 is no cadence"),
        (lambda: sowlog.sow_grad("x", jnp.ones(1), sowlog.max, every=()), TypeError, r"every=\(\) is no"),
        (lambda: sow_every("slow", due={"slwo": True}), ValueError, "'slow' is none of the flags .*: slwo"),
        (lambda: sow_every(2, step=1.5), TypeError, "collect: step is float32, not an integer"),
        (lambda: sow_every(2, step=jnp.arange(2)), ValueError, r"collect: step has shape \(2,\)"),
        (lambda: sow_every(2, due=1), TypeError, "collect: due is int32, not a bool"),
        (lambda: sow_every(2, due={"a": [True]}), ValueError, r"collect: due\['a'\] has shape \(1,\)"),
        (lambda: sow_every(2, due={"step": True}), ValueError, "every='step' is no name of a flag"),
    ],
)
def test_what_is_no_cadence_is_an_error(call, error, message):
    """It names the value, and the line to write."""
    with pytest.raises(error, match=message):
        call()
