"""The arithmetic that all reducers stand on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sowlog import _compensated

_floats = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)
_add = jax.jit(_compensated.add)


def _pair(value: float) -> _compensated.Pair:
    return _compensated.pair_of(jnp.float32(value))


def _exact(pair: _compensated.Pair) -> float:
    return float(pair.hi) + float(pair.lo)


@given(a=_floats, b=_floats)
def test_adding_two_numbers_loses_nothing(a, b):
    """A pair holds the sum of two float32 numbers to 48 bits, where float32 holds 24."""
    assert _exact(_add(_pair(a), _pair(b))) == pytest.approx(a + b, rel=2.0**-47, abs=0)


def test_small_numbers_are_not_swallowed_by_a_large_one():
    """2^24 + 1 + 1 is 2^24 + 2: a float32 sum stands still at 2^24."""
    total = _pair(2.0**24)
    for _ in range(3):
        total = _add(total, _pair(1.0))
    assert _exact(total) == 2**24 + 3


@pytest.mark.parametrize("elements", [0, 1, 2**24 + 1, 2**40 + 3])
def test_counts_known_while_tracing_are_exact(elements):
    """The number of elements of an array is held exactly, whatever its size."""
    assert _exact(_compensated.count(elements)) == elements


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint32])
def test_totals_of_integers_are_exact(dtype):
    """Integers above 2^24 are summed without rounding."""
    values = jnp.array([2**24 + 1, 2**30 + 1], dtype)
    assert _exact(_compensated.total(values)) == 2**24 + 2**30 + 2


def test_totals_of_flags_are_counts():
    """True counts 1: the number of dropped tokens is exact."""
    assert _exact(_compensated.total(jnp.ones((5, 1000), jnp.bool_))) == 5000


def test_an_infinite_total_stays_infinite():
    """Two-sum's error of an infinite sum is NaN by itself; it must not reach the value."""
    total = _add(_pair(np.inf), _pair(1.0))
    assert float(total.value) == np.inf
    assert np.isnan(_add(_pair(np.inf), _pair(-np.inf)).value)


@pytest.mark.parametrize("magnitude", [0.0, 2.0**-140, 2e-38, 1e-20, 1.0, 1e20, 3e38])
def test_sums_of_squares_hold_the_whole_range(magnitude):
    """The root mean square of equal numbers is that number; subnormal ones count as 0, as on the device."""
    values = jnp.full((3,), magnitude, jnp.float32)
    squares = _compensated.add_squares(_compensated.zero_squares(), _compensated.squares_of(values))
    root = float(_compensated.root_mean(squares, _compensated.count(3)))
    assert root == pytest.approx(0.0 if magnitude < 1e-38 else magnitude, rel=1e-6, abs=0)
