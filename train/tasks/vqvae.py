# ruff: noqa: N803, N806 - names of arrays end in their axes
"""An autoencoder of digits through a codebook (VQ-VAE, arXiv 1711.00937), which shows the use of its codes.

Names of arrays end in their axes: B batch, H and W places, C channels; N = B * H * W vectors, K codes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import sowlog
from train.config.tasks import VqvaeTask
from train.tasks import Batch, Forward, Task, Variables, as_input, drawable


@dataclasses.dataclass(frozen=True, repr=False)
class Usage(sowlog.Reducer):
    """How often each code was chosen: a statistic of all choices, which no mean over batches is.

    Attributes:
        codes: size of the codebook; the sown values are numbers from 0 to codes - 1.
    """

    codes: int = 0

    def empty(self) -> jax.Array:
        """Return no choices. Counts are exact to 2^24 per code and step."""
        return jnp.zeros((self.codes,), jnp.float32)

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> jax.Array:
        """Return how often each code stands in a value."""
        counts = jnp.ones(value.shape, jnp.float32) if weight is None else weight.astype(jnp.float32)
        return self.empty().at[value.astype(jnp.int32).ravel()].add(counts.ravel(), mode="drop")

    def merge(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Return the counts of both."""
        return a + b

    def compute(self, parts: jax.Array) -> dict[str, jax.Array]:
        """Return the perplexity, from 1 to `codes` (all alike), and the number of codes never chosen."""
        p_K = parts / jnp.maximum(1, jnp.sum(parts))
        entropy = -jnp.sum(p_K * jnp.log(jnp.where(p_K > 0, p_K, 1)))
        return {"perplexity": jnp.exp(entropy), "dead": jnp.sum(parts == 0)}


class Quantizer(nn.Module):
    """Puts the nearest code of a codebook in place of each vector; sows how far it was, and which."""

    options: VqvaeTask

    @nn.compact
    def __call__(self, z_BHWC: jax.Array) -> jax.Array:
        """Map vectors to codes, and the gradient of the codes straight through to the vectors."""
        options = self.options
        z_NC = z_BHWC.reshape(-1, z_BHWC.shape[-1]).astype(jnp.float32)
        init = nn.initializers.normal(1.0)
        code_KC = self.param("codes", init, (options.codes, z_NC.shape[-1])).astype(jnp.float32)
        distance_NK = (
            jnp.sum(z_NC**2, -1, keepdims=True) - 2 * z_NC @ code_KC.T + jnp.sum(code_KC**2, -1)[None]
        )
        chosen_N = jnp.argmin(distance_NK, axis=-1)
        code_NC = code_KC[chosen_N]
        # Equation 3: the codes go to the vectors, and, at a weight, the vectors to their codes.
        towards_codes = jnp.mean(jnp.sum((z_NC - jax.lax.stop_gradient(code_NC)) ** 2, axis=-1))
        towards_vectors = jnp.mean(jnp.sum((code_NC - jax.lax.stop_gradient(z_NC)) ** 2, axis=-1))
        sowlog.sow_loss(
            self, "commitment", towards_codes, weight=options.commitment, doc="Distance from the codes."
        )
        sowlog.sow_loss(self, "codebook", towards_vectors, doc="Distance of the codes.")
        sowlog.sow(self, "usage", chosen_N, Usage(codes=options.codes), doc="Use of the codebook.")
        straight_NC = z_NC + jax.lax.stop_gradient(code_NC - z_NC)
        return straight_NC.reshape(z_BHWC.shape).astype(z_BHWC.dtype)


class Autoencoder(nn.Module):
    """Halves the image, quantizes each place of it, and restores the size."""

    options: VqvaeTask

    @nn.compact
    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        """Map images of even height and width to their reconstructions, float32."""
        width, channels = self.options.width, x_BHWC.shape[-1]
        h_BHWC = nn.gelu(nn.Conv(width, (4, 4), 2, name="down")(x_BHWC))
        z_BHWC = nn.Dense(self.options.code_size, name="to_code")(h_BHWC)
        q_BHWC = Quantizer(self.options, name="quantizer")(z_BHWC)
        h_BHWC = nn.gelu(nn.Conv(width, (3, 3), name="from_code")(q_BHWC))
        return nn.ConvTranspose(channels, (4, 4), (2, 2), name="up")(h_BHWC).astype(jnp.float32)


class Vqvae(Task):
    """Compresses `image` [B, H, W, C]."""

    losses: tuple[str, ...] = ("commitment", "codebook")
    results: tuple[str, ...] = ("loss", "quantizer/usage/*", "losses/quantizer/commitment")

    def __init__(self, options: VqvaeTask):
        self._model = Autoencoder(options)

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Draw weights and codes."""
        return {"params": self._model.init(key, batch["image"])["params"]}

    def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
        """Return the squared error of an image, summed over its pixels; nothing here is random."""
        del key
        image_BHWC = as_input(batch["image"], variables)
        restored_BHWC, updates = sowlog.collect(self._model.apply)(variables, image_BHWC)
        error_BHWC = (restored_BHWC - batch["image"].astype(jnp.float32)) ** 2
        return Forward(jnp.mean(jnp.sum(error_BHWC, axis=(1, 2, 3))), {}, updates)

    def advance(self, variables: Variables, updates: dict[str, Any]) -> Variables:
        """Return no variables: the codes are parameters."""
        return {}

    def draw(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Return a row of images over the row of their reconstructions, if they are images to look at."""
        x_BHWC = drawable(batch["image"])
        if x_BHWC is None:
            return {}
        y_BHWC: Any = self._model.apply(variables, x_BHWC)
        return {"reconstructions": jnp.stack([x_BHWC, y_BHWC])}
