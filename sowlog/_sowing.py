"""Sowing in Flax modules and collecting around `apply`: the only file that imports flax."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.core import scope as flax_scope

from sowlog import _losses
from sowlog._reducers import mean
from sowlog._state import Reducer, State, Value

METRICS = "metrics"
"""The variable collection that `sow` writes to unless told otherwise."""


def sow(
    module: nn.Module,
    name: str,
    value: Value,
    reducer: Reducer = mean,
    *,
    weight: Value | None = None,
    collection: str = METRICS,
) -> bool:
    """Sows a statistic in a module: it reaches the logger under `<module path>/<name>`.

    The value carries no gradient: a statistic observes, `sow_loss` trains. Sown again under the same name (a
    second call, a shared module), it accumulates as the reducer says. While `init` runs nothing is sown.

    Args:
        module: the module that sows, `self`.
        name: the metric's name, unique in the module.
        value: a real number or array.
        reducer: how values of one name become one: `sowlog.mean`, `sowlog.max`, `sowlog.mean(axis=0)` ...
        weight: the weight of the value, or of each element (as many axes as the value): a mask, say.
        collection: the variable collection to write to.

    Returns:
        True if the value was stored; False when the collection is not mutable, so that nobody listens.

    Raises:
        TypeError: `reducer` is no sowlog reducer, or another one used the name.
        ValueError: `collection` is "losses"; or `value` and `weight` do not fit.

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
    _check_reducer(module, name, reducer)
    if collection == _losses.COLLECTION:
        raise ValueError(
            f'"{_losses.COLLECTION}" holds what is trained on, which a reducer cannot say: '
            f'write sowlog.sow_loss(self, "{name}", value, weight=...).'
        )
    if not _is_listening(module, collection):
        return False
    return _store(module, collection, name, reducer.of(jax.lax.stop_gradient(value), weight), State.merge)


def sow_loss(module: nn.Module, name: str, value: Value, *, weight: Value = 1.0) -> bool:
    """Sows an auxiliary loss: `total_loss` adds weight * value to the objective, the logger shows both.

    Sown again in the same forward pass (a second call, more layers), the values add up; over
    microbatches, replicas and steps they are averaged, as the objective is.

    Args:
        module: the module that sows, `self`.
        name: the loss's name, unique in the module.
        value: a real scalar; its gradient is kept.
        weight: a real scalar, which may be traced (a schedule). 0 leaves the loss visible and untrained.

    Returns:
        True if the loss was stored; False when the collection "losses" is not mutable.

    Raises:
        ValueError: `value` or `weight` is not a scalar.

    Example: see `total_loss`.
    """
    if not _is_listening(module, _losses.COLLECTION):
        return False
    state = _losses.loss_state(value, weight)
    return _store(module, _losses.COLLECTION, name, state, _losses.add_in_pass)


def collect(apply: Callable[..., Any]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Wraps a module's `apply` so that it also returns what was sown.

    Args:
        apply: `model.apply`, or a function of the same form.

    Returns:
        A function of `apply`'s arguments that returns `(y, updates)`: `updates["metrics"]` and
        `updates["losses"]` hold what this one pass sowed (empty dicts if nothing), beside the collections
        named in `mutable=`, which it takes as `apply` does.

    Raises:
        ValueError: (when called) the variables already hold sown values, which would be counted again.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, sowlog
        >>> model = nn.BatchNorm(use_running_average=False)
        >>> x = jnp.ones((2, 3))
        >>> variables = model.init(jax.random.key(0), x)
        >>> y, updates = sowlog.collect(model.apply)(variables, x, mutable=["batch_stats"])
        >>> sorted(updates)
        ['batch_stats', 'losses', 'metrics']
    """

    @functools.wraps(apply)
    def collected(
        variables: Mapping[str, Any],
        *args: Any,
        mutable: Any = False,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        _check_fresh(variables)
        ours = [METRICS, _losses.COLLECTION]
        y, updates = apply(variables, *args, mutable=flax_scope.union_filters(mutable, ours), **kwargs)
        updates = {METRICS: {}, _losses.COLLECTION: {}, **updates}
        updates[_losses.COLLECTION] = _losses.sum_over_layers(updates[_losses.COLLECTION])
        return y, updates

    return collected


def _is_listening(module: nn.Module, collection: str) -> bool:
    return module.is_mutable_collection(collection) and not module.is_initializing()


def _store(
    module: nn.Module, collection: str, name: str, state: State, join: Callable[[State, State], State]
) -> bool:
    """Stores a state under a name, or joins it with the one already there."""

    def reduce_fn(old: Any, new: State) -> State:
        if old is None:
            return new
        if not isinstance(old, State):
            raise TypeError(
                f"{_place(module, name)}: another sow left {type(old).__name__} under this name. "
                "Give each its own name."
            )
        try:
            return join(old, new)
        except (TypeError, ValueError) as error:
            error.add_note(f"while sowing {_place(module, name)}")
            raise

    # None stands for the empty state: merging with that would change nothing, and cost a dozen operations.
    return module.sow(collection, name, state, reduce_fn=reduce_fn, init_fn=lambda: None)


def _check_reducer(module: nn.Module, name: str, reducer: Any) -> None:
    if not isinstance(reducer, Reducer):
        raise TypeError(
            f"{_place(module, name)}: {reducer!r} is no sowlog reducer. Use sowlog.mean, sowlog.max ..., "
            "build one with sowlog.Reducer.build, or use Flax's own module.sow(..., init_fn=, reduce_fn=)."
        )


def _check_fresh(variables: Mapping[str, Any]) -> None:
    stale = [name for name in (METRICS, _losses.COLLECTION) if variables.get(name)]
    if stale:
        raise ValueError(
            f"the variables passed to collect already hold {' and '.join(stale)}, which would be counted "
            'twice. Keep only the parameters, `params = model.init(key, x)["params"]`, and pass '
            '{"params": params}; to accumulate over steps, merge outside: '
            '`metrics = sowlog.merge(metrics, updates["metrics"])`.'
        )


def _place(module: nn.Module, name: str) -> str:
    return f"{'/'.join((*module.path, name))} (in {type(module).__name__})"
