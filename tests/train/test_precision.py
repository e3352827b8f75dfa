"""Mixed precision: parameters and inputs in bfloat16; targets, losses and metrics as they are."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from tests.train.running import digits
from train import optimizer, step
from train.tasks import Batch, Forward, Variables, as_input


class Regression:
    """A user's own, that casts nothing: `x` [B, 3] to `y` [B]."""

    losses: tuple[str, ...] = ()
    results = ("loss",)
    model = nn.Dense(1)

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        return {"params": self.model.init(key, batch["x"])["params"]}

    def inputs(self, variables: Variables, batch: Batch) -> jax.Array:
        return batch["x"]

    def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
        y, updates = sowlog.collect(self.model.apply)(variables, self.inputs(variables, batch))
        errors = self.errors(y[:, 0], batch["y"])
        return Forward(jnp.mean(errors**2), {"target": sowlog.max.of(batch["y"])}, updates)

    def errors(self, y: jax.Array, target: jax.Array) -> jax.Array:
        return y - target

    def advance(self, variables: Variables, updates: dict[str, Any]) -> Variables:
        return {}


class Cast(Regression):
    """One that casts its inputs, so that its products are bfloat16, and its outputs back."""

    def inputs(self, variables: Variables, batch: Batch) -> jax.Array:
        return as_input(batch["x"], variables)

    def errors(self, y: jax.Array, target: jax.Array) -> jax.Array:
        return y.astype(jnp.float32) - target


class Forgetful(Cast):
    """One that casts neither back, target included."""

    def errors(self, y: jax.Array, target: jax.Array) -> jax.Array:
        return y - target.astype(y.dtype)


BATCH = {"x": np.full((4, 3), 0.1, np.float32), "y": np.array([1234.5, 0.1001, 3, 4], np.float32)}


def train(task: Regression, precision: str) -> tuple[dict[str, float], str]:
    """Make an update; return its metrics, and the products of the program."""
    config = digits(f"precision={precision}")
    rule, schedule = optimizer.build(config.optimizer, steps=10)
    state = step.make_init(task, rule, config)(BATCH)
    update = step.make_update(task, rule, schedule, config)
    _, metrics = update(state, BATCH)
    traced = str(jax.make_jaxpr(update)(state, BATCH)).splitlines()
    products = "\n".join(line for line in traced if "dot_general" in line)
    return {tag: float(value) for tag, value in sowlog.compute(metrics).items()}, products


@pytest.mark.parametrize("task", [Regression(), Cast()])
def test_targets_and_losses_are_float32_under_bfloat16(task: Regression) -> None:
    """1234.5 stays, of which bfloat16 makes 1232; the loss differs by the rounding of the model alone."""
    half, products = train(task, "bfloat16")
    full, _ = train(task, "float32")
    assert half["target"] == 1234.5
    assert half["loss"] != full["loss"]
    assert half["loss"] == pytest.approx(full["loss"], rel=1e-5)
    assert np.float32(half["loss"]).view(np.uint32) & 0xFFFF, "the loss is rounded to bfloat16"
    assert ("bf16" in products) == isinstance(task, Cast)


def test_a_loss_in_bfloat16_is_refused() -> None:
    """With what to write: a result of three digits would be logged as one of seven."""
    with pytest.raises(
        TypeError, match=r"the task's loss is bfloat16.* Write: outputs\.astype\(jnp\.float32\)"
    ):
        train(Forgetful(), "bfloat16")
