"""Wrong arguments of collect and sow: each error names the argument and the line to write."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import sowlog


class Model(nn.Module):
    def __call__(self, x, *, train=False):
        sowlog.sow(self, "rms", x, sowlog.rms)
        return x


class NnxModel(nnx.Module):
    def __call__(self, x):
        sowlog.sow(self, "norm", x)
        return x


class NnxLoss(nnx.Module):
    def __call__(self, x):
        sowlog.sow_loss(self, "penalty", jnp.sum(x))
        return x


def _equinox_model():
    """Return a model of a class that says it is of Equinox, which is not installed here."""
    base = type("Module", (), {"__module__": "equinox._module"})
    return type("EquinoxModel", (base,), {"__call__": lambda self, x: sowlog.sow(self, "norm", x)})()


MODEL, X = Model(), jnp.ones(3)
STATE = r'Write: return a state from the function, `return y, {"norm": sowlog.mean.of\(norm\)}`'


@pytest.mark.parametrize(
    ("given", "message"),
    {
        "nn.apply": (
            lambda: nn.apply(lambda m: m(X), MODEL),
            r"the result of flax.linen.apply\(fn, module\).*module.apply\)\(variables, \*args, method=fn\)",
        ),
        "a module": (
            lambda: MODEL,
            r"the module Model, not a function. Write: sowlog.collect\(model.apply\)",
        ),
        "jit": (lambda: jax.jit(MODEL.apply), r"Write: jax.jit\(sowlog.collect\(model.apply\)\)"),
        "nnx": (NnxModel, f"NnxModel, a module of Flax nnx, and knows Flax linen .*{STATE}"),
        "a method of nnx": (lambda: NnxModel().__call__, f"NnxModel, a module of Flax nnx.*{STATE}"),
        "nnx.jit": (lambda: nnx.jit(NnxModel()), STATE),
        "equinox": (_equinox_model, f"EquinoxModel, a module of Equinox.*{STATE}"),
        "a function": (lambda: jnp.tanh.__wrapped__, f"tanh, which takes no `mutable`.*{STATE}"),
        "a number": (lambda: 3, "int, which takes no `mutable`"),
    }.values(),
)
def test_what_is_no_apply_is_refused(given, message):
    """At once, where collect stands, and not from within a call."""
    with pytest.raises(TypeError, match=message):
        sowlog.collect(given())


@pytest.mark.parametrize(
    "apply",
    [
        MODEL.apply,
        functools.partial(MODEL.apply, train=True),
        lambda variables, x, **kwargs: MODEL.apply(variables, x, **kwargs),
        lambda variables, *args, mutable: MODEL.apply(variables, *args, mutable=mutable),
        jax.named_call(MODEL.apply, name="model"),
    ],
)
def test_functions_of_the_form_of_apply_are_collected(apply):
    """A partial and a lambda are as good as apply itself."""
    assert list(sowlog.collect(apply)({}, X)[1]["metrics"]) == ["rms"]


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
        (lambda: NnxModel()(X), f"norm is sown in NnxModel, a module of Flax nnx.*{STATE}"),
        (lambda: NnxLoss()(X), "penalty is sown in NnxLoss.*An auxiliary loss is returned and added"),
        (lambda: _equinox_model()(X), f"norm is sown in EquinoxModel, a module of Equinox.*{STATE}"),
        (
            lambda: sowlog.sow("decoder", "norm", X),
            r"got str. In a module write: sowlog.sow\(self, 'norm', value\)",
        ),
    ],
)
def test_only_a_linen_module_can_be_sown_in(call, message):
    """A module of another library is recognized by its class, without an import of that library."""
    with pytest.raises(TypeError, match=message):
        call()


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
