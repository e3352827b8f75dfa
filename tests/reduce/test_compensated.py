"""The compensated arithmetic of all reducers."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sowlog._reduce import compensated
from sowlog._reduce.limbs import count_limbs, cumulative, of_limbs
from sowlog._reduce.squares import add_squares, root_mean, squares_of, zero_squares
from tests.support import modes

_floats = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)
_add = jax.jit(compensated.add)


def _pair(value: float) -> compensated.Pair:
    return compensated.pair_of(jnp.float32(value))


def _exact(pair: compensated.Pair) -> float:
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
    """The number of elements of an array of any size is exact."""
    assert _exact(compensated.count(elements)) == elements


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint32])
def test_totals_of_integers_are_exact(dtype):
    """Integers above 2^24 are summed without rounding."""
    values = jnp.array([2**24 + 1, 2**30 + 1], dtype)
    assert _exact(compensated.total(values)) == 2**24 + 2**30 + 2


def test_totals_of_flags_are_counts():
    """True counts 1: the number of dropped tokens is exact."""
    assert _exact(compensated.total(jnp.ones((5, 1000), jnp.bool_))) == 5000


@modes.infinite
def test_an_infinite_total_stays_infinite():
    """Two-sum's error of an infinite sum is NaN by itself; it must not reach the value."""
    total = _add(_pair(np.inf), _pair(1.0))
    assert float(total.value) == np.inf
    assert np.isnan(_add(_pair(np.inf), _pair(-np.inf)).value)


@pytest.mark.parametrize("magnitude", [0.0, 2.0**-140, 2e-38, 1e-20, 1.0, 1e20, 3e38])
def test_sums_of_squares_hold_the_whole_range(magnitude):
    """The root mean square of equal numbers is that number; subnormal ones count as 0, as on the device."""
    values = jnp.full((3,), magnitude, jnp.float32)
    squares = add_squares(zero_squares(), squares_of(values))
    root = float(root_mean(squares, compensated.count(3)))
    assert root == pytest.approx(0.0 if magnitude < 1e-38 else magnitude, rel=1e-6, abs=0)


_KINDS = ["bool", "int32", "uint32"]


@pytest.mark.parametrize("weight_dtype", _KINDS)
@pytest.mark.parametrize("value_dtype", _KINDS)
def test_totals_of_weighted_integers_are_exact(value_dtype, weight_dtype):
    """Integers and flags under integer weights are summed without rounding, even if int32 wraps."""
    generator = np.random.default_rng(0)
    high = {"bool": 2, "int32": 2**31, "uint32": 2**32}
    low = {"bool": 0, "int32": -(2**31), "uint32": 0}
    values = generator.integers(low[value_dtype], high[value_dtype], 1000).astype(value_dtype)
    weight = generator.integers(0, 4, 1000).astype(weight_dtype)
    total = jax.jit(compensated.weighted_total)(values, weight)
    assert _exact(total) == sum(int(v) * int(w) for v, w in zip(values, weight, strict=True))


@pytest.mark.parametrize("magnitude", [1e-30, 1e-8, 1.0, 1e3, 2.0**20, 2.0**46])
def test_fractions_survive_the_limbs_of_counts(magnitude):
    """A total of weights with fractions comes back from the limbs that replicas sum, at every magnitude."""
    a, b = (jnp.asarray(np.random.default_rng(seed).random(1000) * magnitude, jnp.float32) for seed in (0, 1))
    pair = _add(compensated.pair_of(a), compensated.pair_of(b))
    back = of_limbs(4 * count_limbs(pair))
    exact, found = (np.asarray(p.hi, np.float64) + np.asarray(p.lo, np.float64) for p in (pair, back))
    np.testing.assert_allclose(found, 4 * exact, rtol=2e-7)


@pytest.mark.parametrize("size", [1, 4099])
def test_cumulative_sums_hold_48_bits(size):
    """Sums beyond 2^24 lose no single count, and tiny ones beside large ones lose nothing either."""
    counts = np.random.default_rng(0).integers(0, 2**34, size)
    pairs = compensated.Pair(jnp.asarray(counts, jnp.float32), jnp.zeros(size))
    exact = np.asarray(pairs.hi, np.int64)
    pairs = pairs._replace(lo=jnp.asarray(np.random.default_rng(1).integers(-200, 200, size), jnp.float32))
    exact = np.maximum.accumulate(np.cumsum(exact + np.asarray(pairs.lo, np.int64)))
    total = jax.jit(cumulative)(pairs)
    np.testing.assert_array_equal(np.asarray(total.hi, np.int64) + np.asarray(total.lo, np.int64), exact)


@pytest.mark.parametrize("factor", ["0", "1/100", "999/1000", "1"])
def test_shares_of_a_total_are_exact_to_45_bits(factor):
    """A share of a large count is not rounded to float32."""
    pair = _add(_pair(2.0**40), _pair(12345.0))
    (share,) = (
        compensated.Pair(*parts)
        for parts in zip(*compensated.multiply(pair, [Fraction(factor)]), strict=True)
    )
    assert _exact(share) == pytest.approx(float(Fraction(factor) * (2**40 + 12345)), rel=2.0**-45, abs=0)
