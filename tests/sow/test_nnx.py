"""Sows in Flax nnx: paths, every transform of nnx in each of its modes, a model left as it was."""

import copy
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import PartitionSpec as P

import sowlog
import sowlog.nnx
from sowlog.testing import count_traces
from tests.support import modes
from tests.support.nnx_models import INPUTS, Model, Scale, X, largest_of, metrics_of

# Ways to the model ------------------------------------------------------------------------------------------


@pytest.fixture
def model():
    return Model()


MODEL = Model()


class Trainer:
    """An object that is no module, and holds a model."""

    def __init__(self, model):
        self.model = model

    def loss(self, x):
        return self.model(x)


def call_global(x):
    return MODEL(x)


def call_by_another(x):
    return [call_global(row) for row in x]


def _closing_over(function):
    return lambda x: function(x)


def _closing_over_object(trainer):
    return lambda x: trainer.loss(x)


def _closing_over_list(models):
    return lambda x: models[0][0](x)


ROOTS = {
    "the model": lambda m: (m, X),
    "a method": lambda m: (m.__call__, X),
    "an argument": lambda m: (lambda m, x: m(x), m, X),
    "a keyword": lambda m: (functools.partial(lambda x, m: m(x), m=m), X),
    "a closure": lambda m: (lambda x: m(x), X),
    "a jitted closure": lambda m: (nnx.jit(lambda x: m(x)), X),
    "a closure in a closure": lambda m: (_closing_over(lambda x: m(x)), X),
    "a method of another object": lambda m: (Trainer(m).loss, X),
    "an object in a closure": lambda m: (_closing_over_object(Trainer(m)), X),
    "a list in a closure": lambda m: (_closing_over_list([[m]]), X),
    "a global": lambda m: (call_global, X),
    "a global of another function": lambda m: (call_by_another, X),
    "a jitted function": lambda m: (nnx.jit(lambda m, x: m(x)), m, X),
    "jit of a pytree": lambda m: (jax.jit(lambda m, x: m(x)), m, X),
}


@pytest.mark.parametrize("root", list(ROOTS))
def test_paths_begin_at_the_model_however_it_is_reached(root, model):
    fn, *args = ROOTS[root](model)
    found = largest_of(fn, *args)
    if root == "a list in a closure":
        found = {path.removeprefix("0/0/"): value for path, value in found.items()}
    assert found == INPUTS


def test_the_keys_of_arguments_stand_before_the_paths(model):
    """Two models in a dict have tags of their own."""
    other = Scale()
    found = largest_of(lambda models, x: models["b"](models["a"](x)), {"a": other, "b": model}, X)
    assert found == {"a": 5.0, **{f"b/{path}": 2 * value for path, value in INPUTS.items()}}


def test_split_and_merge_by_hand(model):
    """The structure was split outside of the collect; the state is an argument of jax.jit."""
    structure, state = nnx.split(model)
    assert largest_of(jax.jit(lambda state, x: nnx.merge(structure, state)(x)), state, X) == INPUTS

    @jax.jit
    def step(state, x):
        merged = nnx.merge(structure, state)
        return sowlog.collect(merged)(x)[1]

    assert sowlog.compute(step(state, X)["metrics"])["heads/b/largest"] == 80.0


def test_scopes_stand_before_paths(model):
    def call(x):
        with sowlog.scope("student"):
            return model(x)

    assert largest_of(call, X) == {f"student/{path}": value for path, value in INPUTS.items()}


def test_a_shared_module_has_one_tag_and_both_calls():
    class Shared(nnx.Module):
        def __init__(self):
            self.b = Scale()
            self.a = self.b

        def __call__(self, x):
            return self.a(x) + self.b(10 * x)

    values = metrics_of(Shared(), X)
    assert values == {"a/largest": 50.0, "a/size": 12.0}


def test_modules_made_in_a_call_are_named_by_their_class():
    class Maker(nnx.Module):
        def __call__(self, x):
            return nnx.Sequential(Scale(), Scale())(x)

    found = largest_of(Maker(), X)
    assert found == {"Sequential/layers/0": 5.0, "Sequential/layers/1": 10.0}
    assert largest_of(nnx.jit(lambda m, x: m(x)), Maker(), X) == found


def test_modules_at_two_places_of_one_jitted_function():
    """Equal modules are one structure to jit; their paths are not."""
    call = nnx.jit(lambda block, x: block(x))

    class Two(nnx.Module):
        def __init__(self):
            self.a, self.b = Scale(), Scale()

        def __call__(self, x):
            return call(self.b, call(self.a, x))

    assert largest_of(Two(), X) == {"a": 5.0, "b": 10.0}
    assert largest_of(nnx.jit(lambda m, x: m(x)), Two(), X) == {"a": 5.0, "b": 10.0}


def test_nested_collects_have_paths_of_their_own(model):
    """A sow that an inner collect takes does not reach the outer one."""

    def outer(model, x):
        y, updates = sowlog.collect(model.blocks[1])(x)
        return model.first(y), updates

    (_, inner), updates = sowlog.collect(outer)(model, X)
    assert sowlog.compute(inner["metrics"]) == {"largest": 5.0, "size": 6.0}
    assert sowlog.compute(updates["metrics"]) == {"first/largest": 10.0, "first/size": 6.0}


# Transforms -------------------------------------------------------------------------------------------------

MODES = {
    "graph updates": {"graph": True, "graph_updates": True},
    "graph": {"graph": True, "graph_updates": False},
    "tree": {"graph": False, "graph_updates": False},
}


class Stack(nnx.Module):
    """Three layers whose parameters are stacked, below an attribute."""

    def __init__(self):
        self.layers = nnx.vmap(Scale)(jnp.full(3, 2.0))


def _scan_layers(mode):
    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry, **mode)
    def run(layer, x):
        return layer(x)

    return lambda stack, x: run(stack.layers, x)


def _scan_by_state_axes(mode):
    axes = nnx.StateAxes({nnx.Param: 0, ...: None})

    @nnx.scan(in_axes=(axes, nnx.Carry), out_axes=nnx.Carry, **mode)
    def run(layer, x):
        return layer(x)

    return lambda stack, x: run(stack.layers, x)


def _vmap_ensemble(mode):
    run = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None), **mode)
    return lambda stack, x: run(stack.layers, x)


STACKING = {
    "nnx.scan": (_scan_layers, [5.0, 10.0, 20.0]),
    "nnx.scan by StateAxes": (_scan_by_state_axes, [5.0, 10.0, 20.0]),
    "nnx.vmap": (_vmap_ensemble, [5.0, 5.0, 5.0]),
}


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("name", list(STACKING))
def test_stacked_layers_keep_a_state_each(name, mode):
    """The index of the layer ends the tag, and losses are summed."""
    if name == "nnx.scan by StateAxes" and mode != "graph updates":
        pytest.skip("nnx refuses StateAxes without updates of the graph")
    make, wanted = STACKING[name]
    for transform in (lambda f: f, nnx.jit):
        _, updates = sowlog.collect(transform(make(MODES[mode])))(Stack(), X)
        values = sowlog.compute(updates["metrics"])
        assert [values[f"layers/largest/{index:02d}"] for index in range(3)] == wanted
        assert sowlog.compute(updates["losses"])["layers/l1"] == 3 * sum(wanted)


def _while_loop(call, mode):
    def body(carry):
        model, index, x = carry
        return model, index + 1, call(model, x)

    return lambda m, x: nnx.while_loop(lambda carry: carry[1] < 1, body, (m, jnp.array(0), x), **mode)


def _fori_loop(call, mode):
    def body(_, carry):
        model, x = carry
        return model, call(model, x)

    return lambda m, x: nnx.fori_loop(0, 1, body, (m, x), **mode)


def _shard_map(call, mode):
    mesh = jax.make_mesh((2,), ("d",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    sharded = nnx.shard_map(call, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"), **mode)
    return nnx.jit(lambda m, x: sharded(m, jnp.asarray(x)))


def _sum_of(call):
    return lambda m, x: jnp.sum(call(m, x))


TRANSFORMS = {
    "nnx.jit": lambda call, mode: nnx.jit(call, **mode),
    "nnx.grad": lambda call, mode: nnx.grad(_sum_of(call), **mode),
    "nnx.value_and_grad": lambda call, mode: nnx.value_and_grad(_sum_of(call), **mode),
    "nnx.remat": lambda call, mode: nnx.remat(call, **mode),
    "nnx.grad of nnx.remat": lambda call, mode: nnx.grad(_sum_of(nnx.remat(call, **mode)), **mode),
    "nnx.cond": lambda call, _: lambda m, x: nnx.cond(x[0, 0] < 1, call, lambda m, x: x, m, jnp.asarray(x)),
    "nnx.switch": lambda call, _: lambda m, x: nnx.switch(1, [lambda m, x: x, call], m, jnp.asarray(x)),
    "nnx.scan over rows": lambda call, mode: nnx.scan(call, in_axes=(None, 0), out_axes=0, **mode),
    "nnx.vmap over rows": lambda call, mode: nnx.vmap(call, in_axes=(None, 0), **mode),
    "nnx.while_loop": _while_loop,
    "nnx.fori_loop": _fori_loop,
    "nnx.shard_map": _shard_map,
    "jax.vjp": lambda call, _: lambda m, x: jax.vjp(lambda x: call(m, x), jnp.asarray(x))[0],
    "jax.lax.map": lambda call, _: lambda m, x: jax.lax.map(lambda row: call(m, row), x),
}


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_every_transform_has_one_number(name, mode):
    """The largest input and the number of elements of each module are those of the model called alone."""
    model = nnx.Dict(a=Scale(), b=nnx.List([Scale()]))

    def call(model, x):
        return model.b[0](model.a(x))

    function = TRANSFORMS[name](call, MODES[mode])
    wanted = {"a/largest": 5.0, "a/size": 6.0, "b/0/largest": 10.0, "b/0/size": 6.0}
    assert metrics_of(nnx.jit(function), model, X) == wanted
    if mode == "graph updates":
        assert metrics_of(function, model, X) == wanted


def test_losses_are_trained_on(model):
    """The gradient of the total is that of the losses written by hand."""

    def loss(model, x):
        y, updates = sowlog.collect(model)(x)
        return jnp.sum(y) + sowlog.total_loss(updates)

    def by_hand(model, x):
        total = 0.0
        for block in (model.first, *model.blocks, model.heads["a"], model.heads["b"]):
            total += 0.5 * jnp.sum(x)
            x = block.scale[...] * x
        return jnp.sum(x) + total

    ours, theirs = nnx.jit(nnx.grad(loss))(model, X), nnx.jit(nnx.grad(by_hand))(model, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


# The model is left as it was --------------------------------------------------------------------------------


class Stateful(nnx.Module):
    """BatchNorm and Dropout change state in a call."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        y = self.drop(self.norm(x))
        sowlog.sow(self, "rms", y, sowlog.rms)
        return y


@pytest.mark.parametrize("mode", list(MODES))
def test_state_changes_as_without_collect(mode):
    """The statistics of BatchNorm and the counts of Rngs are bit for bit those without sows."""
    step = nnx.jit(lambda m, x: m(x), **MODES[mode])
    plain, collected = Stateful(nnx.Rngs(0)), Stateful(nnx.Rngs(0))
    for _ in range(2):
        wanted = step(plain, X)
        y, updates = sowlog.collect(step)(collected, X)
        np.testing.assert_array_equal(y, wanted)
        np.testing.assert_allclose(
            sowlog.compute(updates["metrics"])["rms"], np.sqrt(np.mean(np.square(wanted))), rtol=1e-6
        )
    jax.tree.map(np.testing.assert_array_equal, _arrays_of(plain), _arrays_of(collected))


def _arrays_of(model):
    def array(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.tree.map(array, nnx.state(model))


def _snapshot(model):
    return [
        (
            path,
            type(node),
            sorted(vars(node)),
            state._initializing,
            repr(state._is_setup),
            type(state._is_setup),
        )
        for path, node in nnx.iter_graph(model, graph=True)
        if isinstance(node, nnx.Pytree)
        for state in [node._pytree__state]
    ]


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("mode", list(MODES))
def test_the_model_is_left_as_it_was(mode, raises, model):
    """No attribute, no other structure, nothing in its state, and no new trace; after an exception, too."""

    @functools.partial(nnx.jit, **MODES[mode])
    @count_traces
    def call(model, x):
        return model(x)

    def collected(model, x):
        y = call(model, x)
        if raises:
            raise KeyError("in the user's function")
        return y

    call(model, X)
    before, structure = _snapshot(model), nnx.graphdef(model)
    traces = call.__wrapped__.traces
    for _ in range(2):
        try:
            sowlog.collect(collected)(model, X)
        except KeyError:
            assert raises
    assert call.__wrapped__.traces == traces + 1  # with sows, once
    call(model, X)
    assert call.__wrapped__.traces == traces + 1
    assert _snapshot(model) == before
    assert nnx.graphdef(model) == structure
    assert repr(nnx.graphdef(model)) == repr(structure)
    assert len(nnx.split(model, nnx.Param)) == 2
    assert copy.deepcopy(model)(X).shape == X.shape


def test_trees_of_modules_at_several_places_are_mapped_together(model):
    """An average of two models, and layers that are stacked in the call, as without collect."""
    other = jax.tree.map(jnp.ones_like, model)

    def call(model, other, x):
        averaged = jax.tree.map(lambda a, b: (a + b) / 2, model, other)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *model.blocks)
        return averaged(x), stacked.scale[...]

    found = largest_of(call, model, other, X)
    assert found == {path: 5 * 1.5**index for index, path in enumerate(INPUTS)}


def test_axes_made_from_the_model_fit(model):
    def call(model, x):
        prefix = nnx.prefix(model, {nnx.Param: None}, graph=False)
        return nnx.vmap(lambda m, x: m(x), in_axes=(prefix, 0), graph=False)(model, x)

    assert largest_of(call, model, X) == INPUTS


def test_threads_collect_one_model(model):
    """Under jax.jit: the transforms of nnx themselves share state that two threads must not."""
    found = {}

    def run(index):
        found[index] = [largest_of(jax.jit(lambda m, x: m(x)), model, X) for _ in range(3)]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {index: [INPUTS] * 3 for index in range(4)}


def test_without_collect_nothing_is_sown(model):
    """The program is that of a model without sows."""
    assert sowlog.sow(model, "x", 1.0) is False
    assert sowlog.sow_loss(model, "x", 1.0) is False

    class Bare(nnx.Module):
        def __call__(self, x):
            sowlog.sow(self, "x", x)
            sowlog.sow_loss(self, "y", 1.0)
            return 2 * x

    assert str(jax.make_jaxpr(Bare())(X)) == str(jax.make_jaxpr(lambda x: 2 * x)(X))


# Flax's own sow, bridges and metrics ------------------------------------------------------------------------


class Plain(nnx.Module):
    def __call__(self, x):
        assert self.sow(sowlog.nnx.Metric, "mean", x, **sowlog.mean)
        return x


def test_sows_of_flax_are_collected_and_captured():
    values = metrics_of(nnx.jit(lambda m, x: m(x)), Plain(), X)
    assert values == {"mean": 2.5}
    _, captured = nnx.capture(Plain(), sowlog.nnx.Metric)(X)
    assert float(captured["mean"].get_value().compute()) == 2.5
    (_, captured), updates = sowlog.collect(nnx.capture(Plain(), sowlog.nnx.Metric))(X)
    assert sowlog.compute(updates["metrics"]) == {"mean": 2.5}
    assert float(captured["mean"].get_value().compute()) == 2.5


def test_other_types_are_left_to_flax():
    class Other(nnx.Module):
        def __call__(self, x):
            return self.sow(nnx.Intermediate, "x", x)

    (heard, captured), updates = sowlog.collect(nnx.capture(Other(), nnx.Intermediate))(X)
    assert heard
    assert captured["x"].get_value()[0].shape == X.shape
    assert updates["metrics"] == {}


def test_a_metric_with_other_functions_is_an_error():
    class Tuple(nnx.Module):
        def __call__(self, x):
            self.sow(sowlog.nnx.Metric, "x", x)

    with pytest.raises(TypeError, match=r"x \(in Tuple\).*\*\*sowlog.mean"):
        sowlog.collect(Tuple())(X)


class LinenScale(nn.Module):
    @nn.compact
    def __call__(self, x):
        sowlog.sow(self, "largest", x, sowlog.max)
        return nn.Dense(3, name="dense")(x)


def test_a_linen_model_inside_of_nnx():
    class Outer(nnx.Module):
        def __init__(self):
            self.inner = nnx.bridge.ToNNX(LinenScale(), rngs=nnx.Rngs(0))
            self.scale = Scale()

        def __call__(self, x):
            return self.inner(self.scale(x))

    outer = Outer()
    nnx.bridge.lazy_init(outer, X)
    assert largest_of(outer, X) == {"scale": 5.0, "inner": 10.0}
    assert largest_of(nnx.jit(lambda m, x: m(x)), outer, X) == {"scale": 5.0, "inner": 10.0}
    _, updates = sowlog.collect(functools.partial(nnx.bridge.lazy_init, outer))(X)
    assert updates["metrics"] == {}


def test_an_nnx_model_inside_of_linen():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            sowlog.sow(self, "largest", x, sowlog.max)
            return nnx.bridge.ToLinen(Model, skip_rng=True, name="inner")(x)

    outer = Outer()
    variables = outer.init(jax.random.key(0), X)
    wanted = {"largest": 5.0, **{f"inner/{path}": value for path, value in INPUTS.items()}}
    for apply in (outer.apply, jax.jit(outer.apply)):
        assert largest_of(apply, variables, X) == wanted


def test_sequential():
    assert largest_of(nnx.Sequential(Scale(), Scale()), X) == {"layers/0": 5.0, "layers/1": 10.0}


@modes.wide
@modes.promoting
def test_metrics_of_nnx_are_logged(tmp_path):
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Average("accuracy"))
    metrics.update(accuracy=jnp.array([0.25, 0.75]))
    with sowlog.Logger(tmp_path) as log:
        log(1, metrics.compute())
    assert sowlog.read(tmp_path).scalars["accuracy"].values.tolist() == [0.5]


# Errors -----------------------------------------------------------------------------------------------------


def test_two_models_under_one_tag_are_an_error(model):
    def call(student, teacher, x):
        return student(x), teacher(x)

    with pytest.raises(ValueError, match=r"first/largest is sown by two models.*sowlog.scope"):
        sowlog.collect(call)(model, Model(), X)

    def call_in_scope(student, teacher, x):
        with sowlog.scope("teacher"):
            teacher(x)
        return student(x)

    found = largest_of(call_in_scope, model, Model(), X)
    assert found == {**INPUTS, **{f"teacher/{path}": value for path, value in INPUTS.items()}}


def test_a_module_of_an_unknown_model_is_an_error():
    hidden = {}
    hidden["get"] = type("Hidden", (), {"__slots__": ("model",)})()
    hidden["get"].model = Scale()
    with pytest.raises(sowlog.LostMetricError, match=r"largest is sown in Scale.*collect\(fn\)\(model, x\)"):
        sowlog.collect(lambda x: hidden["get"].model(x))(X)


def test_a_name_that_a_submodule_holds_is_an_error():
    class Clash(nnx.Module):
        def __init__(self):
            self.inner = Scale()

        def __call__(self, x):
            sowlog.sow(self, "inner", x)
            return self.inner(x)

    with pytest.raises(sowlog.LostMetricError, match="inner is sown under the name of a submodule"):
        sowlog.collect(Clash())(X)


def test_another_collection_is_an_error(model):
    with pytest.raises(ValueError, match=r'"other" is no collection of x \(in Model\)'):
        sowlog.sow(model, "x", 1.0, collection="other")


@pytest.mark.parametrize("name", ["", "/x", "a//b"])
def test_a_name_with_an_empty_part_is_an_error(name, model):
    with pytest.raises(ValueError, match="has an empty part"):
        sowlog.collect(lambda m: sowlog.sow(m, name, 1.0))(model)


def test_discover(model):
    empty = sowlog.discover(lambda m, x: m(x), model, X)
    assert sorted(empty["metrics"]) == ["blocks", "first", "heads"]
    assert jax.tree.structure(sowlog.discover(model, X)) == jax.tree.structure(empty)
    stateful = Stateful(nnx.Rngs(0))
    assert list(sowlog.discover(stateful, X)["metrics"]) == ["rms"]
