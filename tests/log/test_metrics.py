"""The metrics of one `log` call."""

import collections
import dataclasses
import decimal
import enum
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog._log.metrics import prepare
from sowlog._tree import results
from sowlog._tree.losses import LOSS
from sowlog._tree.results import _Programs


def _decode(packed):
    tags, values = packed.layout.decode(np.asarray(packed.buffer))
    return dict(zip(tags, values.tolist(), strict=True))


def test_prepare_keeps_host_numbers_on_the_host():
    """Python and NumPy numbers never visit the device; the rest is packed in one array."""
    tree = {"opt": {"lr": 0.1, "epoch": np.int64(3)}, "loss": sowlog.mean.of(2.0), "v": np.array([1.0, 2.0])}
    with jax.transfer_guard("disallow"):
        packed, numbers = prepare(tree)
    assert numbers == {"opt/lr": 0.1, "opt/epoch": 3.0, "v/00": 1.0, "v/01": 2.0}
    assert _decode(packed) == {"loss": 2.0}


def test_prepare_passes_a_packed_tree_through():
    """A tree packed in the step is not packed again."""
    packed = sowlog.pack({"loss": 1.0})
    assert prepare(packed) == (packed, {})
    assert prepare({"lr": 0.5}) == (None, {"lr": 0.5})


def test_names_are_no_part_of_what_is_compiled(monkeypatch):
    """Steps with other names of metrics, states and losses share one program, and keep their own names."""

    def metrics(name, x):
        loss = {"losses": {name: LOSS.of(x)}}
        return {name: {"loss": sowlog.mean.of(x)}, f"{name}_raw": jnp.full((2,), x), **loss}

    # A cache that other tests do not fill.
    programs = _Programs(3)
    monkeypatch.setattr(results, "_programs", programs)
    prepare(metrics("task_0", 1.0))
    for step in range(1, 4):
        packed, _ = prepare(metrics(f"task_{step}", float(step)))
        assert _decode(packed) == {
            f"task_{step}/loss": step,
            f"task_{step}_raw/00": step,
            f"task_{step}_raw/01": step,
            f"losses/task_{step}": step,
            f"losses/task_{step}/weighted": step,
            "losses/total": step,
        }
    assert programs.traced == 1


def test_programs_differ_by_reducer_dtype_shape_and_losses():
    """Another reducer, dtype, shape or tree of losses under equal names is another program."""
    leaves = [sowlog.mean.of(3.0), sowlog.max.of(3.0), jnp.float32(3.0), jnp.int32(3), jnp.full((1,), 3.0)]
    for leaf in leaves:
        assert list(_decode(prepare({"x": leaf})[0]).values()) == [3.0]
    one = {"losses": {"a": LOSS.of(1.0), "b": LOSS.of(2.0)}}
    two = {"x": {"losses": {"a": LOSS.of(1.0)}}, "y": {"losses": {"a": LOSS.of(2.0)}}}
    assert _decode(prepare(one)[0])["losses/total"] == 3.0
    assert [_decode(prepare(two)[0])[f"{name}/losses/total"] for name in "xy"] == [1.0, 2.0]


def test_one_layout_is_one_object_at_every_step():
    """Writers cache by a layout's tags."""
    layouts = [prepare({"loss": jnp.float32(step), "lr": 0.1})[0].layout for step in range(3)]
    assert layouts[0] is layouts[1] is layouts[2]


def test_the_programs_kept_are_bounded():
    """Each new shape compiles a program, and the oldest programs are dropped."""
    programs = _Programs(3)
    for size in range(1, 11):
        unnamed = programs([np.ones(size, np.float32)], ())
        assert unnamed.buffer.shape == (size,)
        assert programs._run._cache_size() <= 3
    assert programs([np.ones(10, np.float32)], ()).buffer.shape == (10,)


def test_prepare_refuses_a_packed_tree_inside_a_tree():
    """The remedy is to pack everything together."""
    with pytest.raises(TypeError, match=r"add the other metrics before packing, `sowlog.pack\({\*\*metrics"):
        prepare({"train": sowlog.pack({"loss": 1.0}), "lr": 0.1})


def test_one_tag_on_host_and_device_is_refused():
    """A host number cannot hide a device value of its tag."""
    with pytest.raises(ValueError, match="two metrics have the tag a/b"):
        prepare({"a": {"b": 1.0}, "a/b": jnp.ones(())})


def test_buffers_of_several_steps_are_refused():
    """A scan over steps stacks their buffers, which belong to no single step."""
    stacked = jax.vmap(lambda x: sowlog.pack({"a": x, "b": -x}))(jnp.arange(3.0))
    with pytest.raises(ValueError, match=r"of shape \(3, 2\) was logged.*merge their states and pack once"):
        prepare(stacked)
    assert prepare(jax.tree.map(lambda leaf: leaf[1], stacked))[0].buffer.shape == (2,)


def test_two_host_numbers_of_one_tag_are_refused():
    """The later one would replace the other silently."""
    with pytest.raises(ValueError, match="two metrics have the tag a/b: rename one of them"):
        prepare({"a": {"b": 1.0}, "a/b": 2.0})


def test_a_fetched_packed_tree_is_logged():
    """jax.device_get returns a NumPy buffer, of which the record holds a copy."""
    fetched = jax.device_get(sowlog.pack({"loss": 2.0}))
    buffer = np.array(fetched.buffer)
    packed, _ = prepare(sowlog.Packed(buffer, fetched.layout))
    buffer[:] = 0
    assert _decode(packed) == {"loss": 2.0}


def test_a_packed_tree_that_pack_did_not_make_is_refused():
    """The error names arithmetic on the bits, a part of them, or a missing array."""
    packed = sowlog.pack({"a": 1.0, "b": 2.0})
    with pytest.raises(TypeError, match=r"dtype float32 was logged.*sowlog.pack\(sowlog.merge\(a, b\)\)"):
        prepare(jax.tree.map(lambda leaf: leaf / 2, packed))
    with pytest.raises(ValueError, match=r"1 words was logged, and its layout has 2: use the whole"):
        prepare(jax.tree.map(lambda leaf: leaf[:1], packed))
    with pytest.raises(TypeError, match="without an array was logged; its buffer is ShapeDtypeStruct"):
        prepare(jax.eval_shape(lambda: packed))


@dataclasses.dataclass
class Score:
    """A class that is no pytree, and so a leaf."""

    loss: float = 1.0


NO_METRICS = {
    "a string": ("high", "x/y is str: a metric is a real number.*not 'high'"),
    "a Decimal": (decimal.Decimal(1), r"x/y is Decimal: .*not Decimal\('1'\)\. Write float\(...\) of it"),
    "a set": ({1}, r"x/y is set: .*not \{1\}"),
    "a dataclass": (Score(), r"x/y is Score: .*Write dataclasses.asdict\(...\)"),
    "a mapping": (types.MappingProxyType({"a": 1}), r"x/y is mappingproxy: .*Write dict\(...\)"),
    "a complex number": (1j, r"x/y (is complex|has dtype complex64): .*abs\(x\), x.real or x.imag"),
    "a complex array": (np.ones(2, np.complex64), "x/y has dtype complex64: .*x.real or x.imag"),
    "a complex device array": (jnp.ones(2, jnp.complex64), "x/y has dtype complex64: .*x.real or x.imag"),
    "objects": (np.array([1, None]), r"x/y has dtype object: .*np.asarray\(x, np.float32\)"),
    "text": (np.array("a"), "x/y has dtype <U1: a metric is a real number"),
    "a key": (jax.random.key(0), "x/y has dtype key<fry>: .*leave it out"),
    "a masked array": (np.ma.array([1.0], mask=[1]), r"x/y is a masked array.*x.compressed\(\)"),
    "a function": (len, "x/y is builtin_function_or_method: a metric is"),
    "a type": (float, "x/y is type: a metric is a real number"),
    "shapes": (jax.ShapeDtypeStruct((), "float32"), "x/y is ShapeDtypeStruct: a metric is"),
}


@pytest.mark.parametrize("take", [prepare, sowlog.pack, sowlog.compute])
@pytest.mark.parametrize("case", NO_METRICS)
def test_a_leaf_that_is_no_metric_is_named(take, case):
    """The errors of `log`, `pack` and `compute` have the tag, the type, the value and the remedy."""
    value, message = NO_METRICS[case]
    with pytest.raises(TypeError, match=message) as raised:
        take({"x": {"y": value}, "ok": jnp.ones(())})
    assert str(raised.value).endswith(".")
    assert "leaf" not in str(raised.value)


def test_a_long_value_is_shortened():
    """An error is one line for any value."""
    with pytest.raises(TypeError, match=r"not 'aaa.* \.\.\.\.$") as raised:
        prepare({"x": "a" * 10_000})
    assert len(str(raised.value)) < 250


def test_large_arrays_are_refused_wherever_they_are():
    """On the host, on the device, and as stacked or kept states: each element would be a tag."""
    states = jax.vmap(jax.vmap(sowlog.mean.of))(jnp.ones((5, 300, 2)))
    message = r'x is an array of states of shape \(5, 300\).*sowlog.all_reduce\(step\(x\), "b"\)'
    for take in (prepare, sowlog.pack, sowlog.compute):
        for array in (np.ones(1025), jnp.ones(1025)):
            with pytest.raises(ValueError, match=r"x has shape \(1025,\).*Reduce it"):
                take({"x": array})
        with pytest.raises(ValueError, match=message):
            take({"x": states})
        kept = sowlog.mean(axis=0).of(jnp.ones((2, 1025)))
        with pytest.raises(ValueError, match=r"shape \(1025,\).*that mean\(axis=0\) keeps: reduce them"):
            take({"x": kept})
    assert len(sowlog.pack({"x": jax.vmap(sowlog.mean.of)(jnp.ones((1024, 2)))}).layout.scalars) == 1024


def test_the_merge_over_an_axis_that_the_message_names_gives_one_number():
    """A model of one example, vmapped, becomes one state."""

    def step(x):
        return {"x": sowlog.mean.of(x)}

    mapped = jax.vmap(lambda x: sowlog.all_reduce(step(x), "b"), axis_name="b", out_axes=None)
    assert sowlog.compute(mapped(jnp.arange(2048.0))) == {"x": 1023.5}


@pytest.mark.parametrize("large", [2**70, -(2**70), 2**64])
def test_integers_of_any_size_are_numbers(large):
    """On the host and in JAX, without a wrap or an error."""
    assert prepare({"x": large}) == (None, {"x": float(large)})
    assert sowlog.compute({"x": large}) == {"x": np.float32(large)}
    assert sowlog.compute(sowlog.pack({"x": large})) == {"x": np.float32(large)}


def test_an_integer_beyond_float64_is_refused_by_tag():
    """No float is near 10^400."""
    with pytest.raises(ValueError, match=r"x is an integer of 1329 bits.*math.log10\(x\)"):
        prepare({"x": 10**400})


def test_a_dict_whose_keys_have_no_order_is_refused():
    """JAX sorts keys; keys that are all numbers are names."""
    assert prepare({1: 2.0, 2: 3.0}) == (None, {"1": 2.0, "2": 3.0})
    with pytest.raises(TypeError, match=r"keys of several types.*\{str\(key\): value"):
        prepare({1: 2.0, "a": 3.0})


class Name(str, enum.Enum):  # noqa: UP042  # StrEnum prints its text
    """An enumeration whose member equals its text and prints differently."""

    LOSS = "loss"


def test_equal_structures_have_their_own_names():
    """JAX treats the keys 1, 1.0 and True as equal; a name does not depend on earlier trees."""
    for _ in range(2):
        for key, tag in ((1, "1"), (1.0, "1.0"), (True, "True")):
            for value in (2.0, jnp.full((), 2.0)):
                packed, numbers = prepare({key: value})
                assert (numbers or _decode(packed)) == {tag: 2.0}
        for text in ("loss", Name.LOSS):
            assert prepare({text: 2.0}) == (None, {"loss": 2.0})


@pytest.mark.parametrize("value", [1.0, jnp.ones(())])
def test_a_tag_that_no_file_can_hold_is_refused(value):
    """Half of a surrogate pair fails here and not on the writer thread; other characters are kept."""
    with pytest.raises(ValueError, match=r"the tag 'bad\\ud800' holds half of a surrogate pair"):
        prepare({"bad\ud800": value})
    packed, numbers = prepare({"a b:\0\n/\U0001f600": value})
    assert [*numbers, *(packed.layout.scalars if packed else ())] == ["a b:\0\n/\U0001f600"]


def test_none_is_no_tree_and_no_value():
    """The error suggests a missing return; a None inside a tree is empty, as in every pytree."""
    for take in (prepare, sowlog.pack, sowlog.compute):
        with pytest.raises(TypeError, match=r'the metrics are None.*give a dict, \{"loss": value\}'):
            take(None)
    assert prepare({"a": None, "b": 1.0}) == (None, {"b": 1.0})


def test_mappings_that_are_pytrees_are_trees():
    """Subclasses of dict and named tuples."""
    Pair = collections.namedtuple("Pair", "loss accuracy")
    assert prepare(collections.OrderedDict(b=1.0, a=Pair(2.0, 3.0)))[1] == {
        "b": 1.0,
        "a/loss": 2.0,
        "a/accuracy": 3.0,
    }


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, lambda f: lambda x: jax.lax.map(f, x)])
@pytest.mark.parametrize("metrics", [lambda x: x, sowlog.mean.of])
def test_a_traced_metric_is_refused_by_tag(transform, metrics):
    """`log` runs on the host, and inside of a transform a value does not exist yet."""
    message = r"a/x is traced, so it has no value yet.*Return sowlog.pack\(metrics\)"
    with pytest.raises(TypeError, match=message):
        transform(lambda x: prepare({"a": {"x": metrics(x)}, "b": 1.0}))(jnp.ones(3))
    with pytest.raises(TypeError, match="a packed tree is traced, so it has no value yet"):
        transform(lambda x: prepare(sowlog.pack({"x": metrics(x)})))(jnp.ones(3))


def test_a_leaked_tracer_is_refused_by_tag():
    """A tracer kept from inside of a transform has no value outside either."""
    kept = []
    jax.jit(kept.append)(1.0)
    with pytest.raises(TypeError, match="x is traced, so it has no value yet"):
        prepare({"x": kept[0]})


def test_a_donated_array_is_refused_by_tag():
    """The error names a deleted array before it reaches the writer thread."""
    for make in (jnp.ones, sowlog.mean.of):
        leaf = make(3)
        jax.tree.map(lambda array: array.delete(), leaf)
        for take in (prepare, sowlog.compute):
            with pytest.raises(RuntimeError, match=r"b is an array that was deleted.*donate_argnums"):
                take({"a": jnp.ones(()), "b": leaf})
    packed = sowlog.pack({"x": 1.0})
    packed.buffer.delete()
    for take in (prepare, sowlog.compute):
        with pytest.raises(RuntimeError, match=r"whose buffer is deleted.*Leave it out of donate_argnums"):
            take(packed)


def test_leaves_on_two_devices_are_named():
    """No program takes both arrays; the remedy is to pack in the step."""
    a, b = (jax.device_put(1.0, device) for device in jax.devices()[:2])
    with pytest.raises(ValueError, match=r"a lies on .*0 and b on .*1.*sowlog.pack\(metrics\)"):
        prepare({"a": a, "b": b})


def test_a_matrix_is_its_elements():
    """np.matrix, which reductions of scipy.sparse return, keeps two axes when it is raveled."""
    assert prepare({"x": np.array([[1.0, 2.0]]).view(np.matrix)})[1] == {"x/00/00": 1.0, "x/00/01": 2.0}


def test_a_duration_is_no_number():
    """NumPy counts durations among the integers."""
    with pytest.raises(TypeError, match=r"x has dtype timedelta64\[s\].*x / np.timedelta64"):
        prepare({"x": np.timedelta64(5, "s")})
