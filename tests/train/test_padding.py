"""Losses over padded sequences, which must not depend on how the same sequences are cut into batches."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sowlog
from train import evaluation, optimizer, step
from train.config.experiment import Config
from train.parallel import devices
from train.tasks import Batch, Forward, Variables

LENGTH = 12


class Model(nn.Module):
    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        h = nn.Embed(11, 8)(tokens)
        sowlog.sow_loss(self, "activity", jnp.mean(h * h), weight=0.5)
        return nn.Dense(11)(h)


class Padded:
    """A language model whose loss is a mean over the tokens that are there."""

    losses = ("activity",)
    results = ("loss",)
    weight_dtype: Any = jnp.float32

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        return {"params": Model().init(key, batch["tokens"])["params"]}

    def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
        logits, updates = sowlog.collect(Model().apply)(variables, batch["tokens"])
        ce = optax.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"])
        count = batch["mask"].sum()
        loss = (ce * batch["mask"]).sum() / jnp.maximum(count, 1)
        tokens = {"token_loss": sowlog.mean.of(ce, batch["mask"])}
        return Forward(loss, tokens, updates, count.astype(self.weight_dtype))

    def advance(self, variables: Variables, updates: dict[str, Any]) -> Variables:
        return {}


class Alike(Padded):
    """The same, whose loss has no weight: each example counts as the others of its batch do."""

    def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
        return super().forward(variables, batch, key)._replace(weight=None)


class Update(NamedTuple):
    metrics: dict[str, float]
    state: step.TrainState


def config(**options: object) -> Config:
    return Config.model_validate(
        {
            "task": {"name": "digits"},
            "data": {"name": "mine:load", "batch_size": 16},
            "optimizer": {"name": "sgd", "learning_rate": 0.1, "schedule": "constant", "clip_norm": None},
            "steps": 10,
            **options,
        }
    )


def sequences(count: int = 16, *, empty: int = 0) -> dict[str, np.ndarray]:
    """Sorted by length, as bucketing does; some hold nothing."""
    rng = np.random.default_rng(0)
    lengths = np.sort(rng.integers(1, LENGTH + 1, count))
    lengths[:empty] = 0
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.float32)
    return {"tokens": rng.integers(0, 11, (count, LENGTH)).astype(np.int32), "mask": mask}


def update(task: Padded, microbatches: int, batch: dict[str, np.ndarray]) -> Update:
    settings = config(microbatches=microbatches)
    rule, schedule = optimizer.build(settings.optimizer, steps=10)
    state = step.make_init(task, rule, settings)(batch)
    make = jax.jit(step.make_update(task, rule, schedule, settings))
    after, metrics = make(state, devices.cut(batch, microbatches))
    return Update({tag: float(value) for tag, value in sowlog.compute(metrics).items()}, after)


def measure(task: Padded, batch: dict[str, np.ndarray], size: int) -> dict[str, float]:
    """Evaluate sequences in batches of one size and a remainder."""
    variables = task.init(jax.random.key(0), batch)
    whole = len(batch["mask"]) // size * size
    batches = {name: array[:whole].reshape(-1, size, LENGTH) for name, array in batch.items()}
    rest = {name: array[None, whole:] for name, array in batch.items()}
    parts = [batches, rest] if whole < len(batch["mask"]) else [batches]
    metrics = jax.jit(evaluation.make_measure(task, config()))(variables, *parts).metrics
    return {tag: float(value) for tag, value in sowlog.compute(metrics).items()}


@pytest.mark.parametrize(("empty", "dtype"), [(0, jnp.int32), (5, jnp.float32)])
def test_a_gradient_is_that_of_all_tokens_however_the_batch_is_cut(empty: int, dtype: Any) -> None:
    """And so is every metric; a microbatch without a token adds only the losses that its model sows."""
    task, batch = Padded(), sequences(empty=empty)
    task.weight_dtype = dtype
    whole, parts = (update(task, count, batch) for count in (1, 4))
    assert parts.metrics == pytest.approx(whole.metrics, rel=2e-6)
    for one, other in zip(jax.tree.leaves(whole.state), jax.tree.leaves(parts.state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    if not empty:
        alike = update(Alike(), 4, batch)
        assert abs(alike.metrics["loss"] - whole.metrics["loss"]) > 1e-3


def test_a_held_out_loss_is_that_of_all_tokens_however_they_are_cut() -> None:
    """With a remainder and without; sown values are averaged over all examples."""
    batch = sequences(12)
    whole = measure(Padded(), batch, 12)
    for size in (4, 5):
        assert measure(Padded(), batch, size) == pytest.approx(whole, rel=2e-6)
    assert whole["loss"] == pytest.approx(whole["token_loss"], rel=1e-6)
    assert abs(measure(Alike(), batch, 4)["loss"] - whole["loss"]) > 1e-4


def test_a_held_out_loss_without_weight_counts_every_example_once() -> None:
    """As the mean over all of them does, and not the mean over batches, of which the last is smaller."""
    batch = {**sequences(13), "mask": np.ones((13, LENGTH), np.float32)}
    whole = measure(Alike(), batch, 13)
    for size in (12, 5):
        assert measure(Alike(), batch, size) == pytest.approx(whole, rel=2e-6)


def test_a_weight_that_is_no_scalar_is_refused() -> None:
    """With what to write: a mask itself is none."""

    class Wrong(Padded):
        def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
            return super().forward(variables, batch, key)._replace(weight=batch["mask"])

    with pytest.raises(ValueError, match=r"got shape \(4, 12\)\. Write: Forward\(.*, weight=mask\.sum\(\)\)"):
        update(Wrong(), 4, sequences())
