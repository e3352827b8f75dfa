# ruff: noqa: N803, N806 - names of arrays end in their axes
"""Handwritten digits: a convolutional network with BatchNorm and dropout that watches its activations."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import sowlog
from train.config.tasks import DigitsTask
from train.tasks import Batch, Forward, Task, Variables, as_input, confusion


class ConvBlock(nn.Module):
    """Convolution, BatchNorm and ReLU; sows statistics of the activations."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, *, train: bool) -> jax.Array:
        """Map images to features, [B, H, W, C] to [B, H/stride, W/stride, width]."""
        x_BHWC = nn.Conv(self.width, (3, 3), self.stride, use_bias=False, name="conv")(x_BHWC)
        x_BHWC = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x_BHWC)
        sowlog.sow(self, "before_relu", x_BHWC, sowlog.std, doc="Spread before the ReLU. Ideal: 1.")
        x_BHWC = nn.relu(x_BHWC)
        sowlog.sow(self, "activation_rms", x_BHWC, sowlog.rms, doc="RMS of the layer's output.")
        # A channel that no image of the batch switches on gets no gradient.
        sowlog.sow(self, "dead_units", jnp.all(x_BHWC == 0, axis=(0, 1, 2)), doc="Units that are always 0.")
        return x_BHWC


class Cnn(nn.Module):
    """Two convolutions and a linear classifier of 10 digits."""

    width: int
    dropout: float

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, *, train: bool) -> jax.Array:
        """Map images [B, 8, 8, 1] to logits [B, 10]."""
        x_BHWC = ConvBlock(self.width, name="block_0")(x_BHWC, train=train)
        x_BHWC = ConvBlock(2 * self.width, 2, name="block_1")(x_BHWC, train=train)
        x_BF = x_BHWC.reshape(x_BHWC.shape[0], -1)
        x_BF = nn.Dropout(self.dropout, deterministic=not train)(x_BF)
        return nn.Dense(10, name="head")(x_BF)


class Digits(Task):
    """Classifies digits by their images: `image` [B, 8, 8, 1], `label` [B]."""

    losses: tuple[str, ...] = ()
    results: tuple[str, ...] = ("accuracy", "loss", "block_*/dead_units")

    def __init__(self, options: DigitsTask):
        self._model = Cnn(options.width, options.dropout)

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Draw weights; the running statistics of BatchNorm begin at mean 0, variance 1."""
        variables = self._model.init(key, batch["image"], train=False)
        return {"params": variables["params"], "batch_stats": variables["batch_stats"]}

    def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
        """Return the cross-entropy in nats and the accuracy, with statistics or a confusion matrix.

        A training step returns the next running statistics, an evaluation the confusion matrix.
        """
        train = key is not None
        logits_BC, updates = sowlog.collect(self._model.apply)(
            variables,
            as_input(batch["image"], variables),
            train=train,
            mutable=["batch_stats"] if train else False,
            rngs={"dropout": key} if train else None,
        )
        logits_BC = logits_BC.astype(jnp.float32)
        loss_B = optax.softmax_cross_entropy_with_integer_labels(logits_BC, batch["label"])
        predicted_B = jnp.argmax(logits_BC, axis=-1)
        hits_B = predicted_B == batch["label"]
        counts = None if train else confusion(batch["label"], predicted_B, logits_BC.shape[-1])
        return Forward(loss_B.mean(), {"accuracy": sowlog.mean.of(hits_B)}, updates, confusion=counts)

    def advance(self, variables: Variables, updates: dict[str, Any]) -> Variables:
        """Return the running statistics that the pass returned."""
        return {"batch_stats": updates["batch_stats"]}
