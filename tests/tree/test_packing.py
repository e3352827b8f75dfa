"""pack and compute: a tree to one buffer and back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sowlog
from sowlog._tree.layout import ABSENT
from sowlog._tree.losses import LOSS_IN_PASS
from tests.support.oracles import scalar_reducers

REDUCERS = scalar_reducers()


def _decode(packed):
    tags, values = packed.layout.decode(np.asarray(packed.buffer))
    return dict(zip(tags, values.tolist(), strict=True))


def _mixed_tree(count):
    values = np.linspace(-3.0, 5.0, count * 4, dtype=np.float32).reshape(count, 4)
    names = sorted(REDUCERS)
    return {
        f"layer_{i}": {names[i % len(names)]: REDUCERS[names[i % len(names)]].of(row), "raw": float(i)}
        for i, row in enumerate(values)
    }


@pytest.mark.parametrize("count", [1, 9, 70])
def test_every_result_travels_in_one_array(count):
    """A packed tree is one uint32 array whose words decode to each state's own result."""
    tree = _mixed_tree(count)
    packed = jax.jit(sowlog.pack)(tree)
    assert len(jax.tree.leaves(packed)) == 1
    assert packed.buffer.dtype == jnp.uint32
    decoded = _decode(packed)
    assert len(decoded) == 2 * count
    for layer, metrics in tree.items():
        for name, leaf in metrics.items():
            wanted = leaf if name == "raw" else float(leaf.compute())
            assert decoded[f"{layer}/{name}"] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 65, 130])
def test_states_are_stacked_in_their_order(count):
    """Those of one kind a few at a time, whatever their number: single ones, and vectors of states."""
    values = jnp.arange(3.0 * count).reshape(count, 3)
    single = jax.jit(
        lambda rows: sowlog.pack({f"a{i:03}": sowlog.mean.of(row) for i, row in enumerate(rows)})
    )
    packed = single(values)
    assert packed.buffer.shape == (packed.layout.words,) == (count,)
    np.testing.assert_array_equal(list(_decode(packed).values()), np.asarray(values).mean(axis=1))
    each = jax.vmap(sowlog.max.of)
    vectors = jax.jit(lambda rows: sowlog.pack({f"a{i:03}": each(row) for i, row in enumerate(rows)}))
    np.testing.assert_array_equal(list(_decode(vectors(values)).values()), np.asarray(values).ravel())


def test_states_without_elements_are_packed():
    """As those of a stacked loop without steps, beside states that have a value."""
    tree = {
        "loop": jax.vmap(sowlog.mean.of)(jnp.zeros((0, 3))),
        "rows": sowlog.mean(axis=0).of(jnp.zeros((3, 0))),
        "x": sowlog.mean.of(2.0),
    }
    assert _decode(sowlog.pack(tree)) == {"x": 2.0}


def test_sown_scalars_are_packed_in_a_few_loops():
    """XLA computes many in one loop: a loop for each adds a quarter to a step of 1 ms with 1000 of them."""

    @jax.jit
    def step(x):
        x = jnp.tanh(x @ x)
        return x, sowlog.pack({f"a{i}": sowlog.mean.of(x[i % 32, i // 32]) for i in range(640)})

    program = step.lower(jnp.ones((32, 32))).compile().as_text()
    instructions = program[program.index("\nENTRY ") :].splitlines()
    assert len(instructions) < 640 / 8, program


def test_vectors_and_stacks_get_an_index_each():
    """Kept axes, stacked axes and plain arrays end the tag with padded indices, in row-major order."""
    tree = {
        "load": sowlog.mean(axis=0).of([[1.0, 2.0], [3.0, 4.0]]),
        "stack": jax.vmap(sowlog.max.of)(jnp.arange(6.0).reshape(3, 2)),
        "matrix": jnp.array([[1.0, 2.0]]),
    }
    assert _decode(sowlog.pack(tree)) == {
        "load/00": 2.0,
        "load/01": 3.0,
        "stack/00": 1.0,
        "stack/01": 3.0,
        "stack/02": 5.0,
        "matrix/00/00": 1.0,
        "matrix/00/01": 2.0,
    }


class MeanAndPeak(sowlog.Reducer):
    """A reducer with two results."""

    def empty(self):
        return {"mean": sowlog.mean.empty(), "peak": sowlog.max.empty()}

    def from_value(self, value, weight):
        return {"mean": sowlog.mean.from_value(value, weight), "peak": sowlog.max.from_value(value, weight)}

    def merge(self, a, b):
        return {
            "mean": sowlog.mean.merge(a["mean"], b["mean"]),
            "peak": sowlog.max.merge(a["peak"], b["peak"]),
        }

    def compute(self, parts):
        return {"mean": sowlog.mean.compute(parts["mean"]), "peak": parts["peak"]}


def test_named_results_stand_before_the_index():
    """A reducer with several results adds their names, then the index: `act/peak/03`."""
    state = jax.vmap(MeanAndPeak().of)(jnp.array([[1.0, 3.0], [5.0, 9.0]]))
    assert _decode(sowlog.pack({"act": state})) == {
        "act/mean/00": 2.0,
        "act/mean/01": 7.0,
        "act/peak/00": 3.0,
        "act/peak/01": 9.0,
    }


def test_absent_is_not_nan_and_nan_is_not_absent():
    """An absent value has no point; a sown NaN, of any payload, is kept."""
    impostor = jax.lax.bitcast_convert_type(jnp.uint32(ABSENT), jnp.float32)
    tree = {"absent": sowlog.mean.init_fn(), "nan": sowlog.mean.of(jnp.nan), "raw": impostor, "x": 1.0}
    decoded = _decode(jax.jit(sowlog.pack)(tree))
    assert sorted(decoded) == ["nan", "raw", "x"]
    assert np.isnan(decoded["nan"])
    assert np.isnan(decoded["raw"])


def test_elements_of_a_vector_may_be_absent_one_by_one():
    """An expert that received no token has no point; the others have theirs."""
    state = sowlog.mean(axis=0).of([[1.0, 2.0]], weight=[[1, 0]])
    assert _decode(sowlog.pack({"load": state})) == {"load/00": 1.0}


def test_decoding_a_full_buffer_copies_no_tags():
    """Without absences decode returns the layout's own tuple, the key of a writer's cache."""
    packed = sowlog.pack({"a": 1.0, "b": 2.0})
    assert packed.layout.decode(np.asarray(packed.buffer))[0] is packed.layout.scalars


def test_equal_layouts_are_one_object():
    """Two traces of one structure share their layout."""
    assert sowlog.pack({"a": 1.0}).layout is sowlog.pack({"a": 2.0}).layout


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int32", "uint8", "bool"])
def test_plain_scalars_of_every_dtype_are_packed(dtype):
    """Scalars beside the states are converted to float32."""
    assert _decode(sowlog.pack({"x": jnp.ones((), dtype)})) == {"x": 1.0}


def test_an_empty_tree_packs_to_an_empty_buffer():
    """A model that sows nothing logs nothing."""
    packed = jax.jit(sowlog.pack)({})
    assert (packed.layout.scalars, packed.buffer.shape) == ((), (0,))


def test_two_metrics_with_one_tag_are_refused():
    """A slash in a name can meet a path; the tag is named."""
    with pytest.raises(ValueError, match="two metrics have the tag a/b: rename one of them"):
        sowlog.pack({"a": {"b": 1.0}, "a/b": 2.0})


@pytest.mark.parametrize("tree", [1.0, {"": 1.0}])
def test_a_metric_needs_a_name(tree):
    """A bare value, or an empty name, is refused with the dict to write."""
    with pytest.raises(ValueError, match=r'a metric has no name: log a dict, {"loss": value}'):
        sowlog.pack(tree)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (jnp.ones(2000), ValueError, r"act/x has shape \(2000,\).*Reduce it: sowlog.mean.of"),
        (jnp.ones(2, jnp.complex64), TypeError, "act/x has dtype complex64: a metric is a real number"),
        ("high", TypeError, "act/x is str: a metric is a real number, a small array or a state"),
    ],
)
def test_what_is_no_metric_is_refused_by_tag(value, error, message):
    """An array of thousands, a complex number and a string are named with their tag."""
    with pytest.raises(error, match=message):
        sowlog.pack({"act": {"x": value}})


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=3),
        st.floats(width=32, allow_nan=False, allow_subnormal=False),
        max_size=6,
    )
)
def test_any_tag_and_value_survives(values):
    """Tags are not mangled and float32 values come back bit for bit."""
    decoded = _decode(sowlog.pack({tag: jnp.float32(value) for tag, value in values.items()}))
    assert decoded == values


def test_packing_leaves_the_step_without_callbacks():
    """Nothing in the step calls back to the host."""

    class Sower(nn.Module):
        def __call__(self, x):
            for name, reducer in REDUCERS.items():
                sowlog.sow(self, name, x, reducer)

    def step(x):
        return sowlog.pack(sowlog.collect(Sower().apply)({}, x)[1])

    text = jax.jit(step).lower(jnp.ones(3)).as_text()
    assert "callback" not in text
    assert "custom_call" not in text


def test_stacked_losses_and_others_share_one_total():
    """In plain Flax the losses of scanned layers are stacked, and those of other modules are not: one sum."""
    losses = {"head": LOSS_IN_PASS.of(1.0), "blocks": jax.vmap(LOSS_IN_PASS.of)(jnp.array([2.0, 4.0]))}
    computed = sowlog.compute({"losses": losses})
    assert computed["losses/total"] == sowlog.total_loss({"losses": losses}) == 7.0
