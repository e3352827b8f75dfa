"""Metrics of the held-out data, in batches and a remainder, each example counted once."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

import sowlog
from train.config.errors import ConfigError, did_you_mean
from train.config.experiment import Config
from train.step import Metrics, Summary, TrainState, metrics_of, run_forward, summarize
from train.tasks import Batch, Draws, Forward, Task, Variables
from train.tasks.selecting import select


class Measured(NamedTuple):
    """Metrics of one batch, or of several.

    Attributes:
        by_element: states that hold their own weight, as a mean over elements does.
        by_pass: losses, each a mean over the examples of a batch, without their number.
        counts: the confusion matrix of the task, if it has one.
    """

    by_element: Metrics
    by_pass: Metrics
    counts: Metrics


class Totals(NamedTuple):
    """The metrics of all held-out data.

    Attributes:
        metrics: the metrics.
        confusion: the confusion matrix of the task, float32 [K, K], if it has one.
    """

    metrics: Metrics
    confusion: jax.Array | None


class Measure(Protocol):
    """The function from variables and held-out data to the metrics of all of it."""

    def __call__(self, variables: Variables, batches: Batch, remainder: Batch | None = None) -> Totals:
        """Return the metrics, and the confusion matrix.

        Args:
            variables: the variables of the model.
            batches: batches of one size, stacked along a first axis.
            remainder: a stack of one smaller batch, if examples are left over.
        """
        ...


def measure_all(measure: Callable[[Variables, Batch], Measured]) -> Measure:
    """Return the function that measures all held-out data, by one that measures a batch.

    The remainder keeps its size, a second shape in the same program: a padded one would need a mask in each
    task, model and statistic, a user's too.
    """

    def measured(variables: Variables, batches: Batch) -> Measured:
        def add(total: Measured, batch: Batch) -> tuple[Measured, None]:
            return sowlog.merge(total, measure(variables, batch)), None

        first = {name: array[0] for name, array in batches.items()}
        nothing = sowlog.empty_like(jax.eval_shape(measure, variables, first))
        return jax.lax.scan(add, nothing, batches)[0]

    def totals(variables: Variables, batches: Batch, remainder: Batch | None = None) -> Totals:
        whole = measured(variables, batches)
        if not remainder:
            return _total(whole)
        rest = measured(variables, remainder)
        sizes = _examples(batches), _examples(remainder)
        unit = math.gcd(*sizes)
        by_pass = sowlog.merge(
            _repeat(whole.by_pass, sizes[0] // unit), _repeat(rest.by_pass, sizes[1] // unit)
        )
        by_element, counts = (
            sowlog.merge(getattr(whole, name), getattr(rest, name)) for name in ("by_element", "counts")
        )
        return _total(Measured(by_element, by_pass, counts))

    return totals


def _total(measured: Measured) -> Totals:
    counts = measured.counts.get("confusion")
    return Totals({**measured.by_element, **measured.by_pass}, None if counts is None else counts.compute())


def _examples(batches: Batch) -> int:
    """Return the number of examples of each of some stacked batches."""
    return next((array.shape[1] for array in batches.values() if array.ndim > 1), 1)


def _repeat(states: Metrics, times: int) -> Metrics:
    """Return states merged with themselves, as if each of their values had been sown so many times."""
    if times == 1:
        return states
    half = _repeat(states, times // 2)
    twice = sowlog.merge(half, half)
    return sowlog.merge(twice, states) if times % 2 else twice


def evaluated(state: TrainState) -> Variables:
    """Return the variables of an evaluation, with the averaged parameters if there are any."""
    return {**state.variables, "params": state.average} if state.average else state.variables


class Evaluate(Protocol):
    """The jitted function from variables and held-out data, as `Measure` takes them, to a summary."""

    def __call__(self, variables: Variables, batches: Batch, remainder: Batch | None = None) -> Summary:
        """Return the summary, which the device may still compute."""
        ...


def make_evaluate(task: Task, config: Config, *, sharding: Any = None) -> Evaluate:
    """Return the jitted evaluation: all held-out batches, stacked on the first axis, in one go.

    Args:
        task: the model with its loss.
        config: the experiment.
        sharding: the sharding of the summary; None leaves it to JAX.
    """
    measure = make_measure(task, config)
    watched = [] if config.early_stop is None else [config.early_stop.metric.removeprefix("eval/")]

    def evaluate(variables: Variables, batches: Batch, remainder: Batch | None = None) -> Summary:
        metrics, confusion = measure(variables, batches, remainder)
        finite = jnp.isfinite(metrics["loss"].compute())
        summary = summarize(metrics, (*task.results, *watched), finite, prefix="eval")
        return summary._replace(
            images=_draw(task, variables, {name: array[0] for name, array in batches.items()}),
            confusion=confusion,
        )

    return jax.jit(evaluate, out_shardings=sharding)


def make_measure(task: Task, config: Config) -> Measure:
    """Return the function that measures a task on held-out data."""

    def measure(variables: Variables, batch: Batch) -> Measured:
        return _measured(run_forward(task, config, variables, batch, None))

    return measure_all(measure)


def _measured(forward: Forward) -> Measured:
    metrics = metrics_of(forward)
    by_pass = {name: metrics.pop(name) for name in ("loss", "losses") if name in metrics}
    if forward.weight is not None:
        # A mean over no weight may be 0/0.
        loss = jnp.where(forward.weight > 0, forward.loss, 0)
        del by_pass["loss"]
        metrics["loss"] = sowlog.mean.of(loss, weight=forward.weight)
    counts = {} if forward.confusion is None else {"confusion": forward.confusion}
    return Measured(metrics, by_pass, counts)


def _draw(task: Task, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
    """Return the images that the task draws of a batch, as uint8: a few kB are copied off the device."""
    if not isinstance(task, Draws):
        return {}
    images = task.draw(variables, batch)
    return {
        f"eval/{tag}": jnp.round(255 * jnp.clip(image, 0, 1)).astype(jnp.uint8)
        for tag, image in images.items()
    }


def ranked(task: Task, tags: Iterable[str]) -> list[str]:
    """Return tags in the order of the task's results, which a jitted function's dict has lost."""
    return select((*task.results, "**"), tags)


def check_results(config: Config, task: Task, logged: Iterable[str]) -> tuple[str, ...]:
    """Return the tags of a task's results and of early stopping's metric, the most important first.

    Args:
        config: the experiment.
        task: the model with its loss.
        logged: tags of the evaluation, each after eval/.

    Raises:
        ConfigError: A result is no tag of the evaluation, or two directions contradict each other.
    """
    tags = sorted(tag.removeprefix("eval/") for tag in logged)
    watched = [] if config.early_stop is None else [config.early_stop.metric]
    errors = [*_unmatched(config, task, tags), *_contradictions(config, task, tags)]
    for metric in watched:
        if metric.removeprefix("eval/") not in tags:
            near = did_you_mean(metric, [f"eval/{tag}" for tag in tags])
            errors.append(f"early_stop.metric: no evaluation has {metric}{near}")
    if errors:
        raise ConfigError(errors)
    globs = (*task.results, *(metric.removeprefix("eval/") for metric in watched))
    return tuple(select(globs, tags))


def _unmatched(config: Config, task: Task, tags: list[str]) -> Iterator[str]:
    for glob in task.results:
        if not select([glob], tags):
            deeper = f"**/{glob}"
            near = f"; did you mean {deeper}?" if "*" in glob and select([deeper], tags) else ""
            near = near or did_you_mean(glob, tags) or f"; it has {', '.join(tags)}"
            yield f'task.name={config.task.name}: results: no evaluation has "{glob}"{near}'


def _contradictions(config: Config, task: Task, tags: list[str]) -> Iterator[str]:
    """Yield why a run would be ranked upside down: by a loss that rises, or not as it is stopped."""
    main = next(iter(select(task.results[:1], tags)), "")
    better, early = config.task.better, config.early_stop
    if better == "higher" and (main == "loss" or main.startswith("losses/")):
        yield (
            f'task.name={config.task.name}: better is "higher", and the first of its results, {main}, is '
            'a loss. Write: better = "lower", or another result first.'
        )
    if early is not None and early.metric == f"eval/{main}" and early.better != better:
        yield (
            f"early_stop.better: {early.better}, and {main} of task.name={config.task.name} gets better "
            f"as it gets {better}. Write: early_stop.better={better}."
        )
