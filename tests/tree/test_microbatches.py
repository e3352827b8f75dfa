"""Microbatches have the result of the full batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog.testing import count_traces
from tests.support import modes
from tests.support.oracles import expected, public_reducers, scalar_reducers
from tests.support.ways.base import shard_map_over

# All tests here compare a batch in parts with the whole.
pytestmark = pytest.mark.usefixtures("light_compilation")

REDUCERS = scalar_reducers()
X = np.random.default_rng(0).normal(-5.0, 2.0, (12, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=12).astype(np.float32)
# Ragged: the microbatches hold 3, 1, 2 and 3 counted examples.
MASK = np.array([1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1, 1], np.float32)
W = jnp.array([0.5, -1.0, 2.0])


class Model(nn.Module):
    """Sows its input by every reducer, masked, and a loss that is a mean over the mask."""

    @nn.compact
    def __call__(self, x, mask):
        w = self.param("w", nn.initializers.ones, (3,))
        prediction = x @ w
        for name, reducer in REDUCERS.items():
            sowlog.sow(self, name, x, reducer, weight=mask[:, None])
        sowlog.sow_loss(self, "penalty", jnp.sum(mask * prediction**2) / jnp.sum(mask), weight=0.1)
        return prediction


def _loss_fn(params, batch):
    prediction, updates = sowlog.collect(Model().apply)({"params": params}, batch["x"], batch["mask"])
    error = (prediction - batch["y"]) ** 2
    task = jnp.sum(batch["mask"] * error) / jnp.sum(batch["mask"])
    updates["metrics"]["task"] = sowlog.mean.of(error, weight=batch["mask"])
    return task + sowlog.total_loss(updates), updates


def _batch(mask):
    return {"x": jnp.asarray(X), "y": jnp.asarray(Y), "mask": jnp.asarray(mask)}


STEP = jax.value_and_grad(_loss_fn, has_aux=True)


@pytest.mark.parametrize("microbatches", [1, 2, 4, 12])
def test_equal_microbatches_are_the_full_batch(microbatches):
    """Objective, gradients, losses and every reducer agree with one pass over everything."""
    batch = _batch(np.ones(12, np.float32))
    (value, updates), grads = jax.jit(sowlog.accumulate(STEP, microbatches))({"w": W}, batch)
    (whole_value, whole_updates), whole_grads = STEP({"w": W}, batch)
    assert float(value) == pytest.approx(float(whole_value), rel=1e-6)
    np.testing.assert_allclose(grads["w"], whole_grads["w"], rtol=1e-5)
    computed, whole = sowlog.compute(updates), sowlog.compute(whole_updates)
    assert computed == pytest.approx(whole, rel=1e-6)


def test_ragged_microbatches_are_the_full_batch_when_weighted():
    """With the mask's sum as the weight, a masked mean is that of the full batch, and so is its gradient."""
    batch = _batch(MASK)
    step = sowlog.accumulate(STEP, 4, weight=lambda batch: batch["mask"].sum())
    (value, updates), grads = jax.jit(step)({"w": W}, batch)
    (whole_value, whole_updates), whole_grads = STEP({"w": W}, batch)
    assert float(value) == pytest.approx(float(whole_value), rel=1e-6)
    np.testing.assert_allclose(grads["w"], whole_grads["w"], rtol=1e-5)
    assert sowlog.compute(updates) == pytest.approx(sowlog.compute(whole_updates), rel=1e-6)
    for name in REDUCERS:
        wanted = expected(name, [X], [MASK[:, None]])
        assert float(updates["metrics"][name].compute()) == pytest.approx(wanted, rel=1e-6)


def test_a_microbatch_of_padding_alone_does_not_count():
    """Its mean over nothing is NaN, and changes neither objective nor gradient nor losses."""
    mask = np.array([1, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1, 1], np.float32)
    step = sowlog.accumulate(STEP, 4, weight=lambda batch: batch["mask"].sum())
    (value, updates), grads = jax.jit(step)({"w": W}, _batch(mask))
    (whole_value, whole_updates), whole_grads = STEP({"w": W}, _batch(mask))
    assert float(value) == pytest.approx(float(whole_value), rel=1e-6)
    np.testing.assert_allclose(grads["w"], whole_grads["w"], rtol=1e-5)
    assert sowlog.compute(updates) == pytest.approx(sowlog.compute(whole_updates), rel=1e-6)


def _masked_mean(w, batch):
    """Return a bare mean over a mask: NaN, as its gradient, where the mask is empty."""
    return jnp.sum(batch["mask"] * (w * batch["x"]) ** 2) / jnp.sum(batch["mask"])


def _accumulated(w, batch):
    return sowlog.accumulate(_masked_mean, 4, weight=lambda batch: batch["mask"].sum())(w, batch)


@pytest.mark.parametrize("transform", [jax.grad, jax.jacfwd, jax.hessian])
@pytest.mark.parametrize("ways", ["eager", "jit outside", "jit inside", "vmap"])
def test_a_derivative_of_accumulate_ignores_a_microbatch_of_padding_alone(transform, ways):
    """Taken outside of `accumulate`, of the parameters and of the batch, it equals the full batch's."""
    batch = {"x": jnp.arange(1.0, 9.0), "mask": jnp.array([1.0, 1, 0, 0, 1, 0, 1, 1])}
    wanted = transform(_masked_mean)(jnp.float32(3), batch)
    inner = jax.jit(_accumulated) if ways == "jit inside" else _accumulated
    derivative = transform(inner)
    if ways == "jit outside":
        derivative = jax.jit(derivative)
    if ways == "vmap":
        found = jax.vmap(derivative, in_axes=(0, None))(jnp.full(2, 3.0), batch)[0]
    else:
        found = derivative(jnp.float32(3), batch)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


def test_a_derivative_in_the_batch_ignores_a_microbatch_of_padding_alone():
    """It is 0 for the examples of padding, as if they were not there."""
    mask = jnp.array([1.0, 1, 0, 0, 1, 0, 1, 1])
    found = jax.grad(lambda x: _accumulated(3.0, {"x": x, "mask": mask}))(jnp.arange(1.0, 9.0))
    wanted = jax.grad(lambda x: _masked_mean(3.0, {"x": x, "mask": mask}))(jnp.arange(1.0, 9.0))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_derivative_that_is_nan_in_a_counted_microbatch_stays_nan():
    """Padding is ignored, and a fault of the model is not."""
    batch = {"x": jnp.arange(8.0).at[1].set(jnp.nan), "mask": jnp.array([1.0, 1, 0, 0, 1, 1, 1, 1])}
    assert np.isnan(jax.grad(_accumulated)(3.0, batch))


@pytest.mark.parametrize("guarded", [True, False])
def test_a_batch_of_padding_alone_is_the_full_batch(guarded):
    """With weight 0 everywhere the result equals one pass: 0 of a guarded mean, NaN of a bare one."""

    def step(w, x, mask):
        return (w * x * mask).sum() / jnp.maximum(mask.sum(), 1.0 if guarded else 0.0)

    x, mask = jnp.ones(8), jnp.zeros(8)
    gradient = jax.value_and_grad(step)
    accumulated = sowlog.accumulate(gradient, 4, weight=lambda x, mask: mask.sum())(2.0, x, mask)
    np.testing.assert_array_equal(accumulated, gradient(2.0, x, mask))
    assert np.isnan(accumulated).all() != guarded


def test_what_is_logged_is_what_was_trained_on():
    """The reported objective is the reported task loss and the reported losses/total."""
    step = sowlog.accumulate(STEP, 4, weight=lambda batch: batch["mask"].sum())
    (value, updates), _ = step({"w": W}, _batch(MASK))
    computed = sowlog.compute(updates)
    assert float(value) == pytest.approx(computed["metrics/task"] + computed["losses/total"], rel=1e-6)


def test_accumulation_is_one_trace():
    """The function is traced for its shapes and for the loop, and not again at later steps."""
    step = count_traces(sowlog.accumulate(STEP, 4))
    jitted = jax.jit(step)
    for scale in (1.0, 2.0, 3.0):
        jitted({"w": scale * W}, _batch(np.ones(12, np.float32)))
    assert step.traces == 1


def test_gradients_are_summed_in_float32():
    """A thousand bfloat16 gradients average to their mean; their sum in bfloat16 would stand still."""

    def gradient(params, x):
        return jnp.mean(x.astype(jnp.bfloat16))

    result = sowlog.accumulate(gradient, 1000)(None, jnp.full((1000, 1), 1.0))
    assert result.dtype == jnp.bfloat16
    assert float(result) == 1.0


def test_a_batch_that_cannot_be_cut_is_refused():
    """The error names the array, its shape and the number."""
    with pytest.raises(ValueError, match=r"batch\['mask'\] of shape \(12,\) cannot be cut into 5 equal"):
        sowlog.accumulate(STEP, 5)({"w": W}, _batch(MASK))


def test_a_count_in_the_result_is_refused():
    """An integer could be summed or averaged: a state says which."""
    with pytest.raises(TypeError, match=r"result\['n'\] has dtype int32.*sowlog.sum.of"):
        sowlog.accumulate(lambda params, x: {"n": x.shape[0] * jnp.int32(1)}, 2)(None, jnp.ones(4))


def _draw(scale, batch):
    """Draw with the key of a batch beside its examples."""
    drawn = jax.random.uniform(batch["key"], batch["x"].shape)
    return jnp.mean(scale * drawn), {"drawn": sowlog.mean.of(drawn), "spread": sowlog.std.of(drawn[0])}


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey], ids=["typed", "raw"])
@pytest.mark.parametrize("microbatches", [2, 4])
def test_one_key_is_split_over_the_microbatches(make, microbatches):
    """Each microbatch draws by a key of its own, the one that jax.random.split has for it."""
    batch = {"x": jnp.ones(8), "key": make(0)}
    value, metrics = jax.jit(sowlog.accumulate(_draw, microbatches))(2.0, batch)
    keys = jax.random.split(batch["key"], microbatches)
    wanted = jnp.stack([jax.random.uniform(key, (8 // microbatches,)) for key in keys])
    assert float(value) == pytest.approx(2 * float(jnp.mean(wanted)), rel=1e-6)
    assert float(metrics["drawn"].compute()) == pytest.approx(float(jnp.mean(wanted)), rel=1e-6)
    assert float(metrics["spread"].compute()) > 0


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey], ids=["typed", "raw"])
def test_a_key_for_each_example_is_cut_like_the_examples(make):
    """An array of keys has the examples on its first axis."""
    keys = jax.random.split(make(0), 8)

    def step(_, x, keys):
        drawn = jax.vmap(jax.random.uniform)(keys)
        return jnp.mean(x * drawn)

    found = sowlog.accumulate(step, 4)(None, jnp.ones(8), keys)
    assert float(found) == pytest.approx(float(jnp.mean(jax.vmap(jax.random.uniform)(keys))), rel=1e-6)


@modes.promoting
def test_two_examples_of_uint32_are_no_key():
    """They have a key's form; the arrays beside them have as many examples."""
    found = sowlog.accumulate(lambda _, x, n: jnp.mean(x * n), 2)(None, jnp.ones(2), jnp.uint32([1, 5]))
    assert float(found) == 3.0


def test_a_raw_key_may_be_the_whole_batch():
    """Data that are drawn on the device need no examples."""
    found = sowlog.accumulate(lambda _, key: jax.random.uniform(key), 2)(None, jax.random.PRNGKey(0))
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    assert float(found) == pytest.approx(float(jnp.mean(jax.vmap(jax.random.uniform)(keys))), rel=1e-6)


def test_a_python_number_in_the_result_is_averaged():
    """A loss that a branch leaves out is a plain 0.0."""
    result = sowlog.accumulate(lambda params, x: {"mean": jnp.mean(x), "none": 0.0}, 2)(None, jnp.ones(4))
    assert (float(result["mean"]), float(result["none"])) == (1.0, 0.0)


@pytest.mark.parametrize("weight", [None, lambda x: jnp.sum(x > 2)], ids=["even", "weighed"])
def test_microbatches_of_a_shard_are_accumulated_in_a_checked_shard_map(weight):
    """The start of the loop varies over the replicas as its result does, of every reducer."""

    def step(x):
        return jnp.mean(x), {name: reducer.of(x) for name, reducer in public_reducers().items()}

    def replica(x):
        value, metrics = sowlog.accumulate(lambda _, x: step(x), 2, weight=weight)(None, x)
        return jax.lax.pmean(value, "batch"), sowlog.all_reduce(metrics, "batch")

    x = jnp.arange(16.0).reshape(4, 4)
    value, metrics = jax.jit(shard_map_over(lambda x: replica(x[0]), check=True))(x)
    computed, whole = sowlog.compute(metrics), sowlog.compute(step(x)[1])
    for tag, wanted in whole.items():
        for a, b in zip(jax.tree.leaves(computed[tag]), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    assert np.isfinite(float(value))


def test_a_gradient_in_a_checked_shard_map_keeps_its_sum_over_the_replicas():
    """That of replicated parameters, taken inside of the function: weights that vary do not change it."""
    gradient = jax.grad(lambda w, x: jnp.mean(w * x))
    # Equal weights, of which the type says that they vary.
    weighted = sowlog.accumulate(gradient, 2, weight=lambda x: 1 + 0 * jnp.sum(x))

    def summed(step):
        def replica(x):
            return jax.lax.pmean(step(jax.lax.pmax(jnp.max(x), "batch"), x[0]), "batch")

        return jax.jit(shard_map_over(replica, check=True))(jnp.arange(16.0).reshape(4, 4))

    assert float(summed(weighted)) == pytest.approx(float(summed(gradient)), rel=1e-6)


def test_states_are_merged_in_a_scan_of_a_checked_shard_map():
    """empty_like of a shard's states starts a loop over its microbatches."""

    def replica(x):
        start = sowlog.empty_like(jax.eval_shape(lambda x: {"x": sowlog.max.of(x)}, x[0]))
        merged, _ = jax.lax.scan(lambda s, x: (sowlog.merge(s, {"x": sowlog.max.of(x)}), None), start, x[0])
        return sowlog.all_reduce(merged, "batch")

    merged = jax.jit(shard_map_over(replica, check=True))(-jnp.arange(1.0, 9.0).reshape(4, 2))
    assert float(merged["x"].compute()) == -1.0
