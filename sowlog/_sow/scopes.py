"""Paths of sows outside of modules, `sowlog.scope`, and steps that are kept apart, `sowlog.stacked`."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

from sowlog._sow.collector import emit, is_collecting
from sowlog._sow.labels import METRICS, Label
from sowlog._sow.paths import inside, scope_path
from sowlog._sow.taps import collecting_step
from sowlog._sow.watching import call_watched, is_watching

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


class scope:  # noqa: N801 - used as a function
    """Put a name before the tags of the values sown inside: a context manager, or a decorator of a function.

    Scopes nest, and stand before the path of a module of linen or nnx. A module of Equinox, Haiku or Penzai
    has no path of its own: write the scope on its method, or around its call.

    Args:
        name: the name, or several joined by "/".

    Raises:
        TypeError: (when entered) The name is no string.
        ValueError: (when entered) The name or a part of it is empty.

    Example:
        >>> import jax, jax.numpy as jnp, sowlog
        >>> @sowlog.scope("layer")
        ... def layer(x):
        ...     sowlog.sow("rms", x, sowlog.rms)
        ...     return jnp.tanh(x)
        >>> def model(x):
        ...     with sowlog.scope("encoder"):
        ...         return layer(x)
        >>> y, updates = sowlog.collect(model)(jnp.ones(3))
        >>> sowlog.compute(updates["metrics"])
        {'encoder/layer/rms': np.float32(1.0)}

        >>> import equinox as eqx
        >>> class Attention(eqx.Module):
        ...     @sowlog.scope("attention")
        ...     def __call__(self, x):
        ...         sowlog.sow("rms", x, sowlog.rms)
        ...         return jnp.tanh(x)
        >>> def model(layers, x):
        ...     for index, layer in enumerate(layers):
        ...         with sowlog.scope(f"layer_{index}"):
        ...             x = layer(x)
        ...     return x
        >>> y, updates = sowlog.collect(model)([Attention(), Attention()], jnp.ones(3))
        >>> sorted(sowlog.compute(updates["metrics"]))
        ['layer_0/attention/rms', 'layer_1/attention/rms']
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._entered: list[contextlib.ExitStack] = []

    def __enter__(self) -> None:
        entered = contextlib.ExitStack()
        entered.enter_context(inside(parts_of(self._name, "scope")))
        # In profiles and in the reports of explain_nonfinite as well.
        entered.enter_context(jax.named_scope(self._name))
        self._entered.append(entered)

    def __exit__(self, *_: object) -> None:
        self._entered.pop().close()

    def __call__(self, function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
        @functools.wraps(function)
        def in_scope(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
            with scope(self._name):
                if not is_watching():
                    return function(*args, **kwargs)
                label = Label(METRICS, scope_path(), "")
                return call_watched(label, function, lambda: (), function, args, kwargs)

        return in_scope


def parts_of(name: Any, what: str) -> tuple[str, ...]:
    """Return the parts of a name that are joined by "/".

    Raises:
        TypeError: The name is no string.
        ValueError: A part is empty.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a {what} is {type(name).__name__}, not a string.")
    parts = tuple(name.split("/"))
    if not all(parts):
        raise ValueError(f"the name of a {what}, {name!r}, has an empty part: a tag is made of the parts.")
    return parts


def stacked(body: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """Wrap the body of a scan, map or vmap so that each of its steps keeps a state of its own.

    The index of the step ends the tag. Without `stacked` the steps are merged into one state. A loss is
    summed over the steps in any case.

    Args:
        body: the argument of `jax.lax.scan`, `jax.lax.map` or `jax.vmap`.

    Returns:
        A function with the same arguments and result.

    Raises:
        LostMetricError: (when called) The body of a while loop, which has no known number of steps, sows.

    Example:
        >>> import jax, jax.numpy as jnp, sowlog
        >>> def layer(x, weight):
        ...     sowlog.sow("max", x, sowlog.max)
        ...     return weight * x, None
        >>> def model(x, weights):
        ...     return jax.lax.scan(sowlog.stacked(layer), x, weights)[0]
        >>> y, updates = sowlog.collect(model)(1.0, jnp.array([2.0, 3.0]))
        >>> sowlog.compute(updates["metrics"])
        {'max/00': np.float32(1.0), 'max/01': np.float32(2.0)}
    """

    @functools.wraps(body)
    def run(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        if not is_collecting():
            return body(*args, **kwargs)
        with collecting_step() as collector:
            result = body(*args, **kwargs)
        emit_stacked(collector.sown)
        return result

    return run


def emit_stacked(sown: Any) -> None:
    """Sow states that the next mapping transform around the caller stacks; losses are summed instead."""
    for label, state in sown.items():
        emit(label if label.is_loss else label._replace(stacks=label.stacks + 1), state)
