"""What is measured on held-out data: its batches and what is left over, each example counted once."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

import sowlog
from train.tasks import Batch, Variables

Metrics = dict[str, Any]
"""A tree of sowlog states and numbers, as `sowlog.pack` takes it."""


class Measured(NamedTuple):
    """Metrics of one batch, or of several.

    Attributes:
        by_element: what weighs itself, as a mean of elements does.
        by_pass: means over the examples of a batch, which know nothing of their number: losses.
    """

    by_element: Metrics
    by_pass: Metrics


class Measure(Protocol):
    """The function from variables and held-out data to the metrics of all of it."""

    def __call__(self, variables: Variables, batches: Batch, remainder: Batch | None = None) -> Metrics:
        """Returns the metrics.

        Args:
            variables: the model's.
            batches: of one size, stacked along a first axis.
            remainder: a stack of one batch of fewer examples, if some are left over.
        """
        ...


def measure_all(measure: Callable[[Variables, Batch], Measured]) -> Measure:
    """Returns the function that measures all held-out data, by one that measures a batch.

    The remainder is run in its true size, a second shape in the same program: padded to that of a batch it
    would need a mask in each task, model and statistic, a user's too.
    """

    def measured(variables: Variables, batches: Batch) -> Measured:
        def add(total: Measured, batch: Batch) -> tuple[Measured, None]:
            return sowlog.merge(total, measure(variables, batch)), None

        first = {name: array[0] for name, array in batches.items()}
        nothing = sowlog.empty_like(jax.eval_shape(measure, variables, first))
        return jax.lax.scan(add, nothing, batches)[0]

    def metrics(variables: Variables, batches: Batch, remainder: Batch | None = None) -> Metrics:
        whole = measured(variables, batches)
        if not remainder:
            return {**whole.by_element, **whole.by_pass}
        rest = measured(variables, remainder)
        sizes = _examples(batches), _examples(remainder)
        unit = math.gcd(*sizes)
        by_pass = sowlog.merge(
            _repeat(whole.by_pass, sizes[0] // unit), _repeat(rest.by_pass, sizes[1] // unit)
        )
        return {**sowlog.merge(whole.by_element, rest.by_element), **by_pass}

    return metrics


def _examples(batches: Batch) -> int:
    """Returns the number of examples of each of some stacked batches."""
    return next((array.shape[1] for array in batches.values() if array.ndim > 1), 1)


def _repeat(states: Metrics, times: int) -> Metrics:
    """Returns states merged with themselves, as if all that they have seen had come so many times."""
    if times == 1:
        return states
    half = _repeat(states, times // 2)
    twice = sowlog.merge(half, half)
    return sowlog.merge(twice, states) if times % 2 else twice
