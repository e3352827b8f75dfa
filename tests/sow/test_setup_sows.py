"""Sows in `setup`, which Flax runs more often than once for each call."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog

X = jnp.array([1.0, 2.0, 3.0])


class Codebook(nn.Module):
    """A module that sows in setup, before any call."""

    @nn.nowrap
    def sow_codes(self, codes):
        sowlog.sow(self, "norm", codes, sowlog.sum)
        self.sow("metrics", "plain", codes, **sowlog.sum)
        sowlog.sow_loss(self, "size", jnp.sum(codes))

    def setup(self):
        self.codes = self.param("codes", nn.initializers.ones, (3,))
        self.sow_codes(self.codes)

    def __call__(self, x, *rest):
        return (x, None) if rest else x * self.codes


_LAYERS = {"variable_axes": {"params": 0, "metrics": 0, "losses": 0}, "split_rngs": {"params": True}}
SETUPS = {
    "as it is": (lambda x: Codebook(name="codebook")(x), 3.0, (3,)),
    "nn.remat": (lambda x: nn.remat(Codebook)(name="codebook")(x), 3.0, (3,)),
    "nn.jit": (lambda x: nn.jit(Codebook)(name="codebook")(x), 3.0, (3,)),
    "nn.vmap": (
        lambda x: nn.vmap(Codebook, **_LAYERS)(name="codebook")(jnp.stack([x, x])),
        [3.0, 3.0],
        (2, 3),
    ),
    "nn.scan": (
        lambda x: nn.scan(Codebook, length=2, **_LAYERS)(name="codebook")(x, None),
        [3.0, 3.0],
        (2, 3),
    ),
    "nn.scan(nn.remat)": (
        lambda x: nn.scan(nn.remat(Codebook), length=2, **_LAYERS)(name="codebook")(x, None),
        [3.0, 3.0],
        (2, 3),
    ),
    "nn.scan, carried": (
        lambda x: nn.scan(
            Codebook,
            length=2,
            variable_axes={"params": 0},
            variable_carry=["metrics", "losses"],
            split_rngs={"params": True},
        )(name="codebook")(x, None),
        6.0,
        (2, 3),
    ),
}


def test_a_branch_may_hold_lifted_modules_with_a_setup():
    """The runs in which Flax checks a setup do not confuse the search for seeds."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            def sow(module, x):
                return nn.remat(Codebook)(name="second")(nn.remat(Codebook)(name="first")(x))

            return nn.cond(x[0] > 0, sow, lambda m, x: x, self, x)

    variables = {"params": {name: {"codes": jnp.ones(3)} for name in ("first", "second")}}
    _, updates = sowlog.collect(Model().apply)(variables, X)
    wanted = {f"{path}/{name}": 3.0 for path in ("first", "second") for name in ("norm", "plain")}
    assert sowlog.compute(updates["metrics"]) == wanted


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("way", list(SETUPS))
def test_a_sow_in_setup_counts_where_the_transform_runs_it(way, jit):
    """Flax also runs setup to check it, and to compare modules in nn.jit: neither run counts."""
    call, wanted, shape = SETUPS[way]

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return call(x)

    params = {"codes": jnp.ones(shape)}
    forward = sowlog.collect(Model().apply)
    _, updates = (jax.jit(forward) if jit else forward)({"params": {"codebook": params}}, X)
    for name in ("norm", "plain"):
        np.testing.assert_array_equal(updates["metrics"]["codebook"][name].compute(), wanted)
    assert float(sowlog.total_loss(updates)) == np.sum(wanted)
