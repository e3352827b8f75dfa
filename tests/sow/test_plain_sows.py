"""Flax's own `module.sow` under collect, with reducers and with functions of a user's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog import LostMetricError
from tests.sow.test_linen import X, model_of


class Plain(nn.Module):
    """Sows by Flax alone."""

    options: dict

    @nn.compact
    def __call__(self, x, *rest):
        self.sow("metrics", "value", jnp.sum(x), **self.options)
        return (x, None) if rest else x


STRUCTURED = {
    "one branch of a cond or switch": lambda m, x, **o: nn.cond(
        x[0] < 0, lambda m, x: Plain(o, name="s")(x), lambda m, x: x, m, x
    ),
    "jax.lax.scan": lambda m, x, **o: nn.scan(Plain, length=2, variable_carry="metrics")(o, name="s")(
        x, None
    ),
    "jax.lax.while_loop": lambda m, x, **o: nn.while_loop(
        lambda m, c: c[1] < 2,
        lambda m, c: (Plain(o, name="s")(c[0]), c[1] + 1),
        m,
        (x, 0),
        carry_variables=["metrics"],
    ),
    "jax.vmap": lambda m, x, **o: jax.vmap(lambda x: Plain(o, name="s")(x))(x),
}
OPTIONS = {
    "the default": {},
    "functions": {"init_fn": lambda: jnp.float32(0), "reduce_fn": lambda a, b: a + b},
}


@pytest.mark.parametrize("options", list(OPTIONS))
@pytest.mark.parametrize("transform", list(STRUCTURED))
def test_a_plain_sow_whose_empty_state_is_unknown_is_refused(transform, options):
    """A loop or branch needs the state before it is sown; of a tuple that grows, say, it is not known."""

    def call(module, x):
        return STRUCTURED[transform](module, x, **OPTIONS[options])

    message = (
        rf"s/value is sown inside {transform}, which needs its state before the first sow.*"
        r'Write: module.sow\("metrics", "value", value, \*\*sowlog.mean\)'
    )
    with pytest.raises(LostMetricError, match=message):
        sowlog.collect(model_of(call).apply)({}, X)


@pytest.mark.parametrize("transform", list(STRUCTURED))
def test_a_plain_sow_of_a_reducer_arrives_from_everywhere(transform):
    """The same with one of sowlog's reducers is counted, however often it runs."""
    passes = 2 if "scan" in transform or "while" in transform else 1
    _, updates = sowlog.collect(model_of(lambda m, x: STRUCTURED[transform](m, x, **sowlog.sum)).apply)({}, X)
    assert sowlog.compute(updates["metrics"]) == {"s/value": passes * float(jnp.sum(X))}


def test_what_both_branches_sow_by_functions_needs_no_empty_state():
    """Beside a reducer in one branch, the values that both branches sow do not change."""

    def plain(module, x):
        return Plain(OPTIONS["functions"], name="s")(x)

    def both(module, x):
        sowlog.sow(module, "value", x, sowlog.max)
        return plain(module, x)

    _, updates = sowlog.collect(model_of(lambda m, x: nn.cond(x[0] < 0, both, plain, m, x)).apply)({}, X)
    assert sowlog.compute(updates["metrics"]) == {"value": -1.0, "s/value": -6.0}


WAYS = {
    "a call": (lambda m, x: Plain({}, name="s")(x), (-6.0,)),
    "two calls": (lambda m, x: [layer(x) for layer in [Plain({}, name="s")] * 2], (-6.0, -6.0)),
    "jax.jit": (lambda m, x: jax.jit(lambda x: Plain({}, name="s")(x))(x), (-6.0,)),
    "nn.jit": (lambda m, x: nn.jit(Plain)({}, name="s")(x), (-6.0,)),
    "nn.remat": (lambda m, x: nn.remat(Plain)({}, name="s")(x), (-6.0,)),
    "jax.grad": (lambda m, x: jax.grad(lambda x: jnp.sum(Plain({}, name="s")(x)))(x), (-6.0,)),
    "nn.scan that stacks": (
        lambda m, x: nn.scan(Plain, length=2, variable_axes={"metrics": 0})({}, name="s")(x, None),
        (np.full(2, -6.0),),
    ),
    "nn.vmap that stacks": (
        lambda m, x: nn.vmap(Plain, variable_axes={"metrics": 0})({}, name="s")(x),
        (X,),
    ),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_plain_sows_arrive_as_flax_documents(way):
    """The tuple is that of `mutable=["metrics"]` without collect, where Flax has one."""
    call, wanted = WAYS[way]
    model = model_of(call)
    _, updates = sowlog.collect(model.apply)({}, X)
    found = updates["metrics"]["s"]["value"]
    assert isinstance(found, tuple)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    if not way.startswith("jax."):
        _, by_flax = model.apply({}, X, mutable=["metrics"])
        jax.tree.map(np.testing.assert_array_equal, found, by_flax["metrics"]["s"]["value"])


@pytest.mark.parametrize("plain_first", [False, True])
def test_a_plain_sow_and_a_reducer_under_one_name_are_an_error_in_either_order(plain_first):
    """Under jit JAX sorts the labels of both."""

    class Both(nn.Module):
        def __call__(self, x):
            sows = [
                lambda: self.sow("metrics", "x", x),
                lambda: sowlog.sow(self, "x", x),
            ]
            for sow in sows if plain_first else reversed(sows):
                sow()
            return x

    with pytest.raises(TypeError, match="another sow left a value of another kind under this name"):
        sowlog.collect(jax.jit(Both().apply))({}, jnp.ones(2))
