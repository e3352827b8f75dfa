"""The two jitted functions of a run: one training step, and one evaluation."""

import fnmatch
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import sowlog
from train.tasks import Batch, Forward, Task, Variables


class TrainState(NamedTuple):
    """All that changes from step to step, and all that a checkpoint holds.

    Attributes:
        step: int32 scalar, the number of updates made.
        variables: the model's collections, "params" among them.
        optimizer: optax's state.
    """

    step: jax.Array
    variables: Variables
    optimizer: optax.OptState


class Report(NamedTuple):
    """What a step or an evaluation tells.

    Attributes:
        packed: every metric, for the logger.
        shown: the few that a person reads, float32 scalars by tag.
    """

    packed: sowlog.Packed
    shown: dict[str, jax.Array]


Metrics = dict[str, Any]
"""A tree of sowlog states and numbers, as `sowlog.pack` takes it."""

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Report]]
Evaluate = Callable[[Variables, Batch], Report]


def make_init(
    task: Task, optimizer: optax.GradientTransformation, *, seed: int
) -> Callable[[Batch], TrainState]:
    """Returns the jitted function from a first batch, of which it takes only the shapes, to a new state."""

    def init(batch: Batch) -> TrainState:
        variables = task.init(jax.random.key(seed), batch)
        return TrainState(jnp.int32(0), variables, optimizer.init(variables["params"]))

    return jax.jit(init)


def make_train_step(
    task: Task, optimizer: optax.GradientTransformation, schedule: optax.Schedule, *, seed: int
) -> TrainStep:
    """Returns the jitted training step. It takes the state over: the old one cannot be used again."""
    update = make_update(task, optimizer, schedule, seed=seed)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Report]:
        state, metrics = update(state, batch)
        return state, _report(metrics, task)

    return jax.jit(train_step, donate_argnums=0)


def make_update(
    task: Task, optimizer: optax.GradientTransformation, schedule: optax.Schedule, *, seed: int
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the function from a state and a batch to the next state and the step's metrics.

    Its randomness comes from seed and step alone, so a run that is taken up repeats it.
    """

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        # Apart from the key of `init`, which draws from the seed itself.
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), state.step)
        rest = {name: value for name, value in state.variables.items() if name != "params"}

        def objective(params: Any) -> tuple[jax.Array, Forward]:
            forward = task.forward({"params": params, **rest}, batch, key)
            return forward.loss + sowlog.total_loss(forward.updates, expect=task.losses), forward

        params = state.variables["params"]
        (value, forward), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        metrics = {
            **_metrics(forward),
            "objective": value,
            "learning_rate": schedule(state.step),
            "norm": {
                "grads": _norm(grads),
                "updates": _norm(updates),
                "params": _norm(params),
            },
        }
        variables = {"params": params, **{name: forward.updates[name] for name in rest}}
        return TrainState(state.step + 1, variables, optimizer_state), metrics

    return update


def make_evaluate(task: Task) -> Evaluate:
    """Returns the jitted evaluation: all held-out batches, stacked on the first axis, in one go."""
    measure = make_measure(task)
    return jax.jit(lambda variables, batches: _report(measure(variables, batches), task, prefix="eval"))


def make_measure(task: Task) -> Callable[[Variables, Batch], Metrics]:
    """Returns the function from variables and stacked batches to the metrics of all of them."""

    def measure(variables: Variables, batches: Batch) -> Metrics:
        def metrics(batch: Batch) -> Metrics:
            return _metrics(task.forward(variables, batch, None))

        def add(total: Any, batch: Batch) -> tuple[Any, None]:
            return sowlog.merge(total, metrics(batch)), None

        first = {name: array[0] for name, array in batches.items()}
        nothing = sowlog.empty_like(jax.eval_shape(metrics, first))
        total, _ = jax.lax.scan(add, nothing, batches)
        return total

    return measure


def _norm(tree: Any) -> jax.Array:
    """Returns the Euclidean norm of all of a tree's numbers (optax has renamed its own)."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def _metrics(forward: Forward) -> Metrics:
    sown = forward.updates["metrics"]
    losses = {"losses": forward.updates["losses"]} if forward.updates["losses"] else {}
    return {"loss": sowlog.mean.of(forward.loss), **forward.metrics, **sown, **losses}


def _report(metrics: Metrics, task: Task, prefix: str | None = None) -> Report:
    packed = sowlog.pack({prefix: metrics} if prefix else metrics)
    results = sowlog.compute(metrics)
    return Report(
        packed, {tag: results[tag] for glob in task.results for tag in fnmatch.filter(results, glob)}
    )
