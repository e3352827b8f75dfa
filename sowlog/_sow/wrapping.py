"""Functions of JAX that are wrapped, once: outside of a `collect` each passes through after one look."""

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax

from sowlog._sow import internals


def wrap(primitive: Any, is_active: Callable[[], bool], rule: internals.Rule) -> None:
    """Let a primitive be bound by a rule while something is active."""
    if not internals.is_complete():
        return
    bind = primitive.bind

    def bind_or_rule(*args: Any, **params: Any) -> Any:
        return rule(bind, args, params) if is_active() else bind(*args, **params)

    primitive.bind = bind_or_rule


def _wrap_function(place: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    if not internals.is_complete():
        return
    module, _, name = place.partition(":")
    found = importlib.import_module(f"jax._src.{module}")
    setattr(found, name, functools.wraps(getattr(found, name))(wrapper(getattr(found, name))))


def wrap_eager_jit(is_active: Callable[[], bool]) -> None:
    """Let a jitted function that sows be bound also where no trace runs, which JAX does not do."""

    def wrapper(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_or_bind(*args: Any, **params: Any) -> Any:
            if is_active() and internals.holds_sows(params["jaxpr"]):
                return internals.JIT.bind(*args, **params), None, None, []
            return call(*args, **params)

        return call_or_bind

    _wrap_function(internals.EAGER_JIT, wrapper)


def wrap_forward_mode(
    is_active: Callable[[], bool], once: Callable[[Any], contextlib.AbstractContextManager[None]]
) -> None:
    """Let a function run in a context, made of the trace, where vmap maps its tangents only: it runs once.

    `jax.jacfwd` maps it so over a basis.
    """

    def wrapper(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_once(function: Any, values: Any, tangents: Any, *args: Any, **kwargs: Any) -> Any:
            trace = next(internals.current_traces())
            if not is_active() or _is_mapped(trace, values) or not _is_mapped(trace, tangents):
                return call(function, values, tangents, *args, **kwargs)
            with once(trace):
                return call(function, values, tangents, *args, **kwargs)

        return call_once

    _wrap_function(internals.FORWARD_MODE, wrapper)


def wrap_linear_transpose(is_active: Callable[[], bool], silent: Callable[[], Any]) -> None:
    """Let `jax.linear_transpose` look at its function in silence: it runs the transpose alone."""

    def wrapper(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_in_silence(*args: Any, **kwargs: Any) -> Any:
            with silent() if is_active() else contextlib.nullcontext():
                return call(*args, **kwargs)

        return call_in_silence

    _wrap_function(internals.TRANSPOSE, wrapper)
    jax.linear_transpose = importlib.import_module("jax._src.api").linear_transpose


def _is_mapped(trace: Any, tree: Any) -> bool:
    batch = internals.mapped(trace, jax.tree.leaves(tree))
    return batch is not None and any(axis is not None for _, axis in batch[2])
