"""Sowing in Flax modules."""

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import Any

import jax
from flax import linen as nn
from flax.linen.module import InterceptorContext

from sowlog._reduce.basic import mean
from sowlog._reduce.reducer import Reducer
from sowlog._reduce.state import State
from sowlog._reduce.values import Value
from sowlog._sow import foreign, recording, transforms
from sowlog._sow.recording import LostMetricError
from sowlog._tree import losses

METRICS = "metrics"
"""The default variable collection of `sow`."""


def sow(
    module: nn.Module,
    name: str,
    value: Value,
    reducer: Reducer = mean,
    *,
    weight: Value | None = None,
    collection: str = METRICS,
) -> bool:
    """Sow a statistic in a module, to be logged under `<module path>/<name>`.

    The value carries no gradient: a statistic observes, and `sow_loss` trains. Values of the same name (a
    second call, a shared module) are accumulated by the reducer. `init` sows nothing. A sow in `setup`
    happens each time that Flax runs `setup`: once, or at each call of a class made by a transform such as
    `nn.remat`.

    Args:
        module: the module that sows, `self`.
        name: the metric's name, unique in the module.
        value: a real number or array.
        reducer: the accumulation of values of one name: `sowlog.mean`, `sowlog.max`, `sowlog.mean(axis=0)`
            ...
        weight: the weight of the value, or of each element (with as many axes as the value), such as a mask.
        collection: the variable collection to write to.

    Returns:
        True if the value was stored; False if the collection is not mutable.

    Raises:
        TypeError: `module` is not a linen module, `value` not a real number, or `reducer` not a reducer; or
            another reducer used the name.
        ValueError: `collection` is "losses"; or the value does not fit its `weight` or earlier values.
        LostMetricError: Under `collect`, a transform would drop the value; or a submodule has the name.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, sowlog
        >>> class Block(nn.Module):
        ...     def __call__(self, x):
        ...         sowlog.sow(self, "rms", x, sowlog.rms)
        ...         return 2 * x
        >>> y, updates = sowlog.collect(Block().apply)({}, jnp.array([3.0, 4.0]))
        >>> sowlog.compute(updates["metrics"])["rms"]
        np.float32(3.535534)
    """
    _check_module(module, name, f"sowlog.sow(self, {name!r}, value)")
    _check_reducer(module, name, reducer)
    if collection == losses.COLLECTION:
        raise ValueError(
            f'"{losses.COLLECTION}" holds losses with a weight in the objective, which a reducer has not: '
            f'write sowlog.sow_loss(self, "{name}", value, weight=...).'
        )
    if not _should_sow(module, collection, name):
        return False
    with _noting_place(module, name):
        state = reducer.of(*_without_gradient((value, weight)))
    return _store(module, collection, name, state, State.merge)


def sow_loss(module: nn.Module, name: str, value: Value, *, weight: Value = 1.0) -> bool:
    """Sow an auxiliary loss: `total_loss` adds weight * value to the objective, and both are logged.

    Within a forward pass (a second call, more layers) values of one name are added; over microbatches,
    replicas and steps they are averaged, as the objective is.

    Args:
        module: the module that sows, `self`.
        name: the loss's name, unique in the module.
        value: a real scalar; its gradient is kept.
        weight: a real scalar, which may be traced (a schedule). 0 logs the loss without training on it.

    Returns:
        True if the loss was stored; False if the collection "losses" is not mutable.

    Raises:
        TypeError: `module` is not a linen module; `value` or `weight` is complex or not a number.
        ValueError: `value` or `weight` is not a scalar.
        LostMetricError: Under `collect`, a transform would drop the value; a custom derivative would drop its
            gradient (with and without `collect`); or a submodule has the name.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, sowlog
        >>> class Block(nn.Module):
        ...     def __call__(self, x):
        ...         sowlog.sow_loss(self, "l2", jnp.sum(x**2), weight=0.5)
        ...         return 2 * x
        >>> y, updates = sowlog.collect(Block().apply)({}, jnp.array([1.0, 3.0]))
        >>> sowlog.compute(updates["losses"])
        {'l2': np.float32(10.0), 'l2/weighted': np.float32(5.0)}
    """
    _check_module(module, name, f"sowlog.sow_loss(self, {name!r}, value, weight=...)")
    if not _should_sow(module, losses.COLLECTION, name):
        return False
    recording.check_trained(recording.site_of(module, losses.COLLECTION, name))
    with _noting_place(module, name):
        state = losses.loss_state(value, weight)
    return _store(module, losses.COLLECTION, name, state, losses.add_in_pass)


def report_plain_sows(call: Callable[..., Any], args: Any, kwargs: Any, context: InterceptorContext) -> Any:
    """Let Flax's own `module.sow` report, too: an interceptor of the methods of modules.

    Flax calls no interceptor for `sow`, and no function for a dropped sow. So a bound module, which lives as
    long as its pass, gets another `sow` at the entry of each of its methods.
    """
    module = context.module
    if module.scope is not None and "sow" not in vars(module):
        object.__setattr__(module, "sow", functools.partial(_sow_plainly, module))
    return call(*args, **kwargs)


def _sow_plainly(module: nn.Module, col: str, name: str, value: Any, **functions: Any) -> bool:
    """Do what `module.sow` does, and report it to the collected pass."""
    recorder = recording.current()
    if recorder is None or col not in (METRICS, losses.COLLECTION) or not recorder.hears():
        return type(module).sow(module, col, name, value, **functions)
    if not _should_sow(module, col, name):
        return False
    reducer = getattr(functions.get("reduce_fn"), "__self__", None)
    if isinstance(reducer, Reducer) and functions["reduce_fn"] == reducer.reduce_fn:
        with _noting_place(module, name):
            state = reducer.of(value)
        return _store(module, col, name, state, State.merge)
    site = recording.site_of(module, col, name)
    recorder.note(module, site, None)
    if site in recorder.withheld:
        return True
    return type(module).sow(module, col, name, value, **functions)


def _should_sow(module: nn.Module, collection: str, name: str) -> bool:
    """Return whether to sow; raise where a transform hides the collection from `collect`."""
    if module.is_initializing() or transforms.is_rehearsal():
        return False
    is_mutable = module.is_mutable_collection(collection)
    recorder = recording.current()
    if recorder is not None and not is_mutable and collection in (METRICS, losses.COLLECTION):
        recorder.check_heard(module, recording.site_of(module, collection, name))
    return is_mutable


def _store(
    module: nn.Module, collection: str, name: str, state: State, join: Callable[[State, State], State]
) -> bool:
    """Store a state under a name, or join it with the state already there."""
    site = recording.site_of(module, collection, name)
    recorder = recording.current()
    if recorder is not None and recorder.hears():
        recorder.note(module, site, state)
        if site in recorder.withheld:
            return True

    def reduce_fn(old: Any, new: State) -> State:
        if old is None:
            return new
        if not isinstance(old, State):
            raise TypeError(
                f"{_place(module, name)}: another sow left {type(old).__name__} under this name. "
                "Give each its own name."
            )
        with _noting_place(module, name):
            return join(old, new)

    _check_name(module, collection, name)
    # The initial None has nothing to merge. report_plain_sows may have replaced the module's sow, so this is
    # the class's.
    return type(module).sow(module, collection, name, state, reduce_fn=reduce_fn, init_fn=lambda: None)


@contextlib.contextmanager
def _noting_place(module: nn.Module, name: str) -> Generator[None]:
    """Add the place of a sow to its errors."""
    try:
        yield
    except (TypeError, ValueError) as error:
        error.add_note(f"while sowing {_place(module, name)}")
        raise


def _without_gradient(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if isinstance(x, jax.Array) else x, tree)


def _check_name(module: nn.Module, collection: str, name: str) -> None:
    scope = module.scope
    if scope is not None and None in scope.reservations.get(name, ()):
        raise LostMetricError(
            f"{_place(module, name)} is sown under the name of a submodule, whose own metrics would stand in "
            f'its place in "{collection}": give it a name of its own.'
        )


def _check_module(module: Any, name: Any, line: str) -> None:
    if isinstance(module, nn.Module):
        return
    library = foreign.library_of(module)
    if library:
        raise TypeError(
            f"{name} is sown in {foreign.described(module, library)}, and only a Flax linen module can be "
            f"sown in. {foreign.REMEDY} An auxiliary loss is returned and added to the objective."
        )
    raise TypeError(
        f"only a Flax linen module can sow, got {type(module).__name__}. In a module write: {line}. "
        f"Elsewhere there is nothing to sow in. {foreign.REMEDY}"
    )


def _check_reducer(module: nn.Module, name: str, reducer: Any) -> None:
    if not isinstance(reducer, Reducer):
        raise TypeError(
            f"{_place(module, name)}: {reducer!r} is no sowlog reducer. Use sowlog.mean, sowlog.max ..., "
            "build one with sowlog.Reducer.build, or use Flax's own module.sow(..., init_fn=, reduce_fn=)."
        )


def _place(module: nn.Module, name: str) -> str:
    return f"{'/'.join((*module.path, name))} (in {type(module).__name__})"
