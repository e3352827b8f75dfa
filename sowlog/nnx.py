"""The variable type for Flax nnx's own `module.sow`."""

from typing import Any

from flax import nnx


class Metric(nnx.Variable[Any]):
    """The variable type of values that an nnx module sows by Flax's own `module.sow`; `collect` returns them.

    `sowlog.sow(self, name, value, reducer)` needs no variable type. `nnx.capture(model, sowlog.nnx.Metric)`
    returns the values of `module.sow` as well.

    Example:
        >>> import jax.numpy as jnp, sowlog, sowlog.nnx
        >>> from flax import nnx
        >>> class Block(nnx.Module):
        ...     def __call__(self, x):
        ...         self.sow(sowlog.nnx.Metric, "largest", x, **sowlog.max)
        ...         return 2 * x
        >>> y, updates = sowlog.collect(Block())(jnp.array([3.0, 4.0]))
        >>> sowlog.compute(updates["metrics"])
        {'largest': np.float32(4.0)}
    """
