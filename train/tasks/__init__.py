"""Tasks: one file for each, a model that sows and a class with the form of `Task`.

A task of your own is a subclass of `Task` in a module of your own, chosen by `task.name=module:Class` and
found from the working folder. Its class may have three more attributes:

    needs: names of the arrays that the task takes from a batch. Data without one is an error before the
        training. By default none.
    better: "lower" or "higher", the direction in which the first of the results gets better; by default
        "lower".
    Options: a pydantic model of the task's settings, which have `--help`, defaults and checks like all
        others. The class is called with an instance of it.
"""

import importlib
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

import sowlog
from train.config.own import OwnTask
from train.config.tasks import TaskOptions

Variables = dict[str, Any]
"""Flax variable collections: "params", and others of the model (such as "batch_stats")."""

Batch = dict[str, jax.Array]

DRAWN = 8
"""Images that an evaluation draws, in a row; more would be shrunk in the width of a card of TensorBoard."""


class Forward(NamedTuple):
    """The result of one forward pass.

    Attributes:
        loss: the task's own loss, a float32 scalar, without the sown losses.
        metrics: sowlog states computed outside the model, by name.
        updates: the updates from `sowlog.collect`: "metrics", "losses" and the mutable collections.
        weight: the weight of the loss in averages over microbatches and over the batches of an evaluation: a
            scalar, the number of elements of which the loss is the mean, such as `mask.sum()` for a loss over
            tokens without padding. A loss of weight 0 must be finite: divide by `jnp.maximum(..., 1)`. None
            is the number of examples. Sown losses are always averaged over examples.
        confusion: the state of `confusion(labels, predicted, classes)`, which an evaluation merges over its
            batches and logs as the image `eval/confusion`. Training steps do not use it.
    """

    loss: jax.Array
    metrics: dict[str, Any]
    updates: dict[str, Any]
    weight: jax.Array | None = None
    confusion: sowlog.State | None = None


def confusion(labels: jax.Array, predicted: jax.Array, classes: int) -> sowlog.State:
    """Return the counts of true by predicted classes [K, K]; a label beyond the classes is not counted.

    Args:
        labels: the true classes, integers of any shape.
        predicted: the predicted classes, of the same shape.
        classes: the number of classes K.
    """
    true, hit = (jax.nn.one_hot(array.ravel(), classes) for array in (labels, predicted))
    # Products of zeros and ones are exact, whatever precision the device multiplies in.
    return sowlog.sum(axis=()).of(true.T @ hit)


class Task(Protocol):
    """A model with its loss.

    Attributes:
        losses: names of the losses that the model must sow; a missing one is an error, never 0.
        results: tags (or globs of them: `*` is within one part, `**` any number of parts) of an evaluation
            that the final table shows, the most important first. The first ranks a sweep.
    """

    losses: tuple[str, ...] = ()
    results: tuple[str, ...] = ("loss",)

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        """Draw the variables of a new run."""
        ...

    def forward(self, variables: Variables, batch: Batch, key: jax.Array | None) -> Forward:
        """Run the model on a batch.

        Args:
            variables: the variables of this step, with parameters in the precision of the run.
            batch: arrays with the examples on their first axis, as the data has them.
            key: the randomness of a training step; None in an evaluation.
        """
        ...

    def advance(self, variables: Variables, updates: dict[str, Any]) -> Variables:
        """Return the variables beside "params" for the next step, outside the gradient; by default none.

        Args:
            variables: the variables of this step, before the update of the parameters.
            updates: `Forward.updates` of the whole batch: merged over microbatches, arrays averaged.
        """
        return {}


@runtime_checkable
class Draws(Protocol):
    """A task with the optional method `draw`, which is called at each evaluation."""

    def draw(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Return images of a held-out batch by tag, in 0 … 1; traced in the evaluation.

        An array [H, W, C] is one image. An array [R, N, H, W, C] is a grid: R rows of N images, enlarged so
        that small ones can be seen, as of originals over their reconstructions.
        """
        ...


def drawable(image: jax.Array) -> jax.Array | None:
    """Return the first images of a batch, or None if its arrays [B, H, W, C] are no images to look at."""
    is_image = image.ndim == 4 and image.shape[-1] in {1, 3, 4}
    return image[:DRAWN].astype(jnp.float32) if is_image else None


def as_input(x: jax.Array, variables: Variables) -> jax.Array:
    """Return a floating-point input of a model, cast to the dtype of its parameters.

    Under `precision=bfloat16` parameters are bfloat16, and a batch keeps the dtypes of the data, since its
    arrays may be targets. A layer computes in float32 with a float32 input: correct, but slow.
    """
    return x.astype(jnp.result_type(*jax.tree.leaves(variables["params"])))


def build(options: TaskOptions) -> Task:
    """Build the task that the configuration names; other built-in tasks are not imported."""
    if isinstance(options, OwnTask):
        return options.builds(options)
    file, _, name = options.builds.partition(":")
    return getattr(importlib.import_module(f"train.tasks.{file}"), name)(options)
