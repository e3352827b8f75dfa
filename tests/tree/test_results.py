"""compute: the results of a tree by tag."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog._tree import results


def test_compute_of_concrete_states_leaves_out_what_was_not_sown():
    """The result is a NumPy scalar by tag."""
    computed = sowlog.compute({"a": {"b": sowlog.mean.of([1.0, 3.0]), "c": sowlog.max.init_fn()}})
    assert computed == {"a/b": np.float32(2.0)}
    assert isinstance(computed["a/b"], np.float32)


def test_compute_of_traced_states_gives_traced_scalars():
    """Inside jit the results are scalars by tag, NaN where nothing was sown."""

    @jax.jit
    def step(x):
        return sowlog.compute({"a": sowlog.mean.of(x), "b": sowlog.max.init_fn(), "c": x[0] > 0})

    computed = step(jnp.array([1.0, 3.0]))
    assert float(computed["a"]) == 2.0
    assert np.isnan(computed["b"])
    assert float(computed["c"]) == 1.0


def test_compute_of_a_traced_packed_tree_reads_its_buffer():
    """Its words, in a few equations."""

    def step(x):
        packed = sowlog.pack({"a": sowlog.rms.of(x), "b": sowlog.max.init_fn()})
        equations = len(jax.make_jaxpr(sowlog.compute)(packed).eqns)
        return sowlog.compute(packed), equations

    computed, equations = step(jnp.array([1.0, 7.0]))
    assert computed == {"a": np.float32(5.0)}
    assert equations <= 5, equations
    computed, _ = jax.jit(step)(jnp.array([1.0, 7.0]))
    assert float(computed["a"]) == 5.0
    assert np.isnan(computed["b"])


def test_what_is_concrete_is_computed_while_something_else_is_traced():
    """Results of an earlier step are numbers inside of a jitted function too."""
    earlier = {"loss": sowlog.mean.of(2.0), "lr": 0.5}
    assert jax.jit(lambda x: x + sum(sowlog.compute(earlier).values()))(1.0) == 3.5


@pytest.fixture
def packed():
    """Return a packed tree with a histogram and something absent, and its results."""
    tree = {
        "loss": sowlog.mean.of([1.0, 2.0]),
        "absent": sowlog.max.init_fn(),
        "h": sowlog.histogram.of(jnp.arange(8.0)),
    }
    return jax.jit(sowlog.pack)(tree), sowlog.compute(tree)


def _same(computed, expected):
    assert list(computed) == list(expected)
    for a, b in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_compute_reads_what_is_packed(packed):
    """The same results as of the tree that was packed: on the device, fetched, and under a prefix."""
    packed, expected = packed
    assert sorted(expected) == ["h", "loss"]
    under = {f"train/{tag}": value for tag, value in expected.items()}
    for each in (packed, jax.device_get(packed)):
        _same(sowlog.compute(each), expected)
        _same(sowlog.compute({"train": each}), under)
        _same(sowlog.compute(sowlog.pack(each)), expected)
        _same(sowlog.compute(jax.jit(lambda p: sowlog.pack({"train": p}))(each)), under)


def test_compute_decodes_what_is_packed_while_tracing(packed):
    """Under jit the values by tag, NaN where nothing was sown; a step's results may be read in the next."""
    packed, expected = packed
    computed = jax.jit(sowlog.compute)(packed)
    assert np.isnan(computed.pop("absent"))
    assert float(computed["loss"]) == expected["loss"] == 1.5
    np.testing.assert_array_equal(computed["h"].counts, expected["h"].counts)
    assert jax.jit(lambda x: x + sowlog.compute(packed)["loss"])(1.0) == 2.5


def test_what_is_packed_joins_other_metrics(packed):
    """Pack includes it under its place: nothing is recomputed, and absent results stay absent."""
    packed, expected = packed
    both = sowlog.compute(jax.jit(sowlog.pack)({"train": packed, "lr": 0.5, "eval": sowlog.max.of(3.0)}))
    under = {f"train/{tag}": value for tag, value in expected.items()}
    assert {tag: both[tag] for tag in ("lr", "eval")} == {"lr": 0.5, "eval": 3.0}
    _same({tag: both[tag] for tag in under}, under)
    with pytest.raises(ValueError, match="two metrics have the tag train/loss: rename one"):
        sowlog.pack({"train": packed, "train/loss": 1.0})
    with pytest.raises(ValueError, match="two metrics have the tag train/loss: rename one"):
        sowlog.compute({"train": packed, "train/loss": 1.0})


def test_what_is_packed_does_not_merge(packed):
    """Results are no states: every function that merges names the place and the order to write."""
    packed, _ = packed
    state = {"train": sowlog.mean.of(1.0)}
    functions = {
        "merge": lambda: sowlog.merge({"train": packed}, {"train": packed}),
        "merge on the right": lambda: sowlog.merge(state, {"train": packed}),
        "empty_like": lambda: sowlog.empty_like({"train": packed}),
        "empty_like of shapes": lambda: sowlog.empty_like(jax.eval_shape(lambda: {"train": packed})),
        "all_reduce": lambda: jax.vmap(
            lambda x: sowlog.all_reduce({"train": sowlog.pack({"x": x})}, "b"), axis_name="b"
        )(jnp.ones(2)),
        "assert_invariant": lambda: sowlog.testing.assert_invariant(
            lambda x: {"train": sowlog.pack({"x": jnp.sum(x)})}, jnp.ones(2)
        ),
    }
    for function in functions.values():
        with pytest.raises(TypeError, match=r"train is a packed tree.*sowlog.pack\(sowlog.merge\(a, b\)\)"):
            function()
    step = sowlog.accumulate(lambda params, x: {"train": sowlog.pack({"x": x})}, 2)
    with pytest.raises(TypeError, match=r"result\['train'\] is a packed tree.*pack the result of accumulate"):
        step(1.0, jnp.ones(2))


def test_results_of_several_steps_are_refused():
    """A scan has stacked them; each can be taken by itself, inside of a transform too."""
    stacked = jax.lax.map(lambda x: sowlog.pack({"x": x}), jnp.arange(3.0))
    for take in (sowlog.compute, sowlog.pack, jax.jit(sowlog.compute)):
        for tree in (stacked, {"train": stacked}):
            with pytest.raises(ValueError, match=r"of shape \(3, 1\) was (comput|pack)ed.*leaf\[i\]"):
                take(tree)
    assert sowlog.compute(jax.tree.map(lambda leaf: leaf[2], stacked)) == {"x": 2.0}
    np.testing.assert_array_equal(jax.vmap(sowlog.compute)(stacked)["x"], [0.0, 1.0, 2.0])


def test_compute_compiles_no_names(monkeypatch):
    """Trees of other names share one program."""
    # A cache that other tests do not fill.
    programs = results._Programs(3)
    monkeypatch.setattr(results, "_programs", programs)
    sowlog.compute({"a0": sowlog.rms.of([1.0, 1.0])})
    for step in range(1, 4):
        assert sowlog.compute({f"a{step}": sowlog.rms.of([1.0, 1.0])}) == {f"a{step}": 1.0}
    assert programs.traced == 1
