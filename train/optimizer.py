"""Optax optimizers from the configuration."""

from typing import Any

import jax
import optax

from train.config.optimizers import AdamOptions, AdamWOptions, SgdOptions
from train.config.schedule import end


def build(
    options: AdamOptions | AdamWOptions | SgdOptions, *, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Build an optimizer, clipping included, and the schedule of its learning rate.

    Args:
        options: the section `optimizer` of the configuration.
        steps: length of the run, at whose end a cosine schedule reaches 0 without a `decay_steps`.
    """
    schedule = _schedule(options, steps)
    clip = optax.identity() if options.clip_norm is None else optax.clip_by_global_norm(options.clip_norm)
    return optax.chain(clip, _rule(options, schedule)), schedule


def _schedule(options: AdamOptions | AdamWOptions | SgdOptions, steps: int) -> optax.Schedule:
    peak = options.learning_rate
    if options.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, end(options, steps) - options.warmup))
    else:
        after = optax.constant_schedule(peak)
    # The first step of a warmup already moves: its rate is a fraction of the peak, not 0.
    rise = optax.linear_schedule(peak / (options.warmup + 1), peak, max(1, options.warmup))
    return optax.join_schedules([rise, after], [options.warmup])


def _rule(
    options: AdamOptions | AdamWOptions | SgdOptions, schedule: optax.Schedule
) -> optax.GradientTransformation:
    match options:
        case AdamOptions():
            return optax.adam(schedule, options.b1, options.b2, options.eps)
        case AdamWOptions():
            return optax.adamw(
                schedule,
                options.b1,
                options.b2,
                options.eps,
                weight_decay=options.weight_decay,
                mask=_is_decayed,
            )
        case SgdOptions():
            return optax.sgd(schedule, options.momentum or None, nesterov=options.nesterov)


def _is_decayed(params: Any) -> Any:
    """Mark all but biases and the scales of normalisations, which have nothing to gain from being small."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)
