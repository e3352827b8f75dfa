"""Seeds: the empty states of branches, under all transforms and with cached traces."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import sowlog

X = jnp.array([1.0, 2.0, 3.0])


class Sower(nn.Module):
    """Sows a statistic, kept by element, and a loss."""

    @nn.compact
    def __call__(self, x):
        sowlog.sow(self, "value", x, sowlog.mean(axis=()))
        sowlog.sow_loss(self, "loss", jnp.sum(x))
        return x


JittedSower = nn.jit(Sower)


def _sow_if_positive(module, x, *, sower=Sower):
    return nn.cond(x[0] > 0, lambda m, x: sower(name="branch")(x), lambda m, x: x, module, x)


def _collect(call, x=X):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return call(self, x)

    return sowlog.collect(Model().apply)({}, x)


def test_a_branch_may_sow_in_a_jitted_module():
    """The trace that nn.jit keeps of a pass that was refused does not stand in for later passes."""
    _, updates = _collect(lambda m, x: _sow_if_positive(m, x, sower=JittedSower))
    np.testing.assert_array_equal(updates["metrics"]["branch"]["value"].compute(), X)


def test_what_a_search_for_seeds_traced_serves_no_real_pass():
    """A jitted module after the branch is first traced in the search: no probe of it may come back later."""

    def call(module, x):
        return nn.jit(Sower)(name="block")(_sow_if_positive(module, x))

    class Wrapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return call(self, x)

    forward = sowlog.collect(nn.jit(Wrapped)().apply)
    for x, wanted in ((X, 12.0), (-X, -6.0)):
        _, updates = forward({}, x)
        assert set(updates["metrics"]) == {"branch", "block"}
        assert set(updates["metrics"]["block"]) == {"value"}
        assert sowlog.total_loss(updates) == wanted


def test_a_model_that_needs_seeds_may_return_anything():
    """`apply` may return other objects than arrays: a string among them needs no seeds."""
    (text, _), updates = _collect(lambda m, x: ("text", _sow_if_positive(m, x)))
    assert text == "text"
    assert set(updates["metrics"]["branch"]) == {"value"}


class Step(nn.Module):
    """A layer for nn.scan that sows in a branch."""

    @nn.compact
    def __call__(self, x, _):
        def sow(module, x):
            sowlog.sow(module, "value", x, sowlog.mean(axis=()))
            return x

        return nn.cond(x[0] > 0, sow, lambda m, x: x, self, x) + 1, None


class Steps(nn.Module):
    """Two such layers, which stack their sown values behind the values' own axis."""

    @nn.compact
    def __call__(self, x):
        return nn.scan(Step, variable_axes={"metrics": 1}, length=2)(name="steps")(x, None)[0]


def test_seeds_are_stacked_where_transforms_stack_states():
    """A scan along axis 1 in a vmap along axis 0: the seed has its axes where the states have theirs."""
    examples = jnp.stack([X, -2 * X])
    _, updates = _collect(
        lambda m, x: nn.vmap(Steps, variable_axes={"metrics": 0})(name="examples")(x), examples
    )
    found = updates["metrics"]["examples"]["steps"]["value"]
    assert found.seen.shape == (2, 3, 2)
    np.testing.assert_array_equal(found.seen[:, 0], [[True, True], [False, False]])
    np.testing.assert_array_equal(found.compute()[0], np.stack([X, X + 1], axis=1))
    assert jax.tree.structure(found) == jax.tree.structure(sowlog.mean(axis=()).init_fn())
