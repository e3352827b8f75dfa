"""The gradient of a batch's objective, whole or in microbatches that give the same."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import sowlog
from train.tasks import Batch, Forward, Variables

RunForward = Callable[[Variables, Batch, jax.Array], Forward]
"""A task's forward pass, of variables, a batch and the randomness of the step."""

Differentiate = Callable[[Variables, Batch, jax.Array, jax.Array], tuple[jax.Array, Forward, Any]]
"""A function of variables, a batch, the randomness and the number of the step."""


def make_differentiate(forward: RunForward, *, losses: tuple[str, ...], microbatches: int) -> Differentiate:
    """Return the function to a batch's objective, forward pass and gradient.

    Args:
        forward: the pass.
        losses: names of the losses that the model must sow.
        microbatches: the number of parts of the batch, as `devices.cut` cuts it. The task's own loss is the
            mean over them by the weight that it has; losses that are sown are averaged alike, as over passes.
    """

    def differentiate(
        variables: Variables, batch: Batch, key: jax.Array, step: jax.Array, scale: jax.Array | None = None
    ) -> tuple[jax.Array, Forward, Any]:
        def objective(params: Any) -> tuple[jax.Array, Forward]:
            passed = forward({**variables, "params": params}, batch, key)
            share = passed.loss if scale is None else scale * passed.loss
            passed = passed._replace(loss=share, weight=None)
            return passed.loss + sowlog.total_loss(passed.updates, expect=losses), passed

        # The backward pass sows, too: `sow_grad`, and a watch of gradients.
        collected = sowlog.collect(jax.value_and_grad(objective, has_aux=True), step=step)
        ((value, passed), grads), backward = collected(variables["params"])
        metrics = joined(passed.updates["metrics"], backward["metrics"])
        return value, passed._replace(updates={**passed.updates, "metrics": metrics}), grads

    def differentiate_part(
        arguments: tuple[Variables, Batch, jax.Array, jax.Array, jax.Array | None], part: jax.Array
    ) -> tuple[jax.Array, Forward, Any]:
        variables, parts, key, step, scales = arguments
        scale = None if scales is None else scales[part[0]]
        return differentiate(variables, *_part(parts, key, part[0]), step, scale)

    def differentiate_parts(
        variables: Variables, parts: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Forward, Any]:
        # Each part is picked by its number: cut along the examples here, it would lie on a few devices.
        accumulated = sowlog.accumulate(differentiate_part, microbatches)
        scales = _scales(forward, variables, parts, key, microbatches)
        return accumulated((variables, parts, key, step, scales), jnp.arange(microbatches))

    return differentiate if microbatches == 1 else differentiate_parts


def joined(metrics: Any, more: Any, path: str = "") -> Any:
    """Return two trees of metrics as one.

    Raises:
        ValueError: Both have one tag.
    """
    both = dict(metrics)
    for name, value in more.items():
        if name not in both:
            both[name] = value
        elif isinstance(value, dict) and isinstance(both[name], dict):
            both[name] = joined(both[name], value, f"{path}{name}/")
        else:
            raise ValueError(
                f"{path}{name} is sown in the forward pass and by its gradient or update: give each its own "
                "name."
            )
    return both


def _part(parts: Batch, key: jax.Array, number: jax.Array) -> tuple[Batch, jax.Array]:
    return {name: array[number] for name, array in parts.items()}, jax.random.fold_in(key, number)


def _scales(
    forward: RunForward, variables: Variables, parts: Batch, key: jax.Array, microbatches: int
) -> jax.Array | None:
    """Return the weight of each part's loss in their mean, 1 on average; None if all weigh alike.

    Each weight takes a forward pass, of which the compiler keeps only its computation: a sum over a mask.
    """

    def weight(number: jax.Array) -> jax.Array | None:
        return forward(variables, *_part(parts, key, number)).weight

    numbers = jnp.arange(microbatches)
    if jax.eval_shape(weight, numbers[0]) is None:
        return None
    weights = jax.lax.map(weight, numbers)
    total = jnp.sum(weights)
    return microbatches * weights / jnp.where(total > 0, total, 1)
