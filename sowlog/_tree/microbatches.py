"""Microbatches: gradients and metrics of a batch that does not fit into memory at once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from sowlog._reduce import ambient
from sowlog._tree import losses
from sowlog._tree.layout import is_packed
from sowlog._tree.tags import empty_like, is_leaf, is_state


def accumulate(
    step_fn: Callable[..., Any], microbatches: int, *, weight: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Run a function over microbatches in one `lax.scan`, with the result of the full batch.

    A PRNG key among the batch arguments is split into one for each microbatch. A key that `step_fn` closes
    over is shared by all microbatches. An array of keys is split along its first axis.

    Arrays in the result (gradients, the loss) are averaged over the microbatches, in float32. States are
    merged by their reducers: means by elements, sums added, losses averaged as the objective is.

    Args:
        step_fn: a function of the parameters and one batch argument or more, such as
            `jax.grad(loss_fn, has_aux=True)`; each array of a batch has the examples on its first axis.
        microbatches: the number of microbatches.
        weight: a function from the batch arguments to the weight of a microbatch, a scalar, for an objective
            that is a mean over a mask: `lambda batch: batch["mask"].sum()`. Averages and losses are weighted
            by it; microbatches of weight 0 are ignored, even if their result is NaN, and so are their
            gradients with respect to the arguments, inside of `step_fn` or outside of `accumulate`. In a
            value that `step_fn` closes over, such a gradient is NaN: pass the value as an argument. None
            weights all equally.

    Returns:
        A function with the same arguments and result, for the full batch.

    Raises:
        ValueError: (when called) The examples cannot be split into that many equal parts.
        TypeError: (when called) A leaf of the result is neither a state nor a floating-point array.

    Example:
        >>> import jax, jax.numpy as jnp, sowlog
        >>> def loss_fn(w, x):
        ...     return jnp.mean((w * x) ** 2), {"input": sowlog.max.of(x)}
        >>> step = sowlog.accumulate(jax.grad(loss_fn, has_aux=True), 2)
        >>> gradient, metrics = step(1.0, jnp.array([1.0, 2.0, 3.0, 4.0]))
        >>> float(gradient), float(metrics["input"].compute())
        (15.0, 4.0)
    """

    @functools.wraps(step_fn)
    def accumulated(params: Any, *batch: Any) -> Any:
        parts = cut(batch, microbatches)
        shares = _shares(weight, microbatches, parts)
        shapes = jax.eval_shape(lambda: step_fn(params, *jax.tree.map(lambda leaf: leaf[0], parts)))

        def add(total: Any, inputs: tuple[Any, jax.Array]) -> tuple[Any, None]:
            part, share = inputs
            arguments = (params, *part)
            result = step_fn(*(arguments if weight is None else _counted(share, arguments)))
            accumulate_leaf = functools.partial(_accumulate_leaf, share, microbatches)
            return jax.tree.map(accumulate_leaf, total, result, is_leaf=is_state), None

        start = jax.tree_util.tree_map_with_path(functools.partial(_start, shares), shapes, is_leaf=is_leaf)
        total, _ = jax.lax.scan(add, start, (parts, shares))
        return jax.tree.map(_finish, total, shapes, is_leaf=is_state)

    return accumulated


def cut(batch: tuple[Any, ...], parts: int) -> tuple[Any, ...]:
    """Return batch arguments with the arrays split into equal parts along a new first axis.

    A PRNG key becomes a key for each part.

    Raises:
        ValueError: The examples cannot be split into equal parts.
    """
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf) and not _is_raw_key(leaf)}

    def cut_leaf(path: Any, leaf: Any) -> jax.Array:
        array = jnp.asarray(leaf)
        # An array of two uint32 has the form of a raw key; it is two examples if all arrays have two.
        if _is_typed_key(array) or (_is_raw_key(array) and lengths != {len(array)}):
            return jax.random.split(array, parts)
        if not array.shape or array.shape[0] % parts:
            raise ValueError(
                f"batch{jax.tree_util.keystr(path[1:])} of shape {array.shape} cannot be cut into {parts} "
                "equal microbatches along its first axis: change the batch size, or pad and mask."
            )
        return ambient.split_first_axis(array, parts)

    return jax.tree_util.tree_map_with_path(cut_leaf, batch)


def _is_typed_key(array: Any) -> bool:
    return not array.shape and jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _is_raw_key(leaf: Any) -> bool:
    """Return whether an array has the form of a key of `jax.random.PRNGKey`."""
    if getattr(leaf, "dtype", None) != np.uint32:
        return False
    with jax.legacy_prng_key("allow"):
        return leaf.shape == jax.eval_shape(jax.random.PRNGKey, 0).shape


def _shares(weight: Callable[..., Any] | None, microbatches: int, parts: Any) -> jax.Array:
    if weight is None:
        return jnp.full((microbatches,), 1 / microbatches, jnp.float32)
    weights = jax.vmap(weight)(*parts).astype(jnp.float32)
    total = jnp.sum(weights)
    # A batch of weight 0 is averaged evenly: the result equals the full batch's, 0 or NaN.
    return jnp.where(total == 0, 1 / microbatches, weights / jnp.where(total == 0, 1.0, total))


def _start(shares: jax.Array, path: Any, leaf: Any) -> Any:
    if is_state(leaf):
        start = empty_like(leaf)
        return ambient.varying_like(start, (leaf, shares)) if losses.is_loss(leaf) else start
    if is_packed(leaf):
        raise TypeError(
            f"result{jax.tree_util.keystr(path)} is a packed tree, which holds results: they do not "
            "accumulate. Return the states, and pack the result of accumulate."
        )
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise TypeError(
            f"result{jax.tree_util.keystr(path)} has dtype {leaf.dtype}, and how it accumulates is unknown: "
            "return a state instead, sowlog.sum.of(value), sowlog.max.of(value) ..."
        )
    # Under strict dtype promotion promote_types raises for bfloat16.
    zeros = jnp.zeros(leaf.shape, leaf.dtype if leaf.dtype.itemsize >= 4 else jnp.float32)
    return ambient.varying_like(zeros, (leaf, shares))


def _accumulate_leaf(share: jax.Array, microbatches: int, total: Any, new: Any) -> Any:
    if not is_state(total):
        return total + _weighed(share.astype(total.dtype), jnp.asarray(new, total.dtype))
    if losses.is_loss(total):
        # Losses have the weights of the objective, so that the logged value equals the trained value.
        parts = jax.tree.map(functools.partial(_weighed, share * microbatches), new.parts)
        new = dataclasses.replace(new, parts=parts)
    return total.merge(new)


def _weighed(share: jax.Array, values: jax.Array) -> jax.Array:
    """Return share * values, and 0 for a microbatch of weight 0, where a mean over nothing may be NaN."""
    return jnp.where(share == 0, 0.0, share * values)


def _counted(share: jax.Array, arguments: Any) -> Any:
    """Return the arguments, with a gradient of 0 for a microbatch of weight 0.

    The derivative of a mean over nothing is NaN even for a cotangent of 0, so the gradient is selected where
    it leaves the microbatch. The selection has two equal operands, and costs nothing where no gradient is
    taken. A parameter that is replicated while the weights vary over the replicas stays as it is, since a
    selection would make it vary too, and a gradient inside of the function would lose its sum over them.
    """

    def count(leaf: Any) -> Any:
        is_differentiable = isinstance(leaf, jax.core.Tracer) and jnp.issubdtype(leaf.dtype, jnp.inexact)
        if not is_differentiable or ambient.varying_axes(share) - ambient.varying_axes(leaf):
            return leaf
        return jax.lax.select_n(share == 0, leaf, jax.lax.stop_gradient(leaf))

    return jax.tree.map(count, arguments)


def _finish(total: Any, shape: Any) -> Any:
    return total if is_state(total) else total.astype(shape.dtype)
