"""Meshes with Explicit axes, and JAX's modes of strictness and debugging: neither changes a number."""

import contextlib
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import sowlog
from sowlog._reduce import state
from tests.support import modes
from tests.support.matrix import cases
from tests.support.oracles import public_reducers

# All tests here compare a program with itself, on another mesh or under a mode.
pytestmark = pytest.mark.usefixtures("light_compilation")

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


class Peak(sowlog.Reducer):
    """A user's reducer without code for meshes: it indexes an array that may be sharded."""

    def empty(self):
        return jnp.zeros(())

    def from_value(self, value, weight):
        return value.ravel()[-1]

    def merge(self, a, b):
        return a + b

    def compute(self, parts):
        return parts


def _coarse(reducer):
    """Return a reducer with few bins, which compiles faster."""
    return reducer(sub_bins=1) if hasattr(reducer, "sub_bins") else reducer


REDUCERS = {name: _coarse(reducer) for name, reducer in public_reducers().items()} | {"peak": Peak()}
SOME = {name: REDUCERS[name] for name in ("last", "quantiles", "peak")}


def _mesh():
    return jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))


def _whole(x):
    return {name: reducer.of(x) for name, reducer in REDUCERS.items()}


def _kept_and_masked(x):
    """Keep an axis each way, and mask by one column; the mask of a row is the same for all its elements."""
    mask = jnp.mean(x, axis=1, keepdims=True) > 0
    return {
        name: {"rows": reducer(axis=1).of(x), "columns": reducer(axis=0).of(x, weight=mask)}
        for name, reducer in SOME.items()
    }


def _merged(x):
    def states(x):
        return {name: reducer.of(x) for name, reducer in SOME.items()}

    start = sowlog.empty_like(jax.eval_shape(states, x))
    return jax.lax.scan(lambda total, i: (sowlog.merge(total, states(i * x)), None), start, jnp.arange(3.0))[
        0
    ]


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.ones, (4,))
        sowlog.sow(self, "last", x, sowlog.last)
        sowlog.sow_loss(self, "penalty", jnp.mean((x @ w) ** 2))
        return x @ w


def _step(params, x):
    def objective(params):
        y, updates = sowlog.collect(Model().apply)({"params": params}, x)
        return jnp.mean(y) + sowlog.total_loss(updates), {"y": SOME["quantiles"].of(y), **updates}

    gradients, updates = jax.grad(objective, has_aux=True)(params)
    return {"gradient": gradients["w"], **updates}


def _accumulated(parts):
    return lambda x: sowlog.accumulate(_step, parts)({"w": jnp.ones(4)}, x)


PROGRAMS = {
    "every reducer": _whole,
    "kept axes and masks": _kept_and_masked,
    "merged in a scan": _merged,
    "vmap": lambda x: sowlog.merge(*[{n: jax.vmap(r.of)(x) for n, r in SOME.items()}] * 2),
    "accumulate": _accumulated(2),
    "accumulate, too few examples to share": _accumulated(4),
    "arrays": lambda x: {
        "matrix": x,
        "column": jnp.sum(x, axis=1),
        "state": sowlog.mean.of(x),
        "number": 1.0,
    },
}


def _decoded(packed):
    words = np.asarray(packed.buffer)
    found = dict(zip(packed.layout.scalars, words.view(np.float32), strict=False))
    return found | {tag: value.counts for tag, value in packed.layout.decode_histograms(words).items()}


def _assert_equal(found, wanted):
    assert set(found) == set(wanted)
    for tag, value in wanted.items():
        np.testing.assert_allclose(found[tag], value, rtol=1e-5, atol=1e-6, err_msg=tag)


@pytest.mark.parametrize("program", list(PROGRAMS))
def test_an_explicitly_sharded_batch_has_the_same_numbers(program):
    """Whichever axis is sharded, with jax.set_mesh and without."""
    step = jax.jit(lambda x: sowlog.pack(PROGRAMS[program](x)))
    wanted = _decoded(step(X))
    mesh = _mesh()
    for spec, context in (("data", jax.set_mesh(mesh)), (None, contextlib.nullcontext())):
        with context:
            x = jax.device_put(X, NamedSharding(mesh, PartitionSpec(spec, None if spec else "data")))
            _assert_equal(_decoded(step(x)), wanted)


def test_eager_code_has_the_same_numbers():
    """Outside of jit the devices come from the arrays."""
    x = jax.device_put(X, NamedSharding(_mesh(), PartitionSpec("data")))
    found = sowlog.compute({"last": sowlog.last.of(x).merge(sowlog.last.of(2 * x))})
    assert found == {"last": 2 * X[-1, -1]}


def test_replicas_of_an_explicit_mesh_are_reduced():
    """shard_map makes the axes Manual, and checks that the result is equal on all replicas."""
    mesh = _mesh()
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
        reduced = jax.shard_map(
            lambda x: sowlog.all_reduce({n: r.of(x) for n, r in SOME.items()}, "data"),
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec(),
        )
        found = _decoded(jax.jit(lambda x: sowlog.pack(reduced(x)))(x))
    rows = {n: [r.of(row) for row in X.reshape(4, 2, 4)] for n, r in SOME.items()}
    merged = {n: a.merge(b).merge(c).merge(d) for n, (a, b, c, d) in rows.items()}
    _assert_equal(found, _decoded(sowlog.pack(merged)))


def test_errors_stay_as_they_are_on_a_mesh():
    """The error for a leaf that is not an array has its tag, and does not come from JAX."""
    with jax.set_mesh(_mesh()), pytest.raises(TypeError, match="a is str: a metric is a real number"):
        sowlog.pack({"a": "text", "b": jnp.ones(4)})


def _refusing():
    """Enter all modes that only add errors at once: each error names its mode."""
    stack = contextlib.ExitStack()
    for mode in (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
        jax.debug_infs(True),
        jax.enable_checks(True),
        jax.transfer_guard("disallow"),
        jax.legacy_prng_key("error"),
    ):
        stack.enter_context(mode)
    return stack


@contextlib.contextmanager
def _configured(name, value):
    """Set one of JAX's settings that has no context manager."""
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


SETTINGS = {
    "jax_default_matmul_precision": "bfloat16",
    "jax_explicit_x64_dtypes": "error",
    "jax_debug_key_reuse": True,
}
# Each costs ten seconds, and most compilations are not cached: `make matrix` runs all.
MODES = {
    "modes that refuse": _refusing,
    "jax_enable_x64": lambda: jax.enable_x64(True),
    "jax_check_tracer_leaks": jax.checking_leaks,
    "jax_disable_jit": jax.disable_jit,
    **{name: functools.partial(_configured, name, value) for name, value in SETTINGS.items()},
}


def _mode_states(x, mask):
    """Sow by every reducer, whole, masked, in half precision, and nothing at all; and by integer weights."""
    weight = jnp.where(mask, jnp.int32(2), jnp.int32(0))
    states = {
        name: {
            "x": reducer.of(x).merge(reducer.of(x.astype(jnp.bfloat16), weight=mask)),
            "absent": reducer.of(x, weight=jnp.zeros_like(mask)).merge(reducer.init_fn()),
        }
        for name, reducer in REDUCERS.items()
        if name != "peak"
    }
    counted = {name: REDUCERS[name].of(x, weight=weight) for name in ("mean", "last", "histogram")}
    return {**states, "counted": counted, "plain": {"float": 1.0, "int": 2, "bool": True}}


def _mode_step(params, x, mask, key):
    """Train on microbatches, with a branch that sows, and merge into a window."""

    def gradient(params, x, mask, key):
        updates = _step(params, x + jax.random.uniform(key, x.shape, jnp.float32))
        return updates.pop("gradient"), {**updates, "mask": sowlog.mean.of(mask)}

    gradients, updates = sowlog.accumulate(gradient, 2)(params, x, mask, key)
    window = sowlog.merge(sowlog.empty_like(updates), updates)
    half = sowlog.accumulate(lambda w, x: jnp.sum(w * x), 2)(
        gradients.astype(jnp.bfloat16)[0], x.astype(jnp.bfloat16)
    )
    return sowlog.pack({"states": _mode_states(x, mask), "half": half, **window})


@modes.wide
@pytest.mark.parametrize("mode", cases(MODES, default=["modes that refuse"]))
def test_a_mode_of_jax_changes_no_number(mode):
    """A step runs under the mode in jit, and reducers in plain Python; absent results raise nothing."""
    arguments = {"w": jnp.ones(4)}, jnp.asarray(X), jnp.asarray(X[:, :1] > 0), jax.random.key(0)
    nothing, wanted = jnp.zeros_like(arguments[1]), _wanted()
    with MODES[mode]():
        packed = jax.block_until_ready(jax.jit(lambda *args: _mode_step(*args))(*arguments))
        reducers = (sowlog.max, sowlog.mean, sowlog.std)
        for reducer in reducers:
            reducer.of(arguments[1], weight=arguments[2]).merge(reducer.init_fn()).compute()
        absent = [reducer.of(arguments[1], weight=nothing).compute() for reducer in reducers]
    _assert_equal(_decoded(packed), wanted)
    assert np.isnan(absent).all()


@functools.cache
def _wanted():
    return _decoded(jax.jit(_mode_step)({"w": jnp.ones(4)}, X, X[:, :1] > 0, jax.random.key(0)))


@pytest.mark.parametrize(
    "mode", [lambda: jax.debug_infs(True), lambda: jax.transfer_guard("disallow")], ids=["infs", "guard"]
)
def test_the_first_result_of_a_jitted_state_raises_nothing(mode):
    """Its dtypes are compared with those of an empty state, which no earlier call has made."""
    reduced = jax.jit(sowlog.histogram.of)(jnp.asarray(X))
    state._widths.cache_clear()
    with mode():
        sowlog.compute({"x": reduced})


def test_replicas_without_a_value_are_reduced_where_infinities_are_errors():
    """Outside of jit; the start of a maximum is -Inf."""

    def absent(x):
        states = {"max": sowlog.max.of(x, weight=0 * x), "bins": sowlog.histogram.of(x, weight=0 * x)}
        return sowlog.pack(sowlog.all_reduce(states, "rows")).buffer

    with jax.debug_infs(True):
        packed = jax.vmap(absent, axis_name="rows")(jnp.asarray(X))
    np.testing.assert_array_equal(packed, packed[:1].repeat(len(X), axis=0))
