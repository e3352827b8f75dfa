"""Paths and layers of sows outside of modules."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog.testing import count_traces

ROWS = jnp.arange(6.0).reshape(3, 2)


def sow(x):
    sowlog.sow("max", x, sowlog.max)
    return x


class Layer(nn.Module):
    def __call__(self, x):
        return sow(x) if sowlog.sow(self, "of_self", x, sowlog.max) else x


def test_scopes_nest_as_contexts_and_decorators():
    """Around functions, modules and transforms, and inside of these."""

    @sowlog.scope("step")
    def step(carry, row):
        with sowlog.scope("deep/er"):
            sow(row)
        return carry, Layer(name="ignored").apply({}, row)

    def model(x):
        with sowlog.scope("outer"):
            sow(x)
            jax.lax.scan(step, 0, x)
        return sow(-x)

    _, updates = jax.jit(sowlog.collect(model))(ROWS)
    assert sowlog.compute(updates["metrics"]) == {
        "outer/max": 5.0,
        "outer/step/deep/er/max": 5.0,
        "outer/step/max": 5.0,
        "outer/step/of_self": 5.0,
        "max": 0.0,
    }


CACHED = {
    "jit": jax.jit(sow),
    "checkpoint": jax.checkpoint(sow),
    "scan": functools.partial(jax.lax.scan, lambda c, row: (c, sow(row)), 0),
    "cond": lambda x: jax.lax.cond(x[0, 0] < 1, sow, jnp.sin, x),
    "jit of jit": jax.jit(lambda x: CACHED["jit"](x)),
}


@pytest.mark.parametrize("traced_in", ["eager", "jit"])
@pytest.mark.parametrize("transform", list(CACHED))
def test_a_function_that_jax_has_cached_sows_in_the_scope_of_each_call(transform, traced_in):
    """It was traced outside, and in one scope; and has the names of another where it is called there."""

    def model(x):
        for name in ("a", "b", "a"):
            with sowlog.scope(name):
                CACHED[transform](x)
        return CACHED[transform](-x)

    CACHED[transform](ROWS)
    forward = sowlog.collect(model)
    for _ in range(2):
        _, updates = (jax.jit(forward) if traced_in == "jit" else forward)(ROWS)
        assert sowlog.compute(updates["metrics"]) == {"a/max": 5.0, "b/max": 5.0, "max": 0.0}


def test_a_scope_traces_nothing_again():
    """Neither a function that sows, nor one that does not, nor functions of JAX."""
    traced, silent = count_traces(sowlog.scope("inner")(sow)), count_traces(jnp.sin)
    jitted = [jax.jit(lambda x: traced(x)), jax.jit(lambda x: silent(x))]

    def model(x):
        for name in ("a", "b", "c/d"):
            with sowlog.scope(name):
                for function in jitted:
                    x = function(x)
        return x

    _, updates = jax.jit(sowlog.collect(model))(ROWS)
    assert list(sowlog.compute(updates["metrics"])) == ["a/inner/max", "b/inner/max", "c/d/inner/max"]
    assert (traced.traces, silent.traces) == (1, 1)


def test_scopes_between_transforms_nest():
    """In and around the bodies of jit, scan, vmap, grad, checkpoint, cond and shard_map."""
    mesh, spec = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("shards",)), jax.sharding.PartitionSpec()
    transforms = {
        "jit": jax.jit,
        "scan": lambda f: lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, length=2)[0],
        "vmap": lambda f: lambda x: jax.vmap(f)(x[None])[0],
        "grad": lambda f: lambda x: jax.grad(lambda x: f(x).sum())(x) * x,
        "linearize": lambda f: lambda x: jax.linearize(f, x)[0],
        "checkpoint": jax.checkpoint,
        "cond": lambda f: lambda x: jax.lax.cond(x[0] < 9, f, lambda x: x, x),
        "shard_map": lambda f: jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec),
    }
    model, path = sow, "max"
    for name, transform in transforms.items():
        model = sowlog.scope(f"around_{name}")(transform(sowlog.scope(f"in_{name}")(model)))
        path = f"around_{name}/in_{name}/{path}"
    for run in (sowlog.collect(model), jax.jit(sowlog.collect(model))):
        assert sowlog.compute(run(ROWS[0])[1]["metrics"]) == {path: 1.0}


def test_an_error_inside_a_transform_names_the_whole_path():
    """Of a rule, and of two reducers of one name."""

    def by_two(x):
        sowlog.sow("max", sow(x), sowlog.min)
        return x + 1

    def model(body):
        looped = sowlog.scope("inner")(lambda x: jax.lax.while_loop(lambda x: x[0] < 3, body, x))
        return sowlog.scope("outer")(jax.jit(looped))

    with pytest.raises(sowlog.LostMetricError, match="outer/inner/max is stacked inside a "):
        sowlog.collect(model(sowlog.stacked(lambda x: sow(x) + 1)))(ROWS[0])
    with pytest.raises(TypeError, match="two reducers share one name") as error:
        sowlog.collect(model(by_two))(ROWS[0])
    assert "while sowing outer/inner/max" in error.value.__notes__


def test_a_scope_around_a_collect_counts_at_its_own_level():
    """Whether or not a function has been traced before; a jitted function hides its scopes from a collect."""
    traced = count_traces(sow)
    jitted = jax.jit(lambda x: traced(x))
    for name in ("a", "b"):
        with sowlog.scope(name):
            jitted(ROWS)
    assert traced.traces == 1
    with sowlog.scope("outer"):
        _, updates = sowlog.collect(jitted)(ROWS)
        assert sowlog.compute(updates["metrics"]) == {"outer/max": 5.0}
    step = jax.jit(lambda x: sowlog.collect(jitted)(x)[1]["metrics"])
    for name in ("a", "b"):
        with sowlog.scope(name):
            assert sowlog.compute(step(ROWS)) == {"max": 5.0}


def test_a_jitted_function_that_is_cached_keeps_the_scopes_inside():
    """Those are its own."""
    jitted = jax.jit(sowlog.scope("inside")(sow))
    for _ in range(2):
        _, updates = sowlog.collect(jitted)(ROWS)
        assert sowlog.compute(updates["metrics"]) == {"inside/max": 5.0}


STACKED = {
    "scan": lambda x: jax.lax.scan(sowlog.stacked(lambda c, row: (c, sow(row))), 0, x),
    "map": lambda x: jax.lax.map(sowlog.stacked(sow), x),
    "vmap": lambda x: jax.vmap(sowlog.stacked(sow))(x),
    "scan of checkpoint": lambda x: jax.lax.scan(
        jax.checkpoint(sowlog.stacked(lambda c, row: (c, sow(row)))), 0, x
    ),
    "grad of scan": lambda x: jax.grad(
        lambda x: jax.lax.scan(sowlog.stacked(lambda c, row: (c + jnp.sum(sow(row)), 0)), 0.0, x)[0]
    )(x),
    "jit": lambda x: jax.jit(jax.vmap(sowlog.stacked(jax.jit(sow))))(x),
    "a loop inside": lambda x: jax.vmap(
        sowlog.stacked(lambda row: jax.lax.fori_loop(0, 2, lambda i, c: c + sow(row[i]), 0.0))
    )(x),
    "a loop around": lambda x: jax.lax.fori_loop(
        0, 2, lambda i, c: c + jax.lax.map(sowlog.stacked(sow), x), jnp.zeros((3, 2))
    ),
    "a branch": lambda x: jax.lax.map(
        sowlog.stacked(lambda row: jax.lax.cond(row[0] >= 0, sow, lambda row: row, row)), x
    ),
}


@pytest.mark.parametrize("way", list(STACKED))
def test_each_step_keeps_a_state_of_its_own(way):
    """Its index ends the tag."""
    _, updates = jax.jit(sowlog.collect(STACKED[way]))(ROWS)
    assert sowlog.compute(updates["metrics"]) == {"max/00": 1.0, "max/01": 3.0, "max/02": 5.0}


def test_steps_of_steps_have_two_indices():
    """The outer first."""

    def model(x):
        return jax.lax.map(sowlog.stacked(jax.vmap(sowlog.stacked(sow))), x)

    _, updates = sowlog.collect(model)(ROWS)
    np.testing.assert_array_equal(updates["metrics"]["max"].compute(), ROWS)


def test_steps_without_a_number_are_refused():
    """A while loop cannot stack."""

    def model(x):
        return jax.lax.while_loop(lambda x: x[0] < 3, sowlog.stacked(lambda x: sow(x) + 1), x)

    with pytest.raises(
        sowlog.LostMetricError, match=r"max is stacked inside a jax.lax.while_loop.*jax.lax.scan"
    ):
        sowlog.collect(model)(ROWS[0])


def test_one_name_stacked_and_not_is_refused():
    """Two kinds of state."""

    def model(x):
        sow(x)
        return jax.lax.map(sowlog.stacked(sow), x)

    with pytest.raises((TypeError, ValueError), match=r"max|cannot merge"):
        sowlog.collect(model)(ROWS)


def test_stacked_without_collect_is_the_body():
    """And sows nothing."""
    assert jax.lax.map(sowlog.stacked(sow), ROWS).shape == ROWS.shape
