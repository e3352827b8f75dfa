"""Statistics of modules that sow nothing, by their paths."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sowlog
from sowlog._reduce import families
from sowlog.testing import assert_reducer_laws, count_traces

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.Dense(2, name="dense")(x), None


class Stack(nn.Module):
    """Two scanned blocks, and others under transforms."""

    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        x, _ = blocks(name="blocks")(x, None)
        x, _ = nn.remat(Block)(name="remat")(x)
        x, _ = nn.jit(Block)(name="jit")(x)
        each = nn.vmap(nn.Dense, variable_axes={"params": None}, split_rngs={"params": False})
        return each(2, name="each")(x)


MODEL = Stack()
VARIABLES = MODEL.init(jax.random.key(0), X)


def rms(array):
    return np.sqrt(np.mean(np.square(np.asarray(array, np.float64))))


def outputs_of(x):
    """Return the output of each module of the stack, by its path, and of both layers of a scan."""
    params = jax.tree.map(np.asarray, VARIABLES["params"])
    found = {}
    x = np.asarray(x, np.float64)
    for path, of_block in (
        *((f"blocks{i}", jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])) for i in range(2)),
        ("remat", params["remat"]),
        ("jit", params["jit"]),
    ):
        dense = x @ of_block["dense"]["kernel"] + of_block["dense"]["bias"]
        x = x + dense
        found |= {f"{path}/dense": dense, path: x}
    found["each"] = x @ params["each"]["kernel"] + params["each"]["bias"]
    return found


def watched(fn, *args, watch):
    _, updates = sowlog.collect(fn, watch=watch)(*args)
    return sowlog.compute(updates["metrics"])


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_every_module_of_linen_is_watched(jit):
    """Under scan by layer, remat, jit, with a cache too, and vmap; modules of Flax among them."""

    def forward(variables, x):
        with sowlog.watch("**", sowlog.rms):
            return sowlog.collect(MODEL.apply)(variables, x)[1]["metrics"]

    forward = jax.jit(forward) if jit else forward
    wanted = {path: rms(output) for path, output in outputs_of(X).items()}
    wanted = {
        **{f"blocks/outputs/rms/0{i}": wanted[f"blocks{i}"] for i in range(2)},
        **{f"blocks/dense/outputs/rms/0{i}": wanted[f"blocks{i}/dense"] for i in range(2)},
        **{
            f"{path}/outputs/rms": wanted[path]
            for path in ("remat", "remat/dense", "jit", "jit/dense", "each")
        },
        "outputs/rms": wanted["each"],
    }
    for _ in range(2):
        found = sowlog.compute(forward(VARIABLES, X))
        assert found.keys() == wanted.keys()
        for tag, value in wanted.items():
            assert found[tag] == pytest.approx(value, rel=1e-5), tag


def test_inputs_and_parameters_are_watched():
    """Of a module in a scan those of its layer."""
    watches = [sowlog.watch("blocks/dense", sowlog.rms, of=of) for of in ("inputs", "params")]
    found = watched(MODEL.apply, VARIABLES, X, watch=watches)
    params = VARIABLES["params"]["blocks"]["dense"]
    for layer, x in enumerate((X, outputs_of(X)["blocks0"])):
        of_layer = np.concatenate([np.ravel(params[name][layer]) for name in ("bias", "kernel")])
        assert found[f"blocks/dense/params/rms/0{layer}"] == pytest.approx(rms(of_layer), rel=1e-6)
        assert found[f"blocks/dense/inputs/rms/0{layer}"] == pytest.approx(rms(x), rel=1e-5)


GLOBS = {
    "blocks": ["blocks"],
    "*": ["blocks", "each", "jit", "remat"],
    "*/dense": ["blocks/dense", "jit/dense", "remat/dense"],
    "j?t/d*e": ["jit/dense"],
    "**/dense": ["blocks/dense", "jit/dense", "remat/dense"],
    "remat/**": ["remat", "remat/dense"],
}


@pytest.mark.parametrize("glob", list(GLOBS))
def test_a_glob_matches_parts_of_a_path(glob):
    """A star stays within a part; two are any number of parts."""
    found = watched(MODEL.apply, VARIABLES, X, watch=sowlog.watch(glob, sowlog.max))
    assert sorted({tag.partition("/outputs/")[0] for tag in found}) == GLOBS[glob]


class Scale(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.float32(2.0))

    def __call__(self, x):
        return self.scale * x


class Base(nnx.Module):
    def __init__(self):
        self.layers = nnx.List([Scale(), Scale()])
        self.linear = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Derived(Base):
    def __call__(self, x):
        return self.linear(super().__call__(x))


@pytest.mark.parametrize("transform", [lambda f: f, nnx.jit, nnx.remat, nnx.vmap], ids=lambda f: f.__name__)
def test_every_module_of_nnx_is_watched(transform):
    """Also one whose call runs that of its base class: it is one call."""
    model = Derived()
    call = transform(lambda model, x: model(x)) if transform is not nnx.vmap else None
    call = call or nnx.vmap(lambda model, x: model(x), in_axes=(None, 0))
    watches = [sowlog.watch("**", sowlog.rms), sowlog.watch("layers/*", "norms", of="params")]
    found = watched(call, model, X, watch=watches)
    y = np.asarray(4 * X) @ np.asarray(model.linear.kernel[...]) + np.asarray(model.linear.bias[...])
    assert found["layers/0/outputs/rms"] == pytest.approx(rms(2 * X), rel=1e-6)
    assert found["layers/1/outputs/rms"] == pytest.approx(rms(4 * X), rel=1e-6)
    assert found["linear/outputs/rms"] == found["outputs/rms"] == pytest.approx(rms(y), rel=1e-5)
    assert found["layers/1/params/max_abs"] == 2.0
    assert "sow" not in vars(model)
    assert watched(call, model, X, watch=()) == {}


class Layer(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight * x


class Model(eqx.Module):
    layers: list[Layer]
    stack: Layer
    head: eqx.nn.Linear

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        x, _ = jax.lax.scan(sowlog.stacked(lambda x, layer: (layer(x), None)), x, self.stack)
        return self.head(x)


@pytest.mark.parametrize("transform", [lambda f: f, eqx.filter_jit, eqx.filter_checkpoint])
def test_every_module_of_equinox_is_watched(transform):
    """By the fields that lead to it; one that a scan makes anew by its class. Under vmap over examples."""
    model = Model(
        [Layer(jnp.float32(2.0)), Layer(jnp.float32(3.0))],
        Layer(jnp.array([1.0, 2.0])),
        eqx.nn.Linear(2, 2, key=jax.random.key(0)),
    )

    def forward(model, x):
        return jax.vmap(model)(x)

    found = watched(transform(forward), model, X, watch=[sowlog.watch("**", sowlog.rms)])
    wanted = {
        "layers/0": 2 * X,
        "layers/1": 6 * X,
        "head": 12 * np.asarray(X) @ np.asarray(model.head.weight).T + np.asarray(model.head.bias),
    }
    for path, output in wanted.items():
        assert found[f"{path}/outputs/rms"] == pytest.approx(rms(output), rel=1e-5)
    assert found["outputs/rms"] == found["head/outputs/rms"]
    for index, factor in enumerate((6, 12)):
        assert found[f"Layer/outputs/rms/0{index}"] == pytest.approx(rms(factor * X), rel=1e-5)
    assert type(model.__call__) is type(Model.__call__.__get__(model))


def test_decorated_functions_are_watched():
    """In scopes around them, and in functions that are traced once; the path decides, not the function."""

    @sowlog.scope("inner")
    def inner(x):
        return 2 * x

    jitted = jax.jit(inner)

    def model(x):
        for name in ("a", "b", "c"):
            with sowlog.scope(name):
                x = jitted(x)
        return x

    for _ in range(2):
        found = watched(model, X, watch=[sowlog.watch("?/inner", sowlog.rms)])
        assert list(found) == [f"{name}/inner/outputs/rms" for name in ("a", "b", "c")]
        found = watched(model, X, watch=[sowlog.watch("b/*", sowlog.rms)])
        assert found == {"b/inner/outputs/rms": pytest.approx(rms(4 * X), rel=1e-6)}


def test_a_step_is_traced_for_each_set_of_watches():
    """A jitted step knows the watches around its call; without one its program is that without watches."""
    traced = count_traces(lambda x: sowlog.collect(MODEL.apply)(VARIABLES, x)[1]["metrics"])
    step = jax.jit(lambda x: traced(x))
    before = step.lower(X).as_text()
    for _ in range(2):
        assert sowlog.compute(step(X)) == {}
        with sowlog.watch("jit", [sowlog.max]):
            assert list(sowlog.compute(step(X))) == ["jit/outputs/max"]
            with sowlog.watch("jit", [sowlog.max, sowlog.min]), sowlog.watch("remat"):
                assert len(sowlog.compute(step(X))) == 2 + 5
    assert traced.traces == 3
    assert step.lower(X).as_text() == before


def test_watching_changes_no_gradient():
    """The statistics have none."""

    def loss(params, watch):
        y, updates = sowlog.collect(MODEL.apply, watch=watch)({"params": params}, X)
        return jnp.sum(y**2), updates["metrics"]

    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    params = VARIABLES["params"]
    bare, nothing = gradient(params, ())
    found, metrics = gradient(params, (sowlog.watch("**"), sowlog.watch("**", "norms", of="params")))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), found, bare)
    assert not nothing
    assert sowlog.compute(metrics)["jit/outputs/rms"] > 0


def test_the_innermost_collect_has_the_statistics():
    """A watch around both is matched by it."""

    def outer(x):
        y, updates = sowlog.collect(MODEL.apply)(VARIABLES, x)
        sowlog.sow("watched", jnp.float32(len(jax.tree.leaves(updates["metrics"]))))
        return y

    for function in (outer, jax.jit(outer), jax.jit(outer)):
        with sowlog.watch("jit", sowlog.rms):
            found = sowlog.compute(sowlog.collect(function)(X)[1]["metrics"])
        assert list(found) == ["watched"]
        assert found["watched"] > 0


def test_the_family_health():
    """Against NumPy; arrays that are not floating-point are left out, and others are one."""
    x = np.array([[0.0, 1.0, -4.0], [0.0, 2.0, 1.5]], np.float32)

    @sowlog.scope("block")
    def block(x):
        return {"y": x, "more": x[0].astype(jnp.bfloat16), "index": jnp.arange(3), "flag": x > 0}

    found = watched(block, jnp.asarray(x), watch=sowlog.watch("block"))
    values = np.concatenate([x.ravel(), x[0]]).astype(np.float64)
    deviations = values - values.mean()
    wanted = {
        "rms": rms(values),
        "max_abs": 4.0,
        "zeros": 3 / 9,
        "nonfinite": 0.0,
        "kurtosis": np.mean(deviations**4) / np.mean(deviations**2) ** 2,
    }
    assert found == {
        f"block/outputs/{name}": pytest.approx(value, rel=1e-6) for name, value in wanted.items()
    }
    found = watched(block, jnp.asarray(x) / 0, watch=sowlog.watch("block"))
    assert found["block/outputs/nonfinite"] == 9.0


def test_the_family_norms():
    """A norm is that of all arrays of a module, once for all examples of a vmap."""
    found = watched(MODEL.apply, VARIABLES, X, watch=sowlog.watch("each", "norms", of="params"))
    leaves = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(VARIABLES["params"]["each"])])
    assert found["each/params/norm"] == pytest.approx(np.linalg.norm(leaves), rel=1e-6)
    assert found["each/params/max_abs"] == np.abs(leaves).max()


@pytest.mark.parametrize("reducer", [families.norm, families.kurtosis], ids=repr)
def test_reducers_of_families_keep_the_laws(reducer):
    """In every order and grouping."""
    assert_reducer_laws(reducer, rtol=2e-6)


@pytest.mark.parametrize(("center", "spread"), [(0, 1), (1e3, 1), (0, 1e-30), (1e30, 1e29)])
def test_a_kurtosis_is_that_of_float64(center, spread):
    """In parts of heavy tails, far from 0, and where the fourth power overflows."""
    rng = np.random.default_rng(0)
    parts = [(center + spread * rng.standard_t(5, size)).astype(np.float32) for size in (1000, 10, 500)]
    state = families.kurtosis.of(parts[0])
    for part in parts[1:]:
        state = state.merge(families.kurtosis.of(part))
    values = np.concatenate(parts).astype(np.float64)
    deviations = (values - values.mean()) / spread
    wanted = np.mean(deviations**4) / np.mean(deviations**2) ** 2
    assert float(state.compute()) == pytest.approx(wanted, rel=2e-6)


WRONG = {
    "an empty part": (
        lambda: sowlog.watch("blocks//dense"),
        ValueError,
        "glob of a watch is 'blocks//dense'",
    ),
    "an unknown family": (lambda: sowlog.watch("*", "heath"), ValueError, r"'heath'.*health, norms"),
    "no reducer": (lambda: sowlog.watch("*", [jnp.max]), TypeError, r"is none.*\[sowlog.rms, sowlog.max\]"),
    "a number": (lambda: sowlog.watch("*", 3), TypeError, r"the reducers 3: write a list"),
    "two of one name": (
        lambda: sowlog.watch("*", [sowlog.mean, sowlog.mean(axis=0)]),
        ValueError,
        "one name, of mean, mean",
    ),
    "an unknown place": (
        lambda: sowlog.watch("*", of="output"),
        ValueError,
        "none of outputs, inputs, params",
    ),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_a_wrong_watch_is_an_error(case):
    """Where it is written, with the words to write."""
    make, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        make()


def test_a_glob_without_a_match_lists_the_modules():
    """As an argument and as a context, in jit too; and each time."""
    found = r"blocs.*the model itself \(\*\*\), blocks, blocks/dense, each, jit, jit/dense, remat"
    forward = jax.jit(sowlog.collect(MODEL.apply))
    for _ in range(2):
        with pytest.raises(sowlog.UnmatchedWatchError, match=found):
            watched(MODEL.apply, VARIABLES, X, watch=sowlog.watch("blocs/*"))
        with sowlog.watch("blocs"), pytest.raises(sowlog.UnmatchedWatchError, match=found):
            forward(VARIABLES, X)
    with pytest.raises(sowlog.UnmatchedWatchError, match=r"Modules called: none\. A scope counts"):
        watched(jnp.sin, X, watch=sowlog.watch("*"))
