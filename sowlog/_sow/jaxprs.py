"""Jaxprs that sow: their evaluation, and copies with the states as results, or without sows."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sowlog._sow import internals
from sowlog._sow.collector import collecting, silent, sows_of
from sowlog._sow.labels import Sown


def with_sown(jaxpr: Any) -> Callable[..., tuple[list[Any], Sown]]:
    """Return a function that evaluates a jaxpr, and also returns the states of its sows."""

    def run(*args: Any) -> tuple[list[Any], Sown]:
        with collecting() as collector:
            results = internals.evaluate(jaxpr, *args)
        return list(results), collector.sown

    return run


_jitted: weakref.WeakKeyDictionary[Any, tuple[Any, Any, int]] = weakref.WeakKeyDictionary()


def handed_out(jaxpr: Any, args: Sequence[Any]) -> tuple[Any, Any, int]:
    """Return a jaxpr with its sown states as further results, their structure, and their number.

    The result is cached by jaxpr, so that a jitted function that is called again is not compiled again.

    Raises:
        LostMetricError: A transform in the jaxpr that has no rule holds a sow.
    """
    if jaxpr in _jitted:
        return _jitted[jaxpr]
    structures: list[Any] = []

    def run(*args: Any) -> list[Any]:
        results, sown = with_sown(jaxpr)(*args)
        leaves, structure = jax.tree.flatten(sown)
        structures.append(structure)
        return [*results, *leaves]

    # Raise where a transform without a rule sows: an evaluation would only bind it again.
    sows_of(jaxpr)
    traced = jax.make_jaxpr(run)(*args)
    _jitted[jaxpr] = (traced, structures[0], structures[0].num_leaves)
    return _jitted[jaxpr]


def without_sows(jaxpr: Any, more: Sequence[Any]) -> Any:
    """Return a jaxpr without its sows, with zeros of the abstract values `more` as further results."""

    def run(*args: Any) -> list[Any]:
        with silent():
            results = internals.evaluate(jaxpr, *args)
        return [*results, *(jnp.zeros(aval.shape, aval.dtype) for aval in more)]

    return jax.make_jaxpr(run)(*jaxpr.in_avals)
