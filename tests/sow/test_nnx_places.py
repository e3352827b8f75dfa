"""Places of nnx modules: models in odd holders, modules that are made, copied or moved in the call."""

import copy
import functools
import types

import flax.errors
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.nnx import graphlib, pytreelib

import sowlog
from sowlog._sow import nnx as sow_nnx
from tests.support.nnx_models import INPUTS, Model, Scale, X, largest_of, metrics_of


@pytest.fixture
def model():
    return Model()


# Holders of a model -----------------------------------------------------------------------------------------


class Holder:
    """An object that is neither a module nor a pytree."""

    def __init__(self, model):
        self.model = model

    def __call__(self, x):
        return self.model(x)


@jax.tree_util.register_pytree_with_keys_class
class Node(Holder):
    """A pytree of its own kind."""

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("model"), self.model)], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


@flax.struct.dataclass
class TrainState:
    model: Model


def _with_default(model):
    def call(x, model=model):
        return model(x)

    return call


def _with_keyword_default(model):
    def call(x, *, model=model):
        return model(x)

    return call


def _remembering(model):
    @functools.lru_cache
    def get():
        return model

    return lambda x: get()(x)


def _namespace(model):
    return types.SimpleNamespace(model=model)


def _in_cycle(model):
    holder = {"model": model}
    holder["itself"] = holder
    return holder


HOLDERS = {
    "an object": lambda m: (lambda holder, x: holder(x), Holder(m)),
    "an object in an object": lambda m: (Holder(Holder(m)),),
    "a namespace": lambda m: (lambda space, x: space.model(x), _namespace(m)),
    "a function": lambda m: (lambda call, x: call(x), lambda x: m(x)),
    "a method": lambda m: (lambda call, x: call(x), m.__call__),
    "a partial": lambda m: (jax.jit(lambda f, x: f(x)), jax.tree_util.Partial(lambda m, x: m(x), m)),
    "a default": lambda m: (_with_default(m),),
    "a keyword default": lambda m: (_with_keyword_default(m),),
    "a cached function": lambda m: (_remembering(m),),
}
KEYED_HOLDERS = {
    "a pytree": lambda m: (jax.jit(lambda node, x: node.model(x)), Node(m)),
    "a dataclass of Flax": lambda m: (jax.jit(lambda state, x: state.model(x)), TrainState(m)),
    "a dict with itself": lambda m: (lambda holder, x: holder["model"](x), _in_cycle(m)),
}


@pytest.mark.parametrize("holder", list(HOLDERS))
def test_models_are_found_in_what_a_function_is_given_or_holds(holder, model):
    fn, *args = HOLDERS[holder](model)
    assert largest_of(fn, *args, X) == INPUTS


@pytest.mark.parametrize("holder", list(KEYED_HOLDERS))
def test_the_keys_of_containers_stand_before_the_paths(holder, model):
    fn, *args = KEYED_HOLDERS[holder](model)
    assert largest_of(fn, *args, X) == {f"model/{path}": value for path, value in INPUTS.items()}


def test_archives_are_not_read(tmp_path, model):
    """A mapping that is no dict may read its values from a file, as that of np.load does."""
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with np.load(tmp_path / "arrays.npz") as archive:
        assert largest_of(lambda x: (archive, model(x))[1], X) == INPUTS
        assert largest_of(lambda archive, x: model(x), archive, X) == INPUTS


# Modules that are made, copied or moved ---------------------------------------------------------------------


class Late(nnx.Module):
    """Makes its modules in the first call."""

    def __init__(self):
        self.head = nnx.data(None)
        self.blocks = nnx.List([])

    def __call__(self, x):
        if self.head is None:
            self.head = Scale()
            self.blocks.append(Scale())
        return nnx.jit(lambda block, x: block(x))(self.blocks[0], self.head(x))


def test_a_module_that_becomes_an_attribute_has_its_path():
    """The first call, which makes it, and the second have the same tags."""
    for jit in (lambda f: f, nnx.jit):
        late = Late()
        for _ in range(2):
            assert largest_of(jit(lambda late, x: late(x)), late, X) == {"head": 5.0, "blocks/0": 10.0}


def test_a_module_that_an_inner_collect_made_is_known_around_it():
    late = Late()

    def call(late, x):
        sowlog.collect(late)(x)
        return late(x)

    assert largest_of(call, late, X) == {"head": 5.0, "blocks/0": 10.0}


def test_a_model_of_two_collects_is_known_to_both(model):
    """The inner one leaves no place behind, though nnx.jit makes new states of the modules in it."""
    call = nnx.jit(lambda m, x: m(x))

    def call_twice(model, x):
        _, updates = sowlog.collect(call)(model.first, x)
        return model(x), updates["metrics"]

    for jit in (lambda f: f, nnx.jit):
        (_, inner), updates = sowlog.collect(jit(call_twice))(model, X)
        assert sowlog.compute(inner)["largest"] == 5.0
        values = sowlog.compute(updates["metrics"])
        assert [values[f"{path}/largest"] for path in INPUTS] == list(INPUTS.values())


def test_a_made_module_keeps_its_class_through_transforms():
    class Maker(nnx.Module):
        def __call__(self, x):
            return nnx.jit(lambda scale, x: scale(x))(Scale(), x)

    assert largest_of(Maker(), X) == {"Scale": 5.0}


def test_shallow_copies_are_modules_of_their_own():
    class Copies(nnx.Module):
        def __init__(self):
            self.a = Scale()
            self.b = copy.copy(self.a)

        def __call__(self, x):
            return self.b(self.a(x))

    assert largest_of(Copies(), X) == {"a": 5.0, "b": 10.0}
    assert largest_of(nnx.jit(lambda m, x: m(x)), Copies(), X) == {"a": 5.0, "b": 10.0}


def test_clones_and_views_have_the_path_of_their_module():
    class Two(nnx.Module):
        def __init__(self):
            self.a, self.b = Scale(), Scale()

        def __call__(self, x):
            return copy.deepcopy(nnx.view(self.b))(nnx.clone(self.a)(x))

    assert largest_of(Two(), X) == {"a": 5.0, "b": 10.0}


def test_modules_of_the_bridge_have_the_paths_of_their_attributes():
    """Those of `compact` and of `setup` are made in each call."""

    class Inner(nnx.bridge.Module):
        @nnx.bridge.compact
        def __call__(self, x):
            sowlog.sow(self, "largest", x, sowlog.max)
            return 2 * x

    class Compact(nnx.bridge.Module):
        @nnx.bridge.compact
        def __call__(self, x):
            return Inner()(Inner(name="named")(x))

    class Setup(nnx.bridge.Module):
        def setup(self):
            self.a, self.b = Scale(), Scale()

        def __call__(self, x):
            return self.b(self.a(x))

    for module, wanted in ((Compact(), {"named": 5.0, "Inner_0": 10.0}), (Setup(), {"a": 5.0, "b": 10.0})):
        variables = module.init(0, X)
        assert largest_of(jax.jit(module.apply), variables, X) == wanted


def test_structures_of_two_places_differ_by_the_place(model):
    """A branch that picks a layer hides which one sows: an error of JAX, which names both places."""

    def call(model, x):
        return jax.lax.cond(x[0, 0] < 1, lambda: model.blocks[0], lambda: model.blocks[1])(x)

    with pytest.raises(TypeError, match=r"at blocks/0.* at blocks/1"):
        sowlog.collect(jax.jit(call))(model, X)


JITS = {
    "jax.jit": jax.jit,
    "nnx.jit with graph updates": functools.partial(nnx.jit, graph=True, graph_updates=True),
    "nnx.jit of a graph": functools.partial(nnx.jit, graph=True, graph_updates=False),
    "nnx.jit of a tree": functools.partial(nnx.jit, graph=False, graph_updates=False),
}


@pytest.mark.parametrize("jit", list(JITS))
def test_an_unknown_model_does_not_sow_under_the_place_of_another(jit, model):
    """A jitted function is traced anew for a module that the collect does not know, which is an error."""
    call = JITS[jit](lambda module, x: module(x))
    slot = type("Slot", (), {"__slots__": ("module",)})()
    slot.module = Scale()

    assert largest_of(lambda m, x: call(m.first, x), model, X) == {"first": 5.0}
    with pytest.raises(sowlog.LostMetricError, match="largest is sown in Scale"):
        sowlog.collect(lambda x: call(slot.module, x))(X)
    assert largest_of(lambda m, x: call(m.blocks[1], x), model, X) == {"blocks/1": 5.0}


@pytest.mark.parametrize("is_static", [False, True])
def test_a_structure_without_places_is_not_that_of_a_place(is_static, model):
    """One jitted function is given a structure split inside of the collect, and one split outside."""
    call = jax.jit(lambda graph, state, x: nnx.merge(graph, state)(x), static_argnums=0 if is_static else ())
    outside = nnx.split(Scale())

    def inside_first(model, x):
        return call(*outside, call(*nnx.split(model.first), x))

    def outside_first(model, x):
        return call(*nnx.split(model.first), call(*outside, x))

    values = metrics_of(inside_first, model, X)
    assert (values["first/largest"], values["largest"]) == (5.0, 10.0)
    values = metrics_of(outside_first, model, X)
    assert (values["first/largest"], values["largest"]) == (10.0, 5.0)


@pytest.mark.parametrize("library", ["jax", "nnx"])
def test_axes_made_outside_of_the_collect_fit(library, model):
    """The function holds the axes, which are modules too, in the wrapper that vmap returned."""
    axes = (nnx.prefix(model, {nnx.Param: None}, graph=False), 0)
    vmap = jax.vmap if library == "jax" else functools.partial(nnx.vmap, graph=False)
    outside = vmap(lambda m, x: m(x), in_axes=axes)
    assert largest_of(jax.jit(lambda m, x: outside(m, x)), model, X) == INPUTS


def test_shardings_made_outside_of_the_collect_fit(model):
    """A module of shardings is an argument of jit, or is closed over."""
    mesh = jax.make_mesh((2,), ("d",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    shardings = jax.tree.map(lambda _: jax.sharding.NamedSharding(mesh, jax.P()), model)
    call = jax.jit(lambda m, x: m(x), in_shardings=(shardings, None))
    assert largest_of(call, model, X) == INPUTS
    call = jax.jit(lambda m, x: jax.lax.with_sharding_constraint(m, shardings)(x))
    assert largest_of(call, model, X) == INPUTS


def test_modules_without_arrays_have_places_of_their_own():
    """Data that is no array makes a module look like axes, which fit all places."""

    class Counted(nnx.Module):
        def __init__(self):
            self.count = nnx.data(3)

        def __call__(self, x):
            sowlog.sow(self, "largest", x, sowlog.max)
            return 2 * x

    class Two(nnx.Module):
        def __init__(self):
            self.a, self.b = Counted(), Counted()

        def __call__(self, x):
            call = nnx.jit(lambda counted, x: counted(x))
            return call(self.b, call(self.a, x))

    assert largest_of(Two(), X) == {"a": 5.0, "b": 10.0}


# The sows of a model, without computing it ------------------------------------------------------------------


class Cyclic(nnx.Module):
    """Holds itself, and one module twice; a call changes its state."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.itself = self
        self.b = Scale()
        self.a = self.b

    def __call__(self, x, *, train=True):
        return self.a(self.b(self.norm(x, use_running_average=not train)))

    def forward(self, x):
        return self(x)


def test_discover_takes_models_as_graphs():
    """A shared module is one, a cycle ends, and the state of the model is left as it was."""
    model = Cyclic(nnx.Rngs(0))
    before = jax.tree.map(jnp.array, nnx.state(model))
    abstract = nnx.eval_shape(lambda: Cyclic(nnx.Rngs(0)))
    shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
    for call in (
        functools.partial(sowlog.discover, model, X),
        functools.partial(sowlog.discover, model.forward, shape),
        functools.partial(sowlog.discover, abstract, shape, train=False),
        functools.partial(sowlog.discover, lambda m, x: m(x), m=model, x=shape),
        functools.partial(sowlog.discover, lambda x, models: models["a"](x), shape, {"a": model}),
    ):
        metrics = call()["metrics"]
        assert list(metrics.get("a", metrics)) in (["a"], ["largest", "size"])
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), before)


def test_discover_takes_functions_without_arguments():
    assert list(sowlog.discover(lambda: sowlog.sow("x", 1.0))["metrics"]) == ["x"]


def test_a_model_changed_at_another_trace_level_gets_the_line_to_write():
    """Nnx refuses it; the error of a collected function has the line."""
    norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    with pytest.raises(flax.errors.TraceContextError, match="different trace level") as caught:
        sowlog.collect(lambda x: jax.jit(lambda x: norm(x))(x))(X)
    assert "nnx.jit(lambda model, x: model(x))(model, x)" in caught.value.__notes__[-1]


def test_a_flax_that_lacks_what_places_need_is_an_error(monkeypatch):
    """At the first collect of a program that uses nnx."""
    monkeypatch.setattr(sow_nnx, "_WRAPPED", [(graphlib, "unflatten_all", lambda function: function)])
    with pytest.raises(RuntimeError, match=r"flax.nnx.graphlib.unflatten_all.*Install the version of flax"):
        sow_nnx.install.__wrapped__()


def test_modules_that_carry_no_place_are_an_error(monkeypatch):
    """As if a newer Flax no longer flattened the flag."""
    monkeypatch.setattr(sow_nnx, "_WRAPPED", [])
    monkeypatch.setattr(pytreelib.PytreeState, "is_setup", False)
    with pytest.raises(RuntimeError, match="modules whose flag is_setup outlives a split"):
        sow_nnx.install.__wrapped__()
