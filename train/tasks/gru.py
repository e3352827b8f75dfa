# ruff: noqa: N803, N806 - names of arrays end in their axes
"""A byte-level recurrent language model of plain JAX functions, which sow its gates and its memory.

Names of arrays end in their axes: B batch, T time, D width, G = 3 * D gates, V bytes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

import sowlog
from train.config.tasks import GruTask
from train.tasks import Batch, Forward, Task, Variables

BYTES = 256
Params = dict[str, jax.Array]


def init_params(key: jax.Array, options: GruTask) -> dict[str, Any]:
    """Draw weights; those of the layers are stacked."""
    keys = jax.random.split(key, 4)

    def normal(key: jax.Array, *shape: int) -> jax.Array:
        return jax.random.normal(key, shape) / math.sqrt(shape[-2])

    layers, width = options.layers, options.width
    return {
        "embed": jax.random.normal(keys[0], (BYTES, width)),
        "layers": {
            "input_DG": normal(keys[1], layers, width, 3 * width),
            "state_DG": normal(keys[2], layers, width, 3 * width),
            "bias_G": jnp.zeros((layers, 3 * width)),
        },
        "head": normal(keys[3], width, BYTES),
    }


def rms_norm(x_BTD: jax.Array) -> jax.Array:
    """Scale each vector to a root mean square of 1 (arXiv 1910.07467), without a gain."""
    return x_BTD * jax.lax.rsqrt(jnp.mean(jnp.square(x_BTD), axis=-1, keepdims=True) + 1e-6)


def cell(state_DG: jax.Array, h_BD: jax.Array, x_BG: jax.Array) -> jax.Array:
    """Return the next state of a gated recurrent unit (arXiv 1412.3555); sow its gates."""
    width = h_BD.shape[-1]
    x_reset_BD, x_keep_BD, x_new_BD = jnp.split(x_BG, 3, axis=-1)
    reset_BD, keep_BD = jnp.split(
        jax.nn.sigmoid(jnp.concatenate([x_reset_BD, x_keep_BD], -1) + h_BD @ state_DG[:, : 2 * width]), 2, -1
    )
    new_BD = jnp.tanh(x_new_BD + reset_BD * (h_BD @ state_DG[:, 2 * width :]))
    sowlog.sow("keep", keep_BD, doc="Gate that keeps the state. Ideal: below 1.")
    sowlog.sow("reset", reset_BD, doc="Gate that resets the state.")
    sowlog.sow("saturated", jnp.abs(new_BD) > 0.95, doc="Share beyond 0.95. Ideal: 0.")
    return (1 - keep_BD) * new_BD + keep_BD * h_BD


def run_layer(params: Params, x_BTD: jax.Array, slowness: float) -> jax.Array:
    """Run one layer over time; sow the speed of its state as a loss."""
    x_TBG = jnp.moveaxis(x_BTD @ params["input_DG"] + params["bias_G"][None, None], 1, 0)
    length, batch, _ = x_TBG.shape

    def step(h_BD: jax.Array, x_BG: jax.Array) -> tuple[jax.Array, jax.Array]:
        next_BD = cell(params["state_DG"], h_BD, x_BG)
        # Temporal activation regularization (arXiv 1708.02182). The steps of a scan add up to the mean.
        change = jnp.mean(jnp.square((next_BD - h_BD).astype(jnp.float32)))
        sowlog.sow_loss("slowness", change / length, weight=slowness, doc="Square of the change in a step.")
        return next_BD, next_BD

    start_BD = jnp.zeros((batch, x_BTD.shape[-1]), x_TBG.dtype)
    _, h_TBD = jax.lax.scan(step, start_BD, x_TBG)
    sowlog.sow("state_rms", h_TBD, sowlog.rms, doc="RMS of the state.")
    return jnp.moveaxis(h_TBD, 0, 1)


def predict(params: dict[str, Any], tokens_BT: jax.Array, slowness: float) -> jax.Array:
    """Map bytes [B, T] to the logits [B, T, V] of the next ones."""

    # One layer is compiled for all layers, and `stacked` keeps a state for each.
    @sowlog.stacked
    @sowlog.scope("layers")
    def layer(x_BTD: jax.Array, params: Params) -> tuple[jax.Array, None]:
        return x_BTD + run_layer(params, rms_norm(x_BTD), slowness), None

    x_BTD, _ = jax.lax.scan(layer, params["embed"][tokens_BT], params["layers"])
    return (rms_norm(x_BTD) @ params["head"]).astype(jnp.float32)


class Gru(Task):
    """Predicts each byte of `tokens` uint8 [B, length + 1] but the first."""

    losses: tuple[str, ...] = ("slowness",)
    results: tuple[str, ...] = ("bits_per_byte", "loss", "losses/layers/slowness", "layers/keep/*")

    def __init__(self, options: GruTask):
        self._options = options

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Draw weights."""
        return {"params": init_params(key, self._options)}

    def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
        """Return the cross-entropy in nats per byte, and the same in bits; nothing here is random."""
        del key
        tokens_BT = batch["tokens"].astype(jnp.int32)
        logits_BTV, updates = sowlog.collect(predict)(
            variables["params"], tokens_BT[:, :-1], self._options.slowness
        )
        loss_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, tokens_BT[:, 1:])
        metrics: dict[str, Any] = {"bits_per_byte": sowlog.mean.of(loss_BT / math.log(2))}
        return Forward(loss_BT.mean(), metrics, updates)

    def advance(self, variables: Variables, updates: dict[str, Any]) -> Variables:
        """Return no variables: the parameters are all there is."""
        return {}
