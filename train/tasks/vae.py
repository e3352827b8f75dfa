# ruff: noqa: N803, N806 - names of arrays end in their axes
"""A variational autoencoder of digits, which shows the information in each latent.

Names of arrays end in their axes: B batch, P pixels, F hidden units, Z latents.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import sowlog
from train.config.tasks import VaeTask
from train.tasks import Batch, Forward, Task, Variables, as_input, drawable


class Mlp(nn.Module):
    """Dense layers, each followed by GELU."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x_BF: jax.Array) -> jax.Array:
        """Map features to features."""
        for width in self.widths:
            x_BF = nn.gelu(nn.Dense(width)(x_BF))
        return x_BF


class Encoder(nn.Module):
    """Maps images to a normal distribution of each latent; sows their cost in nats."""

    options: VaeTask

    @nn.compact
    def __call__(self, x_BP: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return mean and log variance [B, Z], and the KL divergence from the prior [B], in nats."""
        options = self.options
        h_BF = Mlp(options.hidden, name="mlp")(x_BP)
        # float32 from here on, whatever the layers compute in: exp and the sum over latents are sensitive.
        mean_BZ = nn.Dense(options.latents, name="mean")(h_BF).astype(jnp.float32)
        log_variance_BZ = nn.Dense(options.latents, name="log_variance")(h_BF).astype(jnp.float32)
        kl_BZ = (mean_BZ**2 + jnp.exp(log_variance_BZ) - 1 - log_variance_BZ) / 2
        # Free bits, arXiv 1606.04934, equation 15: a divergence below its share costs as much as the share.
        kl_Z = jnp.maximum(options.free_bits, jnp.mean(kl_BZ, axis=0))
        sowlog.sow_loss(
            self, "kl", jnp.sum(kl_Z), weight=options.beta, doc="Divergence from the prior [nats]."
        )
        sowlog.sow(self, "latent_kl", kl_BZ, sowlog.mean(axis=0), doc="Divergence [nats]. 0: unused.")
        # arXiv 1509.00519: a unit is active if its mean depends on the image.
        sowlog.sow(
            self, "active_units", jnp.sum(jnp.var(mean_BZ, axis=0) > 0.01), doc="Latents in use. Ideal: all."
        )
        sowlog.sow(self, "variance", jnp.exp(log_variance_BZ), doc="Variance of the posterior.")
        return mean_BZ, log_variance_BZ, jnp.sum(kl_BZ, axis=-1)


class Autoencoder(nn.Module):
    """Encodes, draws the latents, and decodes."""

    options: VaeTask

    @nn.compact
    def __call__(self, x_BP: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map pixels in 0 … 1 to their logits [B, P], and the KL divergence [B]; draws from "latents"."""
        mean_BZ, log_variance_BZ, kl_B = Encoder(self.options, name="encoder")(x_BP)
        noise_BZ = jax.random.normal(self.make_rng("latents"), mean_BZ.shape)
        z_BZ = (mean_BZ + jnp.exp(log_variance_BZ / 2) * noise_BZ).astype(x_BP.dtype)
        h_BF = Mlp(self.options.hidden[::-1], name="decoder")(z_BZ)
        return nn.Dense(x_BP.shape[-1], name="pixels")(h_BF).astype(jnp.float32), kl_B


class Vae(Task):
    """Learns the distribution of `image` [B, H, W, C], in 0 … 1."""

    losses: tuple[str, ...] = ("kl",)
    results: tuple[str, ...] = ("neg_elbo", "loss", "encoder/active_units", "losses/encoder/kl")

    def __init__(self, options: VaeTask):
        self._model = Autoencoder(options)

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Draw weights."""
        weights, latents = jax.random.split(key)
        pixels = _pixels(batch)
        return {"params": self._model.init({"params": weights, "latents": latents}, pixels)["params"]}

    def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
        """Return the cross-entropy of the pixels in nats per image; the KL divergence is sown.

        `neg_elbo` is their sum, whatever beta and the free bits. An evaluation draws the same latents each
        time, so that two of them compare models and not draws.
        """
        x_BP = _pixels(batch)
        noise = jax.random.key(0) if key is None else key
        (logits_BP, kl_B), updates = sowlog.collect(self._model.apply)(
            variables, as_input(x_BP, variables), rngs={"latents": noise}
        )
        loss_B = jnp.sum(optax.sigmoid_binary_cross_entropy(logits_BP, x_BP.astype(jnp.float32)), axis=-1)
        metrics: dict[str, Any] = {"neg_elbo": sowlog.mean.of(loss_B + kl_B)}
        return Forward(loss_B.mean(), metrics, updates)

    def advance(self, variables: Variables, updates: dict[str, Any]) -> Variables:
        """Return no variables: the parameters are all there is."""
        return {}

    def draw(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Return a row of images over the row of their reconstructions, if they are images to look at."""
        x_BHWC = drawable(batch["image"])
        if x_BHWC is None:
            return {}
        logits_BP, _ = self._model.apply(
            variables, _pixels({"image": x_BHWC}), rngs={"latents": jax.random.key(0)}
        )
        return {"reconstructions": jnp.stack([x_BHWC, jax.nn.sigmoid(logits_BP).reshape(x_BHWC.shape)])}


def _pixels(batch: Batch) -> jax.Array:
    return batch["image"].reshape(batch["image"].shape[0], -1)
