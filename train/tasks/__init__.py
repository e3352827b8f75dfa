"""Tasks: one file for each, a model that sows and a class with the form of `Task`.

A task of your own is a subclass of `Task` in a module of your own, chosen by `task.name=module:Class` and
found from the working folder. Beside what `Task` has, its class may say:

    needs: arrays that it takes from a batch, which the data is checked for; by default none.
    better: "lower" or "higher", which way the first of its results gets better; by default "lower".
    Options: a pydantic model of its settings, which come with `--help`, defaults and checks like all others;
        the class is built with an instance of it.
"""

import importlib
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from train.config.own import OwnTask
from train.config.tasks import TaskOptions

Variables = dict[str, Any]
"""Flax variable collections: "params", and what else the model keeps (such as "batch_stats")."""

Batch = dict[str, jax.Array]


class Forward(NamedTuple):
    """The result of one forward pass.

    Attributes:
        loss: the task's own loss, a float32 scalar, without what the model sowed.
        metrics: sowlog states computed outside the model, by name.
        updates: what `sowlog.collect` returned: "metrics", "losses" and the mutable collections.
        weight: how much the loss counts where batches are averaged, over microbatches and in an evaluation:
            a scalar, the number of elements that it averages, such as `mask.sum()` of a loss over tokens that
            are not padding. Where it is 0 the loss is to be finite still: divide by `jnp.maximum(..., 1)`.
            None counts the examples, of which the loss is then a mean. Losses that the model sows are
            averaged over examples in any case.
    """

    loss: jax.Array
    metrics: dict[str, Any]
    updates: dict[str, Any]
    weight: jax.Array | None = None


class Task(Protocol):
    """A model with its loss.

    Attributes:
        losses: names of the losses that the model must sow; one that is missing is an error, never 0.
        results: tags (or globs of them) of an evaluation that the final table shows, the most important
            first; a sweep is ranked by it.
    """

    losses: tuple[str, ...] = ()
    results: tuple[str, ...] = ("loss",)

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Draw the variables of a new run."""
        ...

    def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
        """Run the model on a batch: to train with `key`, the randomness of this step; None to evaluate."""
        ...

    def advance(self, variables: Variables, updates: dict[str, Any]) -> Variables:
        """Return the variables beside "params" for the next step, outside the gradient; by default none.

        Args:
            variables: those of this step, before the parameters were updated.
            updates: `Forward.updates` of the whole batch: merged over microbatches, arrays averaged.
        """
        return {}


@runtime_checkable
class Draws(Protocol):
    """A task with pictures: its `draw`, which is optional, is called at each evaluation."""

    def draw(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Return images [H, W, C] in 0 … 1 by tag, of a held-out batch; inside the jitted evaluation."""
        ...


def as_input(x: jax.Array, variables: Variables) -> jax.Array:
    """Return a floating-point input of a model in the precision of its parameters, to compute in it.

    Under `precision=bfloat16` these are bfloat16, while a batch is as the data has it, since its arrays may
    be targets: a layer computes in float32 whatever it takes as float32, which is right and slow.
    """
    return x.astype(jnp.result_type(*jax.tree.leaves(variables["params"])))


def build(options: TaskOptions) -> Task:
    """Build the task that the configuration names; of those here, only its own file is imported."""
    if isinstance(options, OwnTask):
        return options.builds(options)
    file, _, name = options.builds.partition(":")
    return getattr(importlib.import_module(f"train.tasks.{file}"), name)(options)
