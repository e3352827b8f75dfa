"""Models of nnx that sow, and the collected values of each."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

import sowlog

X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Scale(nnx.Module):
    """Sows its input, its sum as a loss, and multiplies by a parameter."""

    def __init__(self, scale=2.0):
        self.scale = nnx.Param(jnp.asarray(scale, jnp.float32))

    def __call__(self, x):
        sowlog.sow(self, "largest", x, sowlog.max)
        sowlog.sow(self, "size", jnp.sum(x >= 0), sowlog.sum)
        sowlog.sow_loss(self, "l1", jnp.sum(x), weight=0.5)
        return self.scale[...] * x


class Model(nnx.Module):
    """Holds modules as attributes, in a list and in a dict; one is shared."""

    def __init__(self):
        self.first = Scale()
        self.blocks = nnx.List([Scale(), Scale()])
        self.heads = nnx.Dict(a=Scale(), b=Scale())

    def __call__(self, x):
        for block in (self.first, *self.blocks, self.heads["a"], self.heads.b):
            x = block(x)
        return x


INPUTS = {"first": 5.0, "blocks/0": 10.0, "blocks/1": 20.0, "heads/a": 40.0, "heads/b": 80.0}


def metrics_of(function, *args):
    """Return the tags and values of the metrics that a function sows."""
    return sowlog.compute(sowlog.collect(function)(*args)[1]["metrics"])


def largest_of(function, *args):
    """Return the values named largest by the path of their module."""
    values = metrics_of(function, *args)
    return {tag.removesuffix("/largest"): float(v) for tag, v in values.items() if tag.endswith("largest")}
