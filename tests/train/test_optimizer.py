import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import optimizer
from train.config.optimizers import AdamOptions, AdamWOptions, SgdOptions
from train.config.schedule import rate

PARAMS = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
ZEROS = {"dense": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}, "norm": {"scale": jnp.zeros(2)}}


def rates(options: SgdOptions, steps: int) -> list[float]:
    _, schedule = optimizer.build(options, steps=steps)
    return [float(schedule(step)) for step in range(steps)]


def test_a_warmup_rises_to_the_rate_and_a_cosine_falls_to_0() -> None:
    """Four steps of warmup, all of them moving, then a cosine over the rest."""
    options = SgdOptions(name="sgd", learning_rate=2.0, warmup=4)
    expected = [2 * i / 5 for i in range(1, 5)] + [1 + np.cos(np.pi * i / 6) for i in range(6)]
    assert rates(options, 10) == pytest.approx(expected, abs=1e-6)


def test_a_constant_schedule_stays() -> None:
    """At the rate, from the first step on."""
    assert rates(SgdOptions(name="sgd", learning_rate=2.0, schedule="constant"), 5) == [2.0] * 5


@pytest.mark.parametrize("warmup", [1, 5, 9])
def test_a_run_shorter_than_its_schedule_is_no_error(warmup: int) -> None:
    """Two steps of an experiment, to try it, only ever warm up."""
    options = SgdOptions(name="sgd", warmup=warmup)
    assert all(0 < rate < 1.001 * options.learning_rate for rate in rates(options, 2))


def update(options: AdamOptions | AdamWOptions | SgdOptions, grads: dict) -> dict:
    rule, _ = optimizer.build(options, steps=10)
    return rule.update(grads, rule.init(PARAMS), PARAMS)[0]


def test_the_gradient_is_clipped_to_its_norm_or_not_at_all() -> None:
    """A gradient of norm sqrt(8) becomes one of norm 1; null leaves it."""
    plain = {"name": "sgd", "learning_rate": 1.0, "schedule": "constant", "momentum": 0.0}
    clipped = update(SgdOptions.model_validate({**plain, "clip_norm": 1.0}), PARAMS)
    free = update(SgdOptions.model_validate({**plain, "clip_norm": None}), PARAMS)
    assert clipped["dense"]["bias"] == pytest.approx(-np.ones(2) / np.sqrt(8))
    assert free["dense"]["bias"] == pytest.approx(-np.ones(2))


def test_weight_decay_leaves_biases_and_scales_alone() -> None:
    """Only the matrix shrinks."""
    options = AdamWOptions(name="adamw", learning_rate=0.5, schedule="constant", weight_decay=0.1)
    updates = update(options, ZEROS)
    assert updates["dense"]["kernel"] == pytest.approx(-0.05 * np.ones((2, 2)))
    assert not updates["dense"]["bias"].any()
    assert not updates["norm"]["scale"].any()


def test_each_choice_is_the_optimizer_of_that_name() -> None:
    """With its own settings: the first update of each is optax's."""
    cases = [
        (AdamOptions(name="adam", b1=0.5, b2=0.6, eps=0.1), optax.adam(1e-3, 0.5, 0.6, 0.1)),
        (SgdOptions(name="sgd", momentum=0.5, nesterov=True), optax.sgd(1e-3, 0.5, nesterov=True)),
    ]
    for options, rule in cases:
        free = options.model_copy(update={"clip_norm": None, "schedule": "constant"})
        expected, _ = rule.update(PARAMS, rule.init(PARAMS), PARAMS)
        assert update(free, PARAMS)["dense"]["bias"] == pytest.approx(np.asarray(expected["dense"]["bias"]))


@pytest.mark.parametrize("decay_steps", [None, 3, 7, 15])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_described_rate_is_the_one_trained_with(schedule: str, decay_steps: int | None) -> None:
    """Before JAX is imported, as optax computes it; a cosine stays at 0 after its end."""
    options = SgdOptions.model_validate(
        {"name": "sgd", "learning_rate": 2.0, "warmup": 4, "schedule": schedule, "decay_steps": decay_steps}
    )
    expected = rates(options, 10)
    assert [rate(options, 10, step) for step in range(10)] == pytest.approx(expected, abs=1e-6)
    if schedule == "cosine" and decay_steps == 7:
        assert expected[7:] == [0.0] * 3
