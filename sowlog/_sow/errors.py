"""The error for a sown value that its `collect` cannot return."""


class LostMetricError(RuntimeError):
    """A sown value would be lost or wrong; the message has the place, the cause and the line to write.

    Example:
        >>> import jax, jax.numpy as jnp, sowlog
        >>> def halve(x):
        ...     def is_large(x):
        ...         sowlog.sow("norm", jnp.sum(x))
        ...         return x > 1
        ...     return jax.lax.while_loop(is_large, lambda x: x / 2, x)
        >>> y, updates = sowlog.collect(halve)(6.0)
        Traceback (most recent call last):
            ...
        sowlog.LostMetricError: norm is sown in the cond_fn of a jax.lax.while_loop, ...
    """
