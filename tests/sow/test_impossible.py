"""A sow that cannot arrive raises while it is traced."""

import jax
import jax.numpy as jnp
import pytest

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
