"""Histograms and quantiles against NumPy."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import sowlog
from sowlog._reduce.bins import bin_edges
from tests.support import modes
from tests.support.jitted import compute, jit_of, merge
from tests.support.oracles import DISTRIBUTIONS

each_distribution = pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
PERCENTS = sowlog.quantiles.percents
# The quantiles' stated relative error, half a bin.
ERROR = 1 / 64

_floats = st.floats(-(2.0**30), 2.0**30, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-30)
_arrays = hnp.arrays(np.float32, st.sampled_from([(1,), (40,), (5, 8)]), elements=_floats)


_count = jit_of(sowlog.histogram)


def _quantiles(x):
    return compute(jit_of(sowlog.quantiles)(x))


def _sample(kind, size=10_001):
    generator = np.random.default_rng(0)
    return {
        "normal": generator.normal(3.0, 10.0, size),
        "lognormal": generator.lognormal(0.0, 3.0, size),
        "negative": -generator.exponential(0.01, size),
        "constant": np.full(size, 7.25),
        "two values": generator.choice([-1.0, 1e4], size),
        "zeros": np.zeros(size),
    }[kind].astype(np.float32)


KINDS = ["normal", "lognormal", "negative", "constant", "two values", "zeros"]


def _finite_edges(sub_bins=4):
    return np.clip(bin_edges(sub_bins), -1e300, 1e300)


@pytest.mark.parametrize("sub_bins", [1, 4, 64])
@given(x=_arrays)
def test_counts_are_numpys(sub_bins, x):
    """Every element falls in the bin that NumPy finds for it between the same edges."""
    histogram = compute(jit_of(sowlog.histogram(sub_bins=sub_bins))(x))
    # An edge belongs to the bin further from zero, so negative values are counted in the mirror.
    positive, _ = np.histogram(x[x >= 0].astype(np.float64), _finite_edges(sub_bins))
    negative, _ = np.histogram(-x[x < 0].astype(np.float64), _finite_edges(sub_bins))
    np.testing.assert_array_equal(histogram.counts, positive + negative[::-1])
    np.testing.assert_array_equal(histogram.residues, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_stands_beside_the_counts_is_exact(kind, dtype):
    """Smallest, largest, sum and sum of squares are those of the elements, not of the bins."""
    x = jnp.asarray(_sample(kind), dtype)
    exact = np.asarray(x.astype(jnp.float32), np.float64)
    value = compute(_count(x))
    assert float(value.counts.sum()) == exact.size
    assert (float(value.min), float(value.max)) == (exact.min(), exact.max())
    np.testing.assert_allclose(value.sum, exact.sum(), rtol=1e-6, atol=1e-6 * np.abs(exact).sum())
    np.testing.assert_allclose(value.sum_squares, np.sum(exact**2), rtol=1e-6)
    assert [float(x) for x in (value.nan, value.positive_inf, value.negative_inf)] == [0, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantiles_are_within_their_stated_error(kind, dtype):
    """Each quantile is within 1/64 of the element of its rank."""
    x = jnp.asarray(_sample(kind), dtype)
    exact = np.asarray(x.astype(jnp.float32), np.float64)
    wanted = np.percentile(exact, PERCENTS, method="inverted_cdf")
    results = _quantiles(x)
    assert list(results) == ["p1", "p25", "p5", "p50", "p75", "p95", "p99"]
    for percent, quantile in zip(PERCENTS, wanted, strict=True):
        assert float(results[f"p{percent}"]) == pytest.approx(quantile, rel=ERROR)


@given(x=_arrays)
def test_quantiles_of_few_elements_are_within_their_stated_error(x):
    """The bound holds for any elements, ties and both signs included."""
    results = _quantiles(x)
    for percent, quantile in zip(PERCENTS, np.percentile(x, PERCENTS, method="inverted_cdf"), strict=True):
        assert float(results[f"p{percent}"]) == pytest.approx(quantile, rel=ERROR, abs=0)


@modes.infinite
def test_nan_and_infinities_are_counted_apart():
    """They fall in no bin and spoil neither sum nor bounds."""
    value = compute(_count(jnp.array([1.0, jnp.nan, jnp.inf, -jnp.inf, 3.0, jnp.nan])))
    assert float(value.counts.sum()) == 2.0
    assert (float(value.min), float(value.max), float(value.sum), float(value.sum_squares)) == (1, 3, 4, 10)
    assert (float(value.nan), float(value.positive_inf), float(value.negative_inf)) == (2, 1, 1)
    assert float(_quantiles(jnp.array([jnp.nan, 2.0, jnp.inf]))["p50"]) == 2.0


def test_values_beyond_the_bins_are_counted_at_their_ends():
    """Magnitudes under 2^-32 count as zero, and those from 2^32 on in the outermost bins."""
    tiny, huge = 2.0**-33, 2.0**100
    counts = np.asarray(compute(_count(jnp.array([tiny, -tiny, 0.0, -0.0, huge, -huge]))).counts)
    assert (counts[0], counts[counts.size // 2], counts[-1]) == (1, 4, 1)
    assert counts.sum() == 6


@each_distribution
def test_nothing_finite_gives_no_quantile_and_an_empty_histogram(name):
    """All-NaN values were sown, and have no finite element: NaN, and counts of 0."""
    state = getattr(sowlog, name).of(jnp.full(4, jnp.nan))
    assert state.seen
    result = state.compute()
    if name == "quantiles":
        assert all(np.isnan(value) for value in result.values())
    else:
        assert float(result.counts.sum()) == 0.0
        assert float(result.nan) == 4.0


@each_distribution
def test_nothing_sown_is_absent(name):
    """An empty array, or one of weight 0, is a state that saw nothing."""
    reducer = getattr(sowlog, name)
    assert not reducer.of(jnp.ones((0,))).seen
    assert not reducer.of(jnp.ones(3), weight=0).seen
    assert sowlog.compute({"x": reducer.init_fn()}) == {}


@pytest.mark.parametrize(
    ("size", "weight", "wanted"),
    [
        (1_000_000, np.float32(0.1), 1_000_000 * float(np.float32(0.1))),
        (2**24 + 5, np.float32(1), 2**24 + 5),
        (3, np.int32(10**9), 3 * 10**9),
        (3, np.uint32(2**32 - 1), 3 * (2**32 - 1)),
        (1000, np.float32(1e-30), 1000 * float(np.float32(1e-30))),
        (1000, np.float32(1e30), 1000 * float(np.float32(1e30))),
        (2**18, np.float32(16_383), 2**18 * 16_383),
    ],
)
def test_counts_of_weights_do_not_stop_or_wrap(size, weight, wanted):
    """The sum of many weights in one bin is exact, for every dtype and magnitude."""
    value = compute(_count(np.full(size, 1.5, np.float32), np.full(size, weight)))
    exact = np.asarray(value.counts, np.float64) + np.asarray(value.residues, np.float64)
    assert exact.max() == pytest.approx(wanted, rel=2.0**-45)
    assert exact.sum() == exact.max()


def test_a_small_weight_beside_a_large_one_is_counted():
    """A bin of weights nine orders below the largest keeps six digits."""
    weight = np.array([1e9, 0.3, 0.3, 7e8], np.float32)
    counts = compute(_count(np.array([1.0, 100.0, 100.0, 1.0], np.float32), weight)).counts
    np.testing.assert_allclose(np.asarray(counts)[np.asarray(counts) > 0], [1.7e9, 0.6], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_spoils_its_own_bin_alone(bad):
    """The count of its bin is NaN or infinite, the others are right, and no quantile is known."""
    x, weight = np.array([1.0, 2.0, 2.0], np.float32), np.array([0.5, bad, 1.0], np.float32)
    counts = np.asarray(compute(_count(x, weight)).counts)
    np.testing.assert_equal(counts[counts != 0], [0.5, bad])
    assert all(np.isnan(value) for value in compute(jit_of(sowlog.quantiles)(x, weight)).values())


@pytest.mark.parametrize("size", [20, 21, 100, 1001])
def test_a_quantile_is_the_element_of_its_rank_and_not_its_neighbour(size):
    """A step put at the element that holds the share, or just above it, is seen on the right side."""
    percents = (1, 5, 50, 99, 99.9)
    quantiles = jit_of(sowlog.quantiles(percents=percents))
    for percent in percents:
        rank = -(-Fraction(str(percent)) * size // 100)  # The first element, from 1, that holds the share.
        for below, wanted in ((rank - 1, 1000.0), (rank, 1.0)):
            x = np.where(np.arange(size) < below, 1.0, 1000.0).astype(np.float32)
            result = float(compute(quantiles(x))[f"p{percent:g}"])
            assert result == pytest.approx(wanted, rel=ERROR), percent


def test_counts_are_exact_beyond_float32():
    """Ten million in one bin and three more are ten million and three: beyond 2^24 by merging."""
    state = _count(np.full(10_000_000, 1.5, np.float32))
    for _ in range(3):
        state = merge(state, state)
    value = compute(merge(state, _count(np.full(3, 1.5, np.float32))))
    exact = np.asarray(value.counts, np.float64) + np.asarray(value.residues, np.float64)
    assert exact.max() == exact.sum() == 80_000_003


def test_quantiles_are_results_by_name_in_the_buffer():
    """Chosen percentages name the results."""
    tree = {"act": jit_of(sowlog.quantiles(percents=(50, 99.9)))(np.arange(1.0, 1001.0))}
    computed = sowlog.compute(tree)
    assert set(computed) == {"act/p50", "act/p99.9"}
    assert computed["act/p99.9"] == pytest.approx(999.0, rel=ERROR)


@pytest.mark.parametrize(
    ("reducer", "settings", "message"),
    [
        ("histogram", {"sub_bins": 3}, r"histogram\(sub_bins=3\): bins per power of two are 1, 2, 4"),
        ("quantiles", {"sub_bins": 0}, r"quantiles\(sub_bins=0\)"),
        ("quantiles", {"percents": (50, 101)}, r"percents must hold numbers from 0 to 100, got \[101\]"),
        ("quantiles", {"percents": ()}, "percents must hold numbers from 0 to 100, got none"),
    ],
)
def test_impossible_settings_are_refused(reducer, settings, message):
    """The error shows the setting and the allowed values."""
    with pytest.raises(ValueError, match=message):
        getattr(sowlog, reducer)(**settings)


@modes.infinite
def test_values_left_out_of_a_histogram_are_reported():
    """NaN and infinities show up as `<tag>/nonfinite`, and only when there are any."""
    assert set(sowlog.compute({"act": _count(jnp.array([1.0, 2.0]))})) == {"act"}
    computed = sowlog.compute({"act": _count(jnp.array([1.0, jnp.nan, jnp.inf]))})
    assert computed["act/nonfinite"] == 2.0
