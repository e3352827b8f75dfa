"""Observers in an optimizer: their statistics, in the forms of parameters and of optax."""

import re

import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import sowlog
from sowlog.testing import count_traces

GRADS = {
    "decoder": {
        "blocks": {"attn": {"kernel": np.arange(24.0, dtype=np.float32).reshape(3, 2, 4) - 7}},
        "norm": {"scale": np.array([3.0, -4.0], np.float32)},
    },
    "embedding": np.array([[1.0, 2.0], [2.0, 4.0]], np.float32),
}


def norm(*arrays):
    """Return the norm of the elements of all arrays, in float64."""
    return np.sqrt(sum(np.sum(np.square(np.abs(np.asarray(x, np.complex128)))) for x in arrays))


def updated(optimizer, grads, params=None, state=None):
    """Return the updates and the state of one step, by default the first."""
    params = grads if params is None else params
    return jax.jit(optimizer.update)(grads, optimizer.init(params) if state is None else state, params)


def results(optimizer, grads, params=None):
    """Return the numbers that an optimizer's observers record of one step."""
    return sowlog.compute(sowlog.observed(updated(optimizer, grads, params)[1]))


def assert_close(computed, expected):
    assert set(computed) == set(expected)
    for tag, value in expected.items():
        np.testing.assert_allclose(computed[tag], value, rtol=1e-6, err_msg=tag)


def structure_of(tree):
    """Return a tree's structure, and the shapes and dtypes of its leaves."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves]


MODULE_NORMS = {
    "grads/norm": norm(*jax.tree.leaves(GRADS)),
    "grads/decoder/blocks/attn/norm": norm(GRADS["decoder"]["blocks"]["attn"]["kernel"]),
    "grads/decoder/norm/norm": norm(GRADS["decoder"]["norm"]["scale"]),
    "grads/embedding/norm": norm(GRADS["embedding"]),
}


def test_norms_are_global_and_by_module():
    """An array at the root is a module of its own; a module may have the name of a statistic."""
    assert_close(results(sowlog.observe("grads"), GRADS), MODULE_NORMS)


def test_updates_pass_unchanged():
    """The same arrays, in the same tree."""
    optimizer = sowlog.observe("grads", {"histogram": sowlog.histogram}, ratio=True)
    updates, _ = optimizer.update(GRADS, optimizer.init(GRADS), GRADS)
    assert updates is GRADS


def test_training_is_bit_for_bit_that_without_observers():
    """In the parameters of several steps."""
    observers = [sowlog.observe("grads"), sowlog.observe("updates", ratio=True)]
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    watched = optax.chain(observers[0], optax.clip_by_global_norm(1.0), optax.adam(0.1), observers[1])
    trained = []
    for optimizer in (plain, watched):
        params, state = GRADS, optimizer.init(GRADS)
        for _ in range(3):
            updates, state = updated(optimizer, jax.tree.map(jnp.sin, params), params, state)
            params = optax.apply_updates(params, updates)
        trained.append(params)
    jax.tree.map(np.testing.assert_array_equal, *trained)


def test_depth_cuts_the_paths_of_modules():
    """Modules with equal beginnings are one; of depth 0 only the global norm is left."""
    assert_close(results(sowlog.observe("g", depth=0), GRADS), {"g/norm": MODULE_NORMS["grads/norm"]})
    expected = {
        "g/norm": MODULE_NORMS["grads/norm"],
        "g/decoder/norm": norm(*jax.tree.leaves(GRADS["decoder"])),
        "g/embedding/norm": norm(GRADS["embedding"]),
    }
    assert_close(results(sowlog.observe("g", depth=1), GRADS), expected)


def test_stacked_layers_have_statistics_of_their_own():
    """Those of norm, ratio and reducers have an index; the global ones are over all layers."""
    kernel = GRADS["decoder"]["blocks"]["attn"]["kernel"]
    bias = np.array([[1.0], [5.0], [-30.0]], np.float32)
    grads = {"blocks": {"attn": {"kernel": kernel, "bias": bias}}, "head": {"kernel": np.ones(2, np.float32)}}
    params = jax.tree.map(lambda x: 2 * x + 1, grads)
    observer = sowlog.observe("g", {"max": sowlog.max}, stacked="blocks/**", ratio=True)
    everything = [jax.tree.leaves(tree) for tree in (grads, params)]
    expected = {
        "g/norm": norm(*everything[0]),
        "g/ratio": norm(*everything[0]) / norm(*everything[1]),
        "g/max": 16.0,
        "g/head/norm": np.sqrt(2),
        "g/head/ratio": 1 / 3,
        "g/head/max": 1.0,
    }
    for layer in range(3):
        parts = [
            (tree["blocks"]["attn"]["kernel"][layer], tree["blocks"]["attn"]["bias"][layer])
            for tree in (grads, params)
        ]
        expected[f"g/blocks/attn/norm/{layer:02}"] = norm(*parts[0])
        expected[f"g/blocks/attn/ratio/{layer:02}"] = norm(*parts[0]) / norm(*parts[1])
        expected[f"g/blocks/attn/max/{layer:02}"] = max(np.max(part) for part in parts[0])
    assert_close(results(observer, grads, params), expected)


def test_reducers_are_of_the_elements():
    """By module and over all; a histogram's counts are those of all elements."""
    observer = sowlog.observe("g", {"values": sowlog.histogram, "bad": sowlog.nonfinite}, depth=1)
    grads = {**GRADS, "embedding": np.array([np.inf, np.nan, 1.0], np.float32)}
    computed = results(observer, grads)
    assert computed["g/bad"] == computed["g/embedding/bad"] == 2
    assert computed["g/decoder/bad"] == 0
    assert float(jnp.sum(computed["g/values"].counts)) == 24 + 2 + 1
    assert np.isnan(computed["g/norm"])
    assert computed["g/embedding/values/nonfinite"] == 2


def test_ratio_of_zero_parameters_is_absent():
    """0 has no ratio; NaN parameters have a NaN."""
    grads = {"a": {"w": np.ones(2, np.float32)}, "b": {"w": np.ones(2, np.float32)}}
    params = {"a": {"w": np.zeros(2, np.float32)}, "b": {"w": np.full(2, np.nan, np.float32)}}
    computed = results(sowlog.observe("g", ratio=True), grads, params)
    assert "g/a/ratio" not in computed
    assert np.isnan(computed["g/b/ratio"])


def test_clip_fraction_is_that_of_the_clipped_steps():
    """1 in a step that was clipped, 0 in one that was not, and their mean over both."""
    optimizer = optax.chain(
        sowlog.observe("grads", depth=0),
        optax.clip_by_global_norm(5.0),
        sowlog.observe("clipped", before="grads", depth=0),
    )
    trees = [
        sowlog.observed(updated(optimizer, {"w": jnp.array([3.0, 4.0]) * scale})[1]) for scale in (0.9, 2.0)
    ]
    assert [sowlog.compute(tree)["clipped/clip_fraction"] for tree in trees] == [0.0, 1.0]
    assert sowlog.compute(sowlog.merge(*trees))["clipped/clip_fraction"] == 0.5
    assert sowlog.compute(sowlog.observed(optimizer.init({"w": jnp.ones(2)}))) == {}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_norms_neither_overflow_nor_vanish(dtype):
    """Squares beyond the range of the gradients' dtype, or of float32."""
    largest = float(jnp.finfo(dtype).max) / 4
    grads = {"a": {"w": jnp.full(2, largest, dtype)}, "b": {"w": jnp.full(400, 1e-3, dtype)}}
    computed = results(sowlog.observe("g"), grads)
    np.testing.assert_allclose(computed["g/a/norm"], norm(grads["a"]["w"]), rtol=1e-6)
    np.testing.assert_allclose(computed["g/b/norm"], norm(grads["b"]["w"]), rtol=1e-6)
    tiny = {"w": jnp.full(4, 1e-30)}
    np.testing.assert_allclose(results(sowlog.observe("g"), tiny)["g/norm"], 2e-30, rtol=1e-6)


def test_norms_of_many_small_elements_are_accurate():
    """Of 10^6 gradients in bfloat16, of float32 modules by the dozen, against float64 NumPy."""
    rng = np.random.default_rng(0)
    grads = {"large": {"w": jnp.asarray(rng.normal(size=10**6), jnp.bfloat16)}}
    grads |= {f"layer_{i}": {"w": jnp.asarray(rng.normal(size=7), jnp.float32)} for i in range(30)}
    computed = results(sowlog.observe("g"), grads)
    expected = {f"g/{name}/norm": norm(tree["w"]) for name, tree in grads.items()}
    assert_close(computed, expected | {"g/norm": norm(*jax.tree.leaves(grads))})


def test_leaves_without_a_gradient_are_left_out():
    """Integers, keys, None, arrays without elements; complex numbers enter by their magnitude."""
    params = {
        "a": {"w": jnp.array([3.0, 4.0]), "step": jnp.array(2), "key": jax.random.key(0), "none": None},
        "b": {"z": jnp.array([3 + 4j]), "frozen": jnp.ones(2), "empty": jnp.ones((0, 2))},
        "c": {"mask": jnp.array([True])},
        "d": {"frozen": jnp.ones(3)},
    }
    grads = {**params, "b": {**params["b"], "frozen": None}, "d": {"frozen": None}}
    observer = sowlog.observe("g", {"max": sowlog.max})
    state = observer.init(params)
    _, new = observer.update(grads, state)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    expected = {"norm": norm([3, 4, 5]), "a/norm": 5, "b/norm": 5, "max": 5, "a/max": 4, "b/max": 5}
    assert_close(sowlog.compute(sowlog.observed(new)["g"]), expected)


@pytest.mark.parametrize("grads", [{}, (), None, {"a": None, "b": {"n": np.arange(3)}}])
def test_trees_without_gradients_have_absent_statistics(grads):
    """One structure all the same, and no result."""
    observer = sowlog.observe("g", {"nonfinite": sowlog.nonfinite}, ratio=True)
    state = observer.init(grads)
    _, new = observer.update(grads, state, {})
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert set(sowlog.observed(new)["g"]) == {"norm", "ratio", "nonfinite"}
    assert sowlog.compute(sowlog.observed(new)) == {}


def test_one_array_has_the_global_statistics_alone():
    """Parameters that are no tree, a Python number too."""
    assert_close(results(sowlog.observe("g"), jnp.array([3.0, 4.0])), {"g/norm": 5.0})
    assert_close(results(sowlog.observe("g"), {"scale": 3.0}), {"g/norm": 3.0, "g/scale/norm": 3.0})


def test_one_structure_and_one_trace_from_the_first_step_on():
    """Shapes, dtypes and weak types of the start are those of a step; the state may be donated."""
    optimizer = optax.chain(
        sowlog.observe("grads", {"histogram": sowlog.histogram}, stacked="decoder/blocks/**"),
        optax.clip_by_global_norm(1.0),
        sowlog.observe("clipped", before="grads"),
        optax.adam(1e-3),
        sowlog.observe("updates", ratio=True),
    )
    params = jax.tree.map(jnp.asarray, GRADS)

    def step(state, grads):
        updates, new = optimizer.update(grads, state, params)
        return updates, new, sowlog.pack(sowlog.observed(new))

    start = optimizer.init(params)
    assert structure_of(start) == structure_of(jax.jit(optimizer.init)(params))
    assert structure_of(start) == structure_of(jax.eval_shape(step, start, GRADS)[1])
    counted = count_traces(step)
    run, state = jax.jit(counted, donate_argnums=0), start
    for _ in range(3):
        _, state, _ = run(state, GRADS)
    assert counted.traces == 1


def test_the_state_has_as_many_arrays_for_any_number_of_modules():
    """Each array that a jitted step returns costs the training thread time."""
    observer = sowlog.observe("g", {"max": sowlog.max}, ratio=True)
    few, many = ({f"layer_{i}": {"w": jnp.ones(2)} for i in range(n)} for n in (1, 100))
    assert len(jax.tree.leaves(observer.init(few))) == len(jax.tree.leaves(observer.init(many)))


def test_scan_over_steps_stacks_what_was_observed():
    """The states of each step, as they are stacked by the scan, with their clip fraction."""
    optimizer = optax.chain(
        sowlog.observe("grads"), optax.clip(1.0), sowlog.observe("clipped", before="grads", depth=0)
    )

    def step(state, scale):
        _, state = optimizer.update({"a": {"w": scale * jnp.array([3.0, 4.0])}}, state)
        return state, state

    start = optimizer.init({"a": {"w": jnp.ones(2)}})
    _, states = jax.lax.scan(step, start, jnp.array([0.1, 1.0, 2.0]))
    computed = sowlog.compute(sowlog.observed(states))
    norms = {f"grads/a/norm/{i:02}": value for i, value in enumerate([0.5, 5.0, 10.0])}
    assert_close({tag: computed[tag] for tag in norms}, norms)
    assert [computed[f"clipped/clip_fraction/{i:02}"] for i in range(3)] == [0.0, 1.0, 1.0]


def test_between_the_steps_of_multisteps_nothing_is_observed():
    """The inner observers see whole steps, one outside sees each microbatch; skipped ones change nothing."""
    inner = optax.chain(sowlog.observe("whole", depth=0), optax.sgd(1.0))
    steps = optax.MultiSteps(inner, 2, should_skip_update_fn=optax.skip_not_finite)
    optimizer = optax.chain(sowlog.observe("micro", depth=0), steps.gradient_transformation())
    params = {"w": jnp.zeros(2)}
    state = optimizer.init(params)
    structure = jax.tree.structure(sowlog.observed(state))
    seen = []
    for value in (1.0, 3.0, np.nan, 5.0, np.nan, 7.0):
        _, state = updated(optimizer, {"w": jnp.array([value, 0.0])}, params, state)
        tree = sowlog.observed(state)
        assert jax.tree.structure(tree) == structure
        seen.append(sowlog.compute(tree))
    assert [each.get("whole/norm") for each in seen] == [None, 2.0, None, None, None, 6.0]
    np.testing.assert_array_equal([each["micro/norm"] for each in seen], [1.0, 3.0, np.nan, 5.0, np.nan, 7.0])


def test_previous_leaves_out_observers_that_no_update_has_passed():
    """For wrappers that may leave their inner state as it was, without a record of it."""
    inner = optax.chain(sowlog.observe("accepted"), optax.sgd(1.0))
    optimizer = optax.apply_if_finite(inner, max_consecutive_errors=1)
    state = optimizer.init({"w": jnp.zeros(1)})
    seen = []
    for value in (2.0, np.inf, np.inf, 4.0):
        previous = state
        _, state = updated(optimizer, {"w": jnp.array([value])}, state=previous)
        seen.append(sowlog.compute(sowlog.observed(state, previous=previous)).get("accepted/norm"))
    assert seen == [2.0, None, np.inf, 4.0]


def test_masked_and_partitioned_optimizers_observe_their_own_parameters():
    """Under masked, multi_transform and inject_hyperparams."""
    observing = optax.inject_hyperparams(lambda rate: optax.chain(sowlog.observe("fast"), optax.scale(rate)))(
        rate=0.5
    )
    optimizer = optax.chain(
        optax.masked(sowlog.observe("masked", depth=1), {"decoder": True, "embedding": False}),
        optax.multi_transform(
            {"fast": observing, "slow": optax.chain(optax.sgd(1.0), sowlog.observe("slow", depth=0))},
            {"decoder": "slow", "embedding": "fast"},
        ),
    )
    decoder, embedding = norm(*jax.tree.leaves(GRADS["decoder"])), norm(GRADS["embedding"])
    expected = {
        "masked/norm": decoder,
        "masked/decoder/norm": decoder,
        "fast/norm": embedding,
        "fast/embedding/norm": embedding,
        "slow/norm": decoder,
    }
    assert_close(results(optimizer, GRADS), expected)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_norms_of_sharded_gradients_are_those_of_the_whole(axis_type):
    """On four devices, under jit, with the layers or the elements of a layer spread."""
    mesh = jax.make_mesh((4,), ("shard",), axis_types=(axis_type,))
    grads = {"blocks": {"w": np.arange(64.0, dtype=np.float32).reshape(4, 4, 4)}, "head": {"w": np.ones(8)}}
    specs = {"blocks": {"w": PartitionSpec(None, "shard")}, "head": {"w": PartitionSpec("shard")}}
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    sharded = jax.tree.map(lambda x, s: jax.device_put(x.astype(np.float32), s), grads, shardings)
    observer = sowlog.observe("g", {"max": sowlog.max}, stacked="blocks/**", ratio=True)
    with jax.set_mesh(mesh):
        computed = results(observer, sharded)
    expected = results(observer, grads)
    assert_close(computed, expected)
    assert computed["g/blocks/norm/02"] == pytest.approx(norm(grads["blocks"]["w"][2]), rel=1e-6)


def test_equal_gradients_inside_of_a_shard_map():
    """After the mean over devices, checked: the statistics are equal on all of them."""
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    optimizer = optax.chain(sowlog.observe("g"), optax.sgd(1.0))
    params = {"dense": {"w": jnp.ones(2)}}
    state = optimizer.init(params)

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("batch")), out_specs=PartitionSpec())
    def step(state, rows):
        grads = {"dense": {"w": jax.lax.pmean(jnp.mean(rows, axis=0), "batch")}}
        return optimizer.update(grads, state, params)[1]

    rows = jnp.arange(16.0).reshape(8, 2)
    computed = sowlog.compute(sowlog.observed(step(state, rows)))
    assert_close(computed, dict.fromkeys(("g/norm", "g/dense/norm"), norm(np.mean(rows, axis=0))))


def test_an_nnx_optimizer_observes_by_attribute_path():
    """Its variables add nothing to the tags; the optimizer's state is given as it is."""
    model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(1)))
    optimizer = nnx.Optimizer(
        model,
        optax.chain(
            sowlog.observe("grads", ratio=True),
            optax.clip(1e-3),
            sowlog.observe("clipped", depth=0, before="grads"),
        ),
        wrt=nnx.Param,
    )

    @nnx.jit
    def step(model, optimizer, x):
        grads = nnx.grad(lambda model: jnp.mean(model(x) ** 2))(model)
        optimizer.update(model, grads)
        return grads, sowlog.pack(sowlog.observed(optimizer.opt_state))

    for _ in range(2):
        params = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        grads, packed = step(model, optimizer, jnp.ones((4, 2)))
        grads = nnx.to_pure_dict(nnx.state(grads))
        expected = {
            "clipped/norm": norm(
                *np.clip(np.concatenate([x.ravel() for x in jax.tree.leaves(grads)]), -1e-3, 1e-3)
            ),
            "clipped/clip_fraction": 1.0,
        }
        for path, tree in {
            "": (grads, params),
            **{f"layers/{i}/": (grads["layers"][i], params["layers"][i]) for i in range(2)},
        }.items():
            norms = [norm(*jax.tree.leaves(part)) for part in tree]
            expected |= {f"grads/{path}norm": norms[0], f"grads/{path}ratio": norms[0] / norms[1]}
        assert_close(sowlog.compute(packed), expected)


def test_equinox_and_boxed_parameters_have_the_paths_of_their_fields():
    """Fields and indices of an Equinox model; the boxes of linen's partitioned parameters add no name."""
    model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    grads = eqx.filter_grad(lambda model: jnp.sum(model(jnp.ones(2)) ** 2))(model)
    params = eqx.filter(model, eqx.is_array)
    expected = {f"g/layers/{i}/norm": norm(layer.weight, layer.bias) for i, layer in enumerate(grads.layers)}
    assert_close(
        results(sowlog.observe("g"), grads, params), expected | {"g/norm": norm(*jax.tree.leaves(grads))}
    )
    init = nn.with_partitioning(nn.initializers.ones, ("in", "out"))
    variables = nn.Dense(3, kernel_init=init).init(jax.random.key(0), jnp.ones((1, 2)))
    assert set(results(sowlog.observe("g"), variables)) == {"g/norm", "g/params/norm"}


def test_the_state_is_checkpointed_as_any_other(tmp_path):
    """By flax.serialization and by orbax, into the state of a new optimizer."""
    optimizer = optax.chain(
        sowlog.observe("grads", {"histogram": sowlog.histogram}),
        optax.clip(1.0),
        sowlog.observe("clipped", before="grads"),
    )
    _, state = updated(optimizer, GRADS)
    start = optimizer.init(GRADS)
    by_flax = flax.serialization.from_bytes(start, flax.serialization.to_bytes(state))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        by_orbax = checkpointer.restore(tmp_path / "state", start)
    for restored in (by_flax, by_orbax):
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_a_tree_that_holds_the_state_is_searched():
    """As a TrainState, and one without observers has no statistics."""
    _, state = updated(sowlog.observe("g"), {"w": jnp.array([3.0, 4.0])})
    assert sowlog.compute(sowlog.observed({"step": 3, "opt_state": (state,)}))["g/norm"] == 5.0
    assert sowlog.observed(optax.adam(1e-3).init(GRADS)) == {}


def test_two_observers_of_one_name_are_an_error():
    """It has both places."""
    state = optax.chain(sowlog.observe("g"), optax.adam(1e-3), sowlog.observe("g")).init(GRADS)
    with pytest.raises(ValueError, match=re.escape("two observers have the name 'g', at [0] and [2] of")):
        sowlog.observed(state)


def test_an_observer_that_is_compared_with_none_is_an_error():
    """It lists those that there are."""
    state = sowlog.observe("clipped", before="grad").init(GRADS)
    with pytest.raises(ValueError, match=r"observe\('clipped', before='grad'\) .* it has clipped\."):
        sowlog.observed(state)


REFUSED = {
    "name/": ({"name": "grads/"}, ValueError, "has an empty part"),
    "name": ({"name": 3}, TypeError, "the name of a gradient observer is int"),
    "taken": ({"name": "g", "reducers": {"norm": sowlog.max}}, ValueError, "records norm itself"),
    "reducer": ({"name": "g", "reducers": {"max": jnp.max}}, TypeError, "max is .* no sowlog reducer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_arguments(case):
    """Where the optimizer is built, not in the first step."""
    arguments, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        sowlog.observe(**arguments)


def test_globs_that_fit_no_layers_are_errors_of_init():
    """A glob that matches nothing, a part of a module, or arrays of unequal layers."""
    with pytest.raises(
        ValueError, match=r"stacked='block/\*\*' matches none of the arrays decoder/blocks/attn"
    ):
        sowlog.observe("g", stacked="block/**").init(GRADS)
    params = {"a": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}}
    with pytest.raises(ValueError, match=r"matches a/w and not a/b"):
        sowlog.observe("g", stacked="**/w").init(params)
    with pytest.raises(ValueError, match=r"matches a/b with 2 layers and a/w with 3"):
        sowlog.observe("g", stacked="a/*").init({"a": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}})
    with pytest.raises(ValueError, match="matches s, a scalar"):
        sowlog.observe("g", stacked="s").init({"s": jnp.ones(())})


def test_a_ratio_without_parameters_is_an_error():
    """The message has the line to write."""
    observer = sowlog.observe("updates", ratio=True)
    with pytest.raises(ValueError, match=r"write optimizer\.update\(grads, state, params\)"):
        observer.update(GRADS, observer.init(GRADS))
    with pytest.raises(ValueError, match="embedding is an update of no parameter"):
        observer.update(GRADS, observer.init(GRADS), {"decoder": GRADS["decoder"]})


def test_updates_of_other_modules_than_the_parameters_are_an_error():
    """The structure of the state cannot grow."""
    observer = sowlog.observe("g")
    with pytest.raises(ValueError, match="the updates have more, and the parameters"):
        observer.update({**GRADS, "more": jnp.ones(2)}, observer.init(GRADS))
