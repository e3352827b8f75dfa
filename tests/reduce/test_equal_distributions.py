"""Histograms and quantiles of the same elements on several ways, compared with each other."""

import jax
import numpy as np
import pytest

import sowlog
from tests.support.jitted import compute, jit_of, merge
from tests.support.oracles import DISTRIBUTIONS

each_distribution = pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
# The quantiles' stated relative error, half a bin.
ERROR = 1 / 64


# The numbers themselves are tested in test_distributions.py.
pytestmark = pytest.mark.usefixtures("light_compilation")

_count = jit_of(sowlog.histogram)


@pytest.mark.parametrize("weight_dtype", ["float32", "int32", "bool"])
def test_weights_weigh_the_counts(weight_dtype):
    """A weight counts an element so much, and a NaN of weight 0 not at all."""
    x = np.array([1.0, 2.0, np.nan, 5.0], np.float32)
    weight = np.array([1, 3, 0, 2]).astype(weight_dtype)
    value = compute(_count(x, weight))
    repeated = compute(_count(np.repeat(x[[0, 1, 3]], weight[[0, 1, 3]].astype(int))))
    for field in ("counts", "sum", "sum_squares", "min", "max", "nan"):
        np.testing.assert_array_equal(getattr(value, field), getattr(repeated, field))
    median = compute(jit_of(sowlog.quantiles)(x, weight))["p50"]
    assert float(median) == pytest.approx(2.0, rel=ERROR)


WEIGHTINGS = {
    "repeated": lambda x: jit_of(sowlog.quantiles)(np.repeat(x, 3)),
    "merged": lambda x: merge(jit_of(sowlog.quantiles)(x[:7]), jit_of(sowlog.quantiles)(x[7:])),
    "bool": lambda x: jit_of(sowlog.quantiles)(x, np.ones(x.size, bool)),
    "uint32": lambda x: jit_of(sowlog.quantiles)(x, np.full(x.size, 2**30, np.uint32)),
    **{
        f"float {scale}": lambda x, scale=scale: jit_of(sowlog.quantiles)(
            x, np.full(x.size, scale, np.float32)
        )
        for scale in (1e-30, 0.1, 1 / 3, 7.0, 1e30)
    },
}


@pytest.mark.parametrize("way", WEIGHTINGS)
@pytest.mark.parametrize("size", [21, 1000])
def test_a_quantile_is_a_property_of_the_distribution(way, size):
    """Counted, merged, weighted by any number, jitted or not, a quantile is one and the same element."""
    ranks = np.arange(size, dtype=np.float32) + 1
    wanted = compute(jit_of(sowlog.quantiles)(ranks))
    state = WEIGHTINGS[way](ranks)
    for results in (compute(state), state.compute()):
        assert {name: float(value) for name, value in results.items()} == {
            name: float(value) for name, value in wanted.items()
        }


@each_distribution
def test_parts_merge_to_the_whole(name):
    """The distribution of two halves, merged, is that of all, count by count."""
    x = np.random.default_rng(0).lognormal(0.0, 3.0, 10_001).astype(np.float32)
    of = jit_of(getattr(sowlog, name))
    merged = compute(merge(of(x[:3000]), of(x[3000:])))
    for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(compute(of(x))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@each_distribution
def test_kept_axes_have_their_own_distribution(name):
    """`axis=0` keeps the columns: each has the distribution of its own elements."""
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    reducer = getattr(sowlog, name)
    kept = jax.tree.map(lambda leaf: leaf[1], compute(jit_of(reducer(axis=0))(x)))
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(compute(jit_of(reducer)(x[:, 1]))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def _assert_same_histogram(actual, wanted):
    np.testing.assert_array_equal(actual.counts, np.asarray(wanted.counts, np.float64) + wanted.residues)
    for field in ("min", "max", "sum", "sum_squares", "nan", "positive_inf", "negative_inf"):
        np.testing.assert_array_equal(getattr(actual, field), getattr(wanted, field))


def test_histograms_travel_in_the_same_buffer():
    """Scalars and histograms share one array; stacked ones have an index, absent ones are left out."""
    x = np.random.default_rng(0).normal(3.0, 10.0, (3, 10)).astype(np.float32)
    tree = {
        "act": _count(x),
        "stack": jax.jit(jax.vmap(sowlog.histogram(sub_bins=2).of))(x),
        "none": sowlog.histogram.init_fn(),
        "loss": sowlog.mean.of(2.0),
    }
    packed = jax.jit(sowlog.pack)(tree)
    words = np.asarray(packed.buffer)
    assert len(jax.tree.leaves(packed)) == 1
    tags, values = packed.layout.decode(words)
    assert dict(zip(tags, values.tolist(), strict=True)) == {"loss": 2.0}
    histograms = packed.layout.decode_histograms(words)
    assert sorted(histograms) == ["act", "stack/00", "stack/01", "stack/02"]
    _assert_same_histogram(histograms["act"], compute(tree["act"]))
    second = compute(jax.tree.map(lambda leaf: leaf[1], tree["stack"]))
    _assert_same_histogram(histograms["stack/01"], second)
    assert histograms["stack/01"].edges.size == histograms["stack/01"].counts.size + 1


def test_histograms_compute_under_jit():
    """Inside jit compute returns traced histograms, equal to the concrete ones."""
    x = np.random.default_rng(0).normal(3.0, 10.0, 100).astype(np.float32)
    traced = jax.jit(lambda x: sowlog.compute({"act": sowlog.histogram.of(x)}))(x)["act"]
    _assert_same_histogram(sowlog.compute({"act": _count(x)})["act"], traced)
