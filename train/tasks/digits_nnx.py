# ruff: noqa: N803, N806 - names of arrays end in their axes
"""Handwritten digits in Flax nnx: the network of `digits`, with the same variables and tags."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import sowlog
from train.config.tasks import DigitsNnxTask
from train.tasks import Batch, Forward, Task, Variables, as_input, confusion

_SIDE, _CLASSES = 8, 10


class ConvBlock(nnx.Module):
    """Convolution, BatchNorm and ReLU; sows statistics of the activations."""

    def __init__(self, channels: int, width: int, stride: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(channels, width, (3, 3), stride, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array, *, train: bool) -> jax.Array:
        """Map images to features, [B, H, W, C] to [B, H/stride, W/stride, width]."""
        x_BHWC = self.norm(self.conv(x_BHWC), use_running_average=not train)
        sowlog.sow(self, "before_relu", x_BHWC, sowlog.std, doc="Spread before the ReLU. Ideal: 1.")
        x_BHWC = nnx.relu(x_BHWC)
        sowlog.sow(self, "activation_rms", x_BHWC, sowlog.rms, doc="RMS of the layer's output.")
        # A channel that no image of the batch switches on gets no gradient.
        sowlog.sow(self, "dead_units", jnp.all(x_BHWC == 0, axis=(0, 1, 2)), doc="Units that are always 0.")
        return x_BHWC


class Cnn(nnx.Module):
    """Two convolutions and a linear classifier of 10 digits."""

    def __init__(self, width: int, dropout: float, *, rngs: nnx.Rngs):
        self.block_0 = ConvBlock(1, width, 1, rngs=rngs)
        self.block_1 = ConvBlock(width, 2 * width, 2, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(2 * width * (_SIDE // 2) ** 2, _CLASSES, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """Map images [B, 8, 8, 1] to logits [B, 10]."""
        x_BHWC = self.block_0(x_BHWC, train=train)
        x_BHWC = self.block_1(x_BHWC, train=train)
        x_BF = x_BHWC.reshape(x_BHWC.shape[0], -1)
        x_BF = self.dropout(x_BF, deterministic=not train, rngs=rngs)
        return self.head(x_BF)


class DigitsNnx(Task):
    """Classifies digits by their images: `image` [B, 8, 8, 1], `label` [B]."""

    losses: tuple[str, ...] = ()
    results: tuple[str, ...] = ("accuracy", "loss", "block_*/dead_units")

    def __init__(self, options: DigitsNnxTask):
        self._options = options
        self._structure = nnx.graphdef(nnx.eval_shape(lambda: self._model(nnx.Rngs(0))))

    def _model(self, rngs: nnx.Rngs) -> Cnn:
        return Cnn(self._options.width, self._options.dropout, rngs=rngs)

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Draw weights; the running statistics of BatchNorm begin at mean 0, variance 1."""
        _, params, statistics = nnx.split(self._model(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
        return {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(statistics)}

    def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
        """Return the cross-entropy in nats and the accuracy, with statistics or a confusion matrix.

        A training step returns the next running statistics, an evaluation the confusion matrix.
        """
        train = key is not None
        model = nnx.merge(self._structure, variables["params"], variables["batch_stats"])
        logits_BC, updates = sowlog.collect(model)(
            as_input(batch["image"], variables),
            train=train,
            rngs=nnx.Rngs(dropout=key) if train else None,
        )
        if train:
            updates["batch_stats"] = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        logits_BC = logits_BC.astype(jnp.float32)
        loss_B = optax.softmax_cross_entropy_with_integer_labels(logits_BC, batch["label"])
        predicted_B = jnp.argmax(logits_BC, axis=-1)
        hits_B = predicted_B == batch["label"]
        counts = None if train else confusion(batch["label"], predicted_B, logits_BC.shape[-1])
        return Forward(loss_B.mean(), {"accuracy": sowlog.mean.of(hits_B)}, updates, confusion=counts)

    def advance(self, variables: Variables, updates: dict[str, Any]) -> Variables:
        """Return the running statistics that the pass returned."""
        return {"batch_stats": updates["batch_stats"]}
