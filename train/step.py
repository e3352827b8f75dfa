"""The jitted functions of a run: one training step, and one evaluation."""

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import sowlog
from train.config.errors import ConfigError
from train.config.experiment import Config, WatchOptions
from train.data.examples import HostBatch
from train.gradients import RunForward, joined, make_differentiate
from train.stop_rules import Patience
from train.tasks import Batch, Forward, Task, Variables
from train.tasks.selecting import select


class TrainState(NamedTuple):
    """All that changes from step to step, and all that a checkpoint holds.

    Attributes:
        step: int32 scalar, the number of updates made.
        variables: the model's collections, "params" among them.
        optimizer: optax's state.
        average: the moving average of the parameters; empty without one.
        patience: the state of early stopping.
    """

    step: jax.Array
    variables: Variables
    optimizer: optax.OptState
    average: dict[str, Any]
    patience: Patience


class Summary(NamedTuple):
    """The report of a step or an evaluation.

    Attributes:
        packed: every metric, for the logger.
        shown: the task's results, for the display, float32 scalars by tag.
        finite: bool scalar, whether the objective and its gradient (in an evaluation the loss) are finite.
        images: the images of an evaluation, uint8 [H, W, C] or [R, N, H, W, C] by tag; empty in a training
            step.
        confusion: the confusion matrix of an evaluation, float32 [K, K], if the task has one.
    """

    packed: sowlog.Packed
    shown: dict[str, jax.Array]
    finite: jax.Array
    images: dict[str, jax.Array]
    confusion: jax.Array | None = None


Metrics = dict[str, Any]
"""A tree of sowlog states and numbers, as `sowlog.pack` takes it."""

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Summary]]


def make_init(
    task: Task,
    optimizer: optax.GradientTransformation,
    config: Config,
    *,
    shardings: TrainState | None = None,
) -> Callable[[HostBatch], TrainState]:
    """Return the jitted function from a first batch, of which only the shapes matter, to a new state.

    Args:
        task: the task that draws the variables.
        optimizer: the optimizer, for its first state.
        config: the experiment.
        shardings: the sharding of each array, from `Devices.shardings`; None leaves it to JAX.
    """

    def init(batch: Batch) -> TrainState:
        variables = task.init(jax.random.key(config.seed), batch)
        params = variables["params"]
        average = {} if config.ema is None else jax.tree.map(jnp.copy, params)
        return TrainState(jnp.int32(0), variables, optimizer.init(params), average, Patience.new())

    return jax.jit(init, out_shardings=shardings)


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Config,
    *,
    shardings: tuple[TrainState, Any] | None = None,
) -> TrainStep:
    """Return the jitted training step. The state is donated: the old one cannot be used again.

    Args:
        task: the model with its loss.
        optimizer: the rule of the update.
        schedule: the schedule of the learning rate, which is logged.
        config: the experiment.
        shardings: the shardings of the next state and of the summary; None leaves them to JAX. A next state
            with the shardings of the donated one reuses its memory.
    """
    update = make_update(task, optimizer, schedule, config)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Summary]:
        state, metrics = update(state, batch)
        finite = jnp.isfinite(metrics["objective"]) & jnp.isfinite(metrics["norm"]["grads"])
        return state, summarize(metrics, task.results, finite)

    return jax.jit(train_step, donate_argnums=0, out_shardings=shardings)


def make_update(
    task: Task, optimizer: optax.GradientTransformation, schedule: optax.Schedule, config: Config
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Return the function from a state and a batch, as `devices.cut` returns it, to next state and metrics.

    Its randomness comes from seed and step alone, so a resumed run repeats it.
    """
    of_updates = [one for one in _watches(config.watch) if one.of == "updates"]
    differentiate = _make_differentiate(task, config)

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        params = state.variables["params"]
        value, passed, grads = differentiate(state, batch)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, params)
        passed = _with_updates(passed, updates, of_updates, state.step)
        params = optax.apply_updates(params, updates)
        metrics = {
            **metrics_of(passed),
            "objective": value,
            "learning_rate": schedule(state.step),
            "norm": {"grads": _norm(grads), "updates": _norm(updates), "params": _norm(params)},
        }
        variables = {"params": params, **task.advance(state.variables, passed.updates)}
        average = state.average if config.ema is None else _average(config.ema, state, params)
        return TrainState(state.step + 1, variables, optimizer_state, average, state.patience), metrics

    return update


def make_checked(task: Task, config: Config) -> Callable[[TrainState, Batch], dict[str, jax.Array]]:
    """Return the function from a state and a batch to the values that `Summary.finite` is about, by tag."""
    differentiate = _make_differentiate(task, config)

    def checked(state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        value, _, grads = differentiate(state, batch)
        return {"objective": value, "norm/grads": _norm(grads)}

    return checked


def _make_differentiate(
    task: Task, config: Config
) -> Callable[[TrainState, Batch], tuple[jax.Array, Forward, Any]]:
    """Return the function from a state and a batch to the objective, the forward pass and the gradient."""
    forward = _watched(
        functools.partial(run_forward, task, config),
        [one for one in _watches(config.watch) if one.of != "updates"],
    )
    differentiate = make_differentiate(forward, losses=task.losses, microbatches=config.microbatches)

    def differentiated(state: TrainState, batch: Batch) -> tuple[jax.Array, Forward, Any]:
        # Apart from the key of `init`, which draws from the seed itself.
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 1), state.step)
        return differentiate(state.variables, batch, key, state.step)

    return differentiated


def _watches(options: WatchOptions | None) -> list[sowlog.watch]:
    if options is None:
        return []
    families = [name for name in options.statistics if name in ("health", "norms")]
    reducers = [getattr(sowlog, name) for name in options.statistics if name not in families]
    return [
        sowlog.watch(glob, statistics, of=of, every=options.every)
        for glob in options.modules
        for of in options.of
        for statistics in (*families, reducers)
        if statistics
    ]


def _watched(forward: RunForward, watches: list[sowlog.watch]) -> RunForward:
    """Return a forward pass whose modules are watched."""

    def watched(*arguments: Any) -> Forward:
        with contextlib.ExitStack() as stack, _matching():
            for watch in watches:
                stack.enter_context(watch)
            return forward(*arguments)

    return watched if watches else forward


def _with_updates(passed: Forward, updates: Any, watches: list[sowlog.watch], step: jax.Array) -> Forward:
    """Return a pass with the statistics of watched updates among its metrics."""
    if not watches:
        return passed
    observer = sowlog.observe("updates", depth=0)
    with _matching():
        _, sown = sowlog.collect(observer.update, watch=watches, step=step)(updates, observer.init(updates))
    metrics = joined(passed.updates["metrics"], sown["metrics"])
    return passed._replace(updates={**passed.updates, "metrics": metrics})


@contextlib.contextmanager
def _matching() -> Generator[None]:
    """Report a watch that matches no module as an error in the configuration."""
    try:
        yield
    except sowlog.UnmatchedWatchError as error:
        raise ConfigError([f"watch.modules: {error}"]) from None


def run_forward(
    task: Task, config: Config, variables: Variables, batch: Batch, key: jax.Array | None
) -> Forward:
    """Run the task with its parameters cast to `config.precision`; the other variables keep their dtypes.

    Raises:
        TypeError: The loss is bfloat16.
        ValueError: The weight of the loss is not a scalar.
    """
    if config.precision == "bfloat16":
        variables = {**variables, "params": _halve(variables["params"])}
    forward = task.forward(variables, batch, key)
    if config.precision == "bfloat16" and forward.loss.dtype == jnp.bfloat16:
        raise TypeError(
            "the task's loss is bfloat16, which has three digits: losses and metrics are float32 under "
            "precision=bfloat16. Write: outputs.astype(jnp.float32) before the loss is computed of them."
        )
    weight = None if forward.weight is None else jnp.asarray(forward.weight, jnp.float32)
    if weight is not None and weight.shape:
        raise ValueError(
            "the weight of a loss is a scalar, the number of elements that it averages; got shape "
            f"{weight.shape}. Write: Forward(..., weight=mask.sum())."
        )
    return forward._replace(loss=forward.loss.astype(jnp.float32), weight=weight)


def _halve(tree: Any) -> Any:
    """Cast floating-point arrays to bfloat16; the gradient through it is float32."""
    return jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def _average(ema: float, state: TrainState, params: Any) -> Any:
    """Move the average towards the parameters; at first faster, since it began at random parameters."""
    decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.average, params)


def _norm(tree: Any) -> jax.Array:
    """Return the Euclidean norm of all of a tree's numbers (optax has renamed its own)."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def metrics_of(forward: Forward) -> Metrics:
    """Return the loss, the metrics and everything sown of one forward pass, as one tree."""
    sown = forward.updates["metrics"]
    losses = {"losses": forward.updates["losses"]} if forward.updates["losses"] else {}
    return {"loss": sowlog.mean.of(forward.loss), **forward.metrics, **sown, **losses}


def summarize(
    metrics: Metrics, results: tuple[str, ...], finite: jax.Array, prefix: str | None = None
) -> Summary:
    """Return a summary of metrics: all packed for the logger, those of a task's results to be shown."""
    packed = sowlog.pack(metrics)
    computed = sowlog.compute(packed)
    shown = {tag: computed[tag] for tag in select(results, computed)}
    return Summary(sowlog.pack({prefix: packed}) if prefix else packed, shown, finite, {})
