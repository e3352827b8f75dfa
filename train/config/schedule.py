"""The length of a learning rate's schedule when a run is made longer, decided before anything is trained."""

import math

from train.config.experiment import Config
from train.config.optimizers import OptimizerOptions


def end(options: OptimizerOptions, steps: int) -> int:
    """Return the step at which a cosine reaches 0, in a run of so many steps."""
    return options.decay_steps or steps


def _stop(options: OptimizerOptions, steps: int) -> int:
    """Return the first step at a rate of 0: a warmup comes first, however long it is."""
    return max(end(options, steps), options.warmup + 1)


def rate(options: OptimizerOptions, steps: int, at: int) -> float:
    """Return the learning rate of the update at a step, as optax computes it for `optimizer.build`."""
    peak, warmup = options.learning_rate, options.warmup
    if at < warmup:
        return peak * (at + 1) / (warmup + 1)
    if options.schedule == "constant":
        return peak
    passed = (at - warmup) / max(1, end(options, steps) - warmup)
    return peak * (1 + math.cos(math.pi * min(passed, 1.0))) / 2


def with_end(config: Config, decay_steps: int | None) -> Config:
    """Return a configuration whose cosine ends at a step; None leaves it as it is."""
    if decay_steps is None:
        return config
    options = config.optimizer.model_copy(update={"decay_steps": decay_steps})
    return config.model_copy(update={"optimizer": options})


def inherited_end(old: Config, new: Config, trained: int) -> int | None:
    """Return the step at which the cosine of a continued run ends; None if the configuration has it.

    Args:
        old: the run's configuration so far.
        new: the one that it is to continue with.
        trained: updates that its newest checkpoint holds.
    """
    before = end(old.optimizer, old.steps)
    is_open = new.optimizer.schedule == "cosine" and new.optimizer.decay_steps is None
    return before if is_open and trained and before != new.steps else None


def describe_change(old: Config, new: Config, trained: int) -> str:
    """Return a line on the learning rate of a run that continues; empty if the schedule is the same.

    Args:
        old: the run's configuration so far.
        new: the one that it continues with, its cosine's end settled.
        trained: updates that its newest checkpoint holds.
    """
    before, now = end(old.optimizer, old.steps), end(new.optimizer, new.steps)
    if new.optimizer.schedule != "cosine" or not trained:
        return ""
    if before != now:
        rates = rate(old.optimizer, old.steps, trained), rate(new.optimizer, new.steps, trained)
        return (
            f"the cosine of the learning rate ends at step {now}, and was to end at step {before}: at step "
            f"{trained} the rate is {rates[1]:.3g} in place of {rates[0]:.3g}."
        )
    if new.steps < min(old.steps, now):
        return (
            f"steps is lowered from {old.steps} to {new.steps}, and the cosine of the learning rate still "
            f"ends at step {now}: the last rate is {rate(new.optimizer, new.steps, new.steps - 1):.3g}."
        )
    if old.steps < new.steps and (stop := _stop(new.optimizer, new.steps)) < new.steps:
        return (
            f"steps is raised from {old.steps} to {new.steps}, and the cosine of the learning rate still "
            f"ends at step {stop}: from there the rate is 0. To spread it over the longer run, write: "
            f"optimizer.decay_steps={new.steps}."
        )
    return ""


def describe_nothing_to_learn(old: Config, new: Config, trained: int) -> str:
    """Return why a longer run would learn nothing: its cosine has ended. Empty if it has not.

    Args:
        old: the run's configuration so far.
        new: the one that it is to continue with, its cosine's end settled.
        trained: updates that its newest checkpoint holds.
    """
    now = _stop(new.optimizer, new.steps)
    if new.optimizer.schedule != "cosine" or new.steps <= old.steps or not trained or trained < now:
        return ""
    stretched = with_end(new, new.steps)
    return (
        f"steps is raised from {old.steps} to {new.steps}, and the cosine of the learning rate has ended at "
        f"step {now}: at a rate of 0 nothing more is learned. To spread it over the longer run, write: "
        f"optimizer.decay_steps={new.steps} (at step {trained} the rate is "
        f"{rate(stretched.optimizer, new.steps, trained):.3g} then). With another --workdir, all {new.steps} "
        "steps are trained on one schedule."
    )
