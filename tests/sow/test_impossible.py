"""A sow that cannot arrive raises while it is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

import sowlog
from tests.support.impossible import IMPOSSIBLE


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", list(IMPOSSIBLE))
def test_a_value_that_cannot_come_back_is_an_error(case, jit):
    """The message has the place, the transform and the remedy."""
    function, message = IMPOSSIBLE[case]
    forward = sowlog.collect(function)
    with pytest.raises(sowlog.LostMetricError, match=message):
        (jax.jit(forward) if jit else forward)(jnp.ones(3))


@pytest.mark.parametrize("case", list(IMPOSSIBLE))
def test_outside_of_collect_nothing_is_lost(case):
    """The same functions run, and raise nothing."""
    IMPOSSIBLE[case][0](jnp.ones(3))


def _on_host(value):
    sowlog.sow("norm", np.sum(value))
    return value


CALLBACKS = {
    "pure_callback": lambda x: jax.pure_callback(_on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
    "pure_callback under vmap": lambda x: jax.vmap(
        lambda x: jax.pure_callback(
            _on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential"
        )
    )(x),
    "io_callback": lambda x: io_callback(_on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
    "debug.callback": lambda x: jax.debug.callback(lambda x: (_on_host(x), None)[1], x),
    "debug.callback in a scan": lambda x: jax.lax.map(
        lambda x: jax.debug.callback(lambda x: (_on_host(x), None)[1], x), x
    ),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", list(CALLBACKS))
def test_a_sow_in_a_host_callback_is_an_error(case, jit):
    """The host runs it when the function has been collected."""
    forward = sowlog.collect(CALLBACKS[case])

    def run():
        jax.block_until_ready((jax.jit(forward) if jit else forward)(jnp.ones(3)))
        jax.effects_barrier()

    with pytest.raises((sowlog.LostMetricError, jax.errors.JaxRuntimeError), match="norm is sown in a host"):
        run()
    _, updates = sowlog.collect(lambda x: sowlog.sow("norm", x))(1.0)
    assert sowlog.compute(updates["metrics"]) == {"norm": 1.0}


@pytest.mark.parametrize("case", list(CALLBACKS))
def test_a_host_callback_may_sow_where_nobody_collects(case):
    """It sows nothing."""
    jax.block_until_ready(jax.jit(CALLBACKS[case])(jnp.ones(3)))
    jax.effects_barrier()
