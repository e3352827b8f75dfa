"""The functions and values that can be collected and sown, and the errors for others."""

import functools
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import sowlog
from sowlog._sow import internals, linen
from sowlog.testing import count_traces


class Model(nn.Module):
    def __call__(self, x, *, train=False):
        sowlog.sow(self, "rms", x, sowlog.rms)
        return x


class NnxModel(nnx.Module):
    def __call__(self, x):
        sowlog.sow("rms", x, sowlog.rms)
        return x


MODEL, X = Model(), jnp.ones(3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (MODEL, r"the module Model, not a function. Write: sowlog.collect\(model.apply\)"),
        (3, r"int, which cannot be called. Write: sowlog.collect\(function\)"),
    ],
)
def test_what_is_no_function_is_refused(given, message):
    """At once, where collect stands, and not from within a call."""
    with pytest.raises(TypeError, match=message):
        sowlog.collect(given)


@pytest.mark.parametrize(
    "apply",
    [
        MODEL.apply,
        functools.partial(MODEL.apply, train=True),
        lambda variables, x, **kwargs: MODEL.apply(variables, x, **kwargs),
        jax.named_call(MODEL.apply, name="model"),
        jax.jit(MODEL.apply),
        nn.apply(lambda module, x: module(x), MODEL),
        lambda _, x: sowlog.sow("rms", x, sowlog.rms),
        lambda _, x: NnxModel()(x),
        lambda _, x: nnx.jit(NnxModel())(x),
    ],
)
def test_any_function_is_collected(apply):
    """A partial, a lambda, a jitted function, a model of another library."""
    for _ in range(2):
        _, updates = sowlog.collect(apply)({}, X)
        assert sowlog.compute(updates["metrics"]) == {"rms": 1.0}
    assert sowlog.collect(NnxModel())(X)[1]["metrics"].keys() == {"rms"}


def test_the_variables_come_first():
    """A key, as init takes it, is no dict of variables."""
    message = (
        r"a collected apply is PRNGKeyArray.*Write: variables = model.init\(key, x\).*collect\(model.apply\)"
    )
    with pytest.raises(TypeError, match=message):
        sowlog.collect(MODEL.apply)(jax.random.key(0), X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: sowlog.sow(3, "norm", X),
            r"got int. In a module write: .*elsewhere.*sowlog.sow\('norm', value",
        ),
        (lambda: sowlog.sow("norm"), r"sow takes name, value, reducer, and value is missing"),
        (lambda: sowlog.sow("norm", X, sowlog.mean, 2), r"takes name, value, reducer, got 4 positional"),
        (lambda: sowlog.sow("norm", X, redcer=sowlog.mean), r"no argument redcer here"),
        (lambda: sowlog.sow("norm", X, 3), r"norm: 3 is no sowlog reducer"),
        (lambda: sowlog.sow("norm", X, collection="losses"), r'write sowlog.sow_loss\("norm", value'),
    ],
)
def test_a_sow_of_a_wrong_form_is_refused(call, message):
    """The error has the line to write, inside of a collect and outside."""
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize(
    "value", ["text", None, object(), jax.random.key(0), 1j], ids=["str", "None", "object", "key", "complex"]
)
def test_a_value_that_is_no_number_is_an_error_with_its_place(value):
    """The note says which sow it was."""

    def sow(_):
        with sowlog.scope("encoder"):
            sowlog.sow("norm", value)

    with pytest.raises(TypeError, match=r"must be (a )?real") as caught:
        sowlog.collect(sow)(X)
    assert caught.value.__notes__ == ["while sowing encoder/norm"]


def test_two_reducers_or_shapes_under_one_name_are_refused():
    """At the second sow."""

    def two_reducers(x):
        sowlog.sow("norm", x)
        sowlog.sow("norm", x, sowlog.max)

    def two_shapes(x):
        sowlog.sow("norm", x, sowlog.max(axis=()))
        sowlog.sow("norm", x[:2], sowlog.max(axis=()))

    for function, error in ((two_reducers, TypeError), (two_shapes, ValueError)):
        with pytest.raises(error, match="cannot merge") as caught:
            sowlog.collect(function)(X)
        assert "while sowing norm" in caught.value.__notes__


@pytest.mark.parametrize("name", ["", "a//b", "/a", "a/"])
def test_a_name_with_an_empty_part_is_refused(name):
    """Of a metric, and of a scope."""
    for function in (lambda x: sowlog.sow(name, x), sowlog.scope(name)(lambda x: x)):
        with pytest.raises(ValueError, match=f"name of a (metric|scope), '{name}', has an empty part"):
            sowlog.collect(function)(X)


def test_a_sow_without_collect_is_nothing():
    """The same jaxpr as without it, and jit's fast path: no effect is left in the program."""

    def quiet(x):
        return 2 * x

    def sowing(x):
        assert not sowlog.sow("norm", x)
        assert not sowlog.sow_loss("loss", 1.0)
        return quiet(x)

    assert str(jax.make_jaxpr(sowing)(X)) == str(jax.make_jaxpr(quiet)(X))
    assert not jax.make_jaxpr(sowing)(X).effects


def test_eager_code_stays_eager():
    """A Python branch on a value works inside of a collect; a jitted function in it is compiled once."""
    traced = count_traces(lambda x: sowlog.sow("inner", x, sowlog.max))
    jitted = jax.jit(traced)

    def function(x):
        if x[0] > 0:
            sowlog.sow("positive", x)
        jitted(x)

    for _ in range(3):
        _, updates = sowlog.collect(function)(X)
        assert sowlog.compute(updates["metrics"]) == {"positive": 1.0, "inner": 1.0}
    assert traced.traces == 1


def test_a_sow_arrives_at_the_innermost_collect():
    """And a function that was traced inside of one sows nothing outside."""
    jitted = jax.jit(lambda x: sowlog.sow("norm", x) or x)

    def outer(x):
        _, inner = sowlog.collect(jitted)(x)
        sowlog.sow("outer", x)
        return inner

    inner, updates = sowlog.collect(outer)(X)
    assert sowlog.compute(inner["metrics"]) == {"norm": 1.0}
    assert sowlog.compute(updates["metrics"]) == {"outer": 1.0}
    jitted(X)


def test_threads_collect_apart():
    """A sow in another thread does not arrive at this thread's collect."""
    inside, done = threading.Event(), threading.Event()
    collected = []

    def slow(x):
        inside.set()
        assert done.wait(60)
        sowlog.sow("slow", x)

    thread = threading.Thread(target=lambda: collected.append(sowlog.collect(slow)(X)[1]["metrics"].keys()))
    thread.start()
    assert inside.wait(60)
    assert not sowlog.sow("outside", X)
    _, updates = sowlog.collect(lambda x: sowlog.sow("fast", x))(X)
    done.set()
    thread.join()
    assert (list(updates["metrics"]), [list(keys) for keys in collected]) == (["fast"], [["slow"]])


def test_a_transform_without_a_rule_is_an_error():
    """It names the metric: nothing is dropped."""

    @jax.custom_batching.custom_vmap
    def custom(x):
        sowlog.sow("norm", x)
        return x

    custom.def_vmap(lambda size, mapped, x: (x, True))
    for call in (jax.jit(sowlog.collect(custom)), sowlog.collect(jax.jit(custom))):
        with pytest.raises(sowlog.LostMetricError, match=r"norm is sown inside .* knows no rule"):
            call(X)


@pytest.mark.parametrize(
    ("check", "change", "name"),
    [
        (
            internals.check,
            lambda p: p.setattr(internals, "_missing", ["jax._src.core.eval_jaxpr"]),
            "eval_jaxpr",
        ),
        (linen.check, lambda p: p.delattr("flax.core.lift.pack"), "flax.core.lift.pack"),
    ],
)
def test_an_internal_that_is_missing_is_an_error_of_the_first_collect(check, change, name, monkeypatch):
    """With the versions, and the remedy."""
    change(monkeypatch)
    check.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=rf"{name}.*Install the (version of flax|jax)"):
            sowlog.collect(MODEL.apply)({}, X)
    finally:
        check.cache_clear()


@pytest.mark.parametrize("transform", [nn.remat, nn.jit], ids=["remat", "jit"])
def test_a_pass_keeps_no_tracer_of_a_transform(transform):
    """JAX's check of leaks, `jax_check_tracer_leaks`, finds none at the end of each transform."""

    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            sowlog.sow(self, "x", x, sowlog.mean)
            return nn.Dense(2)(x)

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return transform(Inner)(name="inner")(x)

    x = jnp.ones((3, 2))
    variables = Outer().init(jax.random.key(0), x)

    def loss_fn(params):
        y, updates = sowlog.collect(Outer().apply)({"params": params}, x)
        return y.sum(), updates

    with jax.check_tracer_leaks():
        _, updates = jax.jit(jax.grad(loss_fn, has_aux=True))(variables["params"])
    assert sowlog.compute(updates["metrics"]) == {"inner/x": 1.0}


USERS = {
    "none": lambda f: f,
    "jit": jax.jit,
    "vmap": jax.vmap,
    "checkpoint": jax.checkpoint,
    "grad": jax.grad,
    "scan": lambda f: lambda x: jax.lax.scan(lambda x, _: (f(x), None), x, length=2)[0],
    "jit of cond": lambda f: jax.jit(lambda x: jax.lax.cond(x[0] > 0, f, lambda x: x, x)),
}


@pytest.mark.parametrize("transform", list(USERS))
def test_an_error_of_the_users_function_reaches_him_once(transform):
    """With his own line last, and nothing is run a second time because of it."""
    runs = []

    def user(x):
        runs.append(1)
        sowlog.sow("norm", x)
        return x + "text"

    with pytest.raises(TypeError, match="unsupported operand") as caught:
        sowlog.collect(USERS[transform](user))(X)
    assert runs == [1]
    assert caught.traceback[-1].name == "user"
    assert caught.value.__cause__ is None or "norm" not in str(caught.value.__cause__)
