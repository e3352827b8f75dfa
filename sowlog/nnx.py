"""What sowlog adds to Flax nnx: the type of variable that nnx's own `module.sow` names."""

from typing import Any

from flax import nnx


class Metric(nnx.Variable[Any]):
    """The type of the values that an nnx module sows for `sowlog.collect` by Flax's own `sow`.

    `sowlog.sow(self, name, value, reducer)` needs no type. `nnx.capture` takes this one, too.

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
