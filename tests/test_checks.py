"""What users test their own models with."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import sowlog
from sowlog.testing import assert_sown, count_traces


class Model(nn.Module):
    """Sows a statistic in a submodule and a loss."""

    @nn.compact
    def __call__(self, x, *, loud=True):
        h = nn.Dense(3, name="hidden")(x)
        if loud:
            sowlog.sow(self, "hidden_rms", h, sowlog.rms)
        sowlog.sow_loss(self, "l2", jnp.sum(h**2))
        return h


X = jax.ShapeDtypeStruct((2, 4), jnp.float32)
VARIABLES = {"params": {"hidden": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}}}


def test_assert_sown_returns_every_tag():
    """Shapes suffice; what was sown comes back by tag."""
    assert assert_sown(Model(), VARIABLES, X, names=["hidden_rms", "losses/*"]) == ["hidden_rms", "losses/l2"]


def test_assert_sown_names_what_is_missing_and_what_is_there():
    """A name that matches nothing fails with the list of what was sown; arguments reach the model."""
    with pytest.raises(AssertionError, match="Model does not sow hidden_rms; it sows: losses/l2"):
        assert_sown(Model(), VARIABLES, X, names="hidden_rms", loud=False)


def test_count_traces_counts_retraces():
    """A weakly typed second argument costs a trace, and shows."""
    step = count_traces(lambda x: x * 2)
    jitted = jax.jit(step)
    jitted(jnp.float32(1.0))
    jitted(jnp.float32(2.0))
    assert step.traces == 1
    jitted(1.0)
    assert step.traces == 2
