"""Jaxprs that sow: their evaluation, and copies with the states as results, or without sows."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sowlog._sow import cadence, internals
from sowlog._sow.collector import collecting, silent, sows_of
from sowlog._sow.labels import Sown


def with_sown(jaxpr: Any) -> Callable[..., tuple[list[Any], Sown]]:
    """Return a function that evaluates a jaxpr, and also returns the states of its sows.

    It closes over the numbers that the cadences in the jaxpr read, at the level of the caller.
    """
    numbers = cadence.given_to(cadence.names_in(jaxpr))

    def run(*args: Any) -> tuple[list[Any], Sown]:
        with collecting() as collector, cadence.given(numbers):
            results = internals.evaluate(jaxpr, *args)
        return list(results), collector.sown

    return run


class HandedOut(NamedTuple):
    """A jaxpr with its sown states among its results.

    Attributes:
        jaxpr: the jaxpr, with the numbers that its cadences read as its first operands, and the leaves of the
            sown states as its last results.
        names: the names of these numbers.
        structure: the structure of the states.
    """

    jaxpr: Any
    names: list[str]
    structure: Any

    @property
    def more(self) -> int:
        """Return the number of further results."""
        return self.structure.num_leaves


_jitted: weakref.WeakKeyDictionary[Any, HandedOut] = weakref.WeakKeyDictionary()


def handed_out(jaxpr: Any, args: Sequence[Any]) -> HandedOut:
    """Return a jaxpr with its sown states as further results.

    The result is cached by jaxpr, so that a jitted function that is called again is not compiled again.

    Raises:
        LostMetricError: A transform in the jaxpr that has no rule holds a sow.
    """
    if jaxpr in _jitted:
        return _jitted[jaxpr]
    structures: list[Any] = []
    numbers = cadence.given_to(cadence.names_in(jaxpr))

    def run(values: Sequence[Any], *args: Any) -> list[Any]:
        with cadence.given(dict(zip(numbers, values, strict=True))):
            results, sown = with_sown(jaxpr)(*args)
        leaves, structure = jax.tree.flatten(sown)
        structures.append(structure)
        return [*results, *leaves]

    # Raise where a transform without a rule sows: an evaluation would only bind it again.
    sows_of(jaxpr)
    traced = jax.make_jaxpr(run)(list(numbers.values()), *args)
    _jitted[jaxpr] = HandedOut(traced, list(numbers), structures[0])
    return _jitted[jaxpr]


def without_sows(jaxpr: Any, more: Sequence[Any]) -> Any:
    """Return a jaxpr without its sows, with zeros of the abstract values `more` as further results."""

    def run(*args: Any) -> list[Any]:
        with silent():
            results = internals.evaluate(jaxpr, *args)
        return [*results, *(jnp.zeros(aval.shape, aval.dtype) for aval in more)]

    return jax.make_jaxpr(run)(*jaxpr.in_avals)
