"""The golden run: a small training, recomputed in NumPy and read back with TensorBoard's own reader."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

import sowlog
from tests.support.tensorboard_reading import tensorboard_scalars

STEPS = 6
LEARNING_RATE = 0.1
WEIGHT = 0.01
X = np.random.default_rng(0).normal(size=(STEPS, 8, 3))
Y = np.random.default_rng(1).normal(size=(STEPS, 8))


class Regression(nn.Module):
    """A linear model that sows the spread of its predictions and an L2 penalty."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.ones, (3,))
        prediction = x @ w
        sowlog.sow(self, "prediction", prediction, sowlog.std)
        sowlog.sow(self, "largest", prediction, sowlog.max)
        sowlog.sow_loss(self, "l2", jnp.sum(w**2), weight=WEIGHT)
        return prediction


@jax.jit
def train_step(state, x, y):
    """Make one step of gradient descent; return the new state and its packed metrics."""

    def objective(params):
        prediction, updates = sowlog.collect(state.apply_fn)({"params": params}, x)
        squared = (prediction - y) ** 2
        return squared.mean() + sowlog.total_loss(updates, expect="l2"), (squared, updates)

    grads, (squared, updates) = jax.grad(objective, has_aux=True)(state.params)
    metrics = {
        "loss": sowlog.mean.of(squared),
        "grad": {"norm": jnp.linalg.norm(grads["w"])},
        "model": updates["metrics"],
        "losses": updates["losses"],
    }
    return state.apply_gradients(grads=grads), sowlog.pack(metrics)


def _by_hand():
    """Yield the expected metrics of each step, in float64."""
    w = np.ones(3)
    for x, y in zip(X, Y, strict=True):
        prediction = x @ w
        gradient = 2 * x.T @ (prediction - y) / len(y) + 2 * WEIGHT * w
        yield {
            "loss": np.mean((prediction - y) ** 2),
            "grad/norm": np.sqrt(np.sum(gradient**2)),
            "model/prediction": np.std(prediction),
            "model/largest": np.max(prediction),
            "losses/l2": np.sum(w**2),
            "losses/l2/weighted": WEIGHT * np.sum(w**2),
            "losses/total": WEIGHT * np.sum(w**2),
        }
        w = w - LEARNING_RATE * gradient


def test_the_golden_run_is_what_numpy_computes(tmp_path):
    """Each tag and step has exactly one point, with the number computed by hand."""
    state = TrainState.create(
        apply_fn=Regression().apply,
        params={"w": jnp.ones(3)},
        tx=optax.sgd(LEARNING_RATE),
    )
    with sowlog.Logger(tmp_path) as log:
        for step in range(STEPS):
            state, metrics = train_step(state, jnp.float32(X[step]), jnp.float32(Y[step]))
            log(step, metrics)

    series = tensorboard_scalars(tmp_path)
    wanted = list(_by_hand())
    assert set(series) == set(wanted[0])
    for tag, points in series.items():
        assert points.steps == list(range(STEPS))
        assert points.values == pytest.approx([step[tag] for step in wanted], rel=1e-5)


class Forms(nn.Module):
    """A module that sows in every form."""

    @nn.compact
    def __call__(self, x):
        for scale in (1.0, 2.0):
            sowlog.sow(self, "ours", scale * x)
            self.sow("metrics", "plain", scale * x, **sowlog.max)
            self.sow("metrics", "tuple", jnp.sum(scale * x))
            self.sow("metrics", "raw", scale * x[0], init_fn=lambda: 0.0, reduce_fn=lambda a, b: a + b)
            sowlog.sow(self, "own", scale * x, LARGE)


LARGE = sowlog.Reducer.build(
    init=lambda: 0, add=lambda n, x: n + jnp.sum(x > 3), merge=jnp.add, compute=lambda n: n, name="large"
)


def test_every_form_of_sowing_reaches_tensorboard(tmp_path):
    """Our form, plain Flax with a reducer, Flax's default, a raw pair and a user's own reducer."""
    step = jax.jit(lambda x: sowlog.pack(sowlog.collect(Forms().apply)({}, x)[1]["metrics"]))
    with sowlog.Logger(tmp_path) as log:
        for index in range(2):
            log(index, step(jnp.array([1.0, 2.0, 3.0]) + index))
    values = {tag: points.values for tag, points in tensorboard_scalars(tmp_path).items()}
    assert values == {
        "ours": [3.0, 4.5],
        "plain": [6.0, 8.0],
        "tuple/00": [6.0, 9.0],
        "tuple/01": [12.0, 18.0],
        "raw": [3.0, 6.0],
        "own": [2.0, 4.0],
    }
