import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from tests.train.running import CONFIGS, TINY_GRU
from tests.train.tasks.test_tasks import Trained
from train.config import file as config_file
from train.config.tasks import GruTask
from train.tasks import gru

OPTIONS = GruTask.model_validate({"name": "gru", "width": 4, "layers": 2, "slowness": 0.5})
TOKENS = np.random.default_rng(0).integers(0, 256, (3, 7))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def rms_norm(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def by_hand(params: dict) -> tuple[np.ndarray, dict[str, float]]:
    """Run the model in NumPy, one step and one layer at a time; return its logits and its sown values."""
    params = jax.tree.map(np.float64, params)
    x, sown = params["embed"][TOKENS], {"slowness": 0.0}
    for index in range(OPTIONS.layers):
        weights = {name: array[index] for name, array in params["layers"].items()}
        h, states, gates = np.zeros((3, 4)), [], []
        inputs = rms_norm(x) @ weights["input_DG"] + weights["bias_G"]
        for t in range(TOKENS.shape[1]):
            reset, keep = np.split(sigmoid(inputs[:, t, :8] + h @ weights["state_DG"][:, :8]), 2, -1)
            new = np.tanh(inputs[:, t, 8:] + reset * (h @ weights["state_DG"][:, 8:]))
            before, h = h, (1 - keep) * new + keep * h
            sown["slowness"] += ((h - before) ** 2).mean() / TOKENS.shape[1]
            states.append(h)
            gates.append((keep, reset, np.abs(new) > 0.95))
        for name, values in zip(("keep", "reset", "saturated"), zip(*gates, strict=True), strict=True):
            sown[f"layers/{name}/{index:02}"] = np.mean(values)
        sown[f"layers/state_rms/{index:02}"] = np.sqrt(np.mean(np.square(states)))
        x = x + np.stack(states, axis=1)
    return rms_norm(x) @ params["head"], sown


def test_the_model_equals_a_loop_in_numpy() -> None:
    """Logits, the statistics of the gates by layer, and the loss over steps and layers."""
    params = gru.init_params(jax.random.key(0), OPTIONS)
    logits, updates = jax.jit(sowlog.collect(gru.predict), static_argnums=2)(params, jnp.asarray(TOKENS), 0.5)
    wanted, sown = by_hand(params)
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    losses = sowlog.compute({"losses": updates["losses"]})
    assert losses["losses/layers/slowness"] == pytest.approx(sown.pop("slowness"), rel=1e-4)
    assert losses["losses/total"] == pytest.approx(0.5 * losses["losses/layers/slowness"])
    assert sowlog.compute(updates["metrics"]) == pytest.approx(sown, rel=1e-4)


def test_the_model_sees_no_later_byte() -> None:
    """A byte changes nothing that is predicted before it."""
    params = gru.init_params(jax.random.key(0), OPTIONS)
    changed = TOKENS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 256
    before, after = (gru.predict(params, jnp.asarray(tokens), 0.0) for tokens in (TOKENS, changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert not np.allclose(before[:, 4:], after[:, 4:], atol=1e-2)


def test_text_is_learned_and_watched() -> None:
    """A few dozen steps learn the common bytes; the objective has the loss that the scan sows."""
    overrides = (*TINY_GRU, "steps=60", "data.batch_size=16", "optimizer.learning_rate=2e-2")
    trained = Trained(config_file.load(CONFIGS / "gru.yaml", overrides))
    held_out = trained.evaluate()
    assert held_out["eval/bits_per_byte"] < 6
    assert held_out["eval/bits_per_byte"] == pytest.approx(held_out["eval/loss"] / math.log(2))
    last = trained.last
    slowness = last["losses/layers/slowness"]
    assert last["losses/total"] == pytest.approx(0.1 * slowness) == last["losses/layers/slowness/weighted"]
    assert last["objective"] == pytest.approx(last["loss"] + last["losses/total"])
    names = ("keep", "reset", "saturated", "state_rms")
    assert {f"layers/{name}/{layer:02}" for name in names for layer in range(2)} <= set(last)
