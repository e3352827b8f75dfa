"""The errors of a `collect`: for a sown value that it cannot return, and for a watch of no module."""


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


class UnmatchedWatchError(LookupError):
    """A watch matches no module that was called; the message lists those that were.

    Example:
        >>> import jax.numpy as jnp, sowlog
        >>> encode = sowlog.scope("encoder")(jnp.tanh)
        >>> y, updates = sowlog.collect(encode, watch=sowlog.watch("decoder"))(1.0)
        Traceback (most recent call last):
            ...
        sowlog.UnmatchedWatchError: the watch "decoder" matches no module that was called. Modules called: ...
    """
