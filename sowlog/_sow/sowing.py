"""Sowing: in a module, or in any function."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import jax
from flax import linen as nn

from sowlog._reduce.basic import mean
from sowlog._reduce.reducer import Reducer
from sowlog._reduce.state import State
from sowlog._reduce.values import Value
from sowlog._sow import cadence
from sowlog._sow.collector import check_on_device, emit, emit_statistic
from sowlog._sow.labels import METRICS, Label
from sowlog._sow.site import (
    arguments_of,
    check_module,
    check_reducer,
    is_collected,
    label_of,
    noting_place,
    place_of,
)
from sowlog._tree import losses

if TYPE_CHECKING:
    from flax import nnx


@overload
def sow(
    name: str,
    value: Value | State,
    reducer: Reducer = mean,
    /,
    *,
    weight: Value | None = None,
    every: int | str | None = None,
    doc: str = "",
) -> bool: ...
@overload
def sow(
    module: "nn.Module | nnx.Pytree",
    name: str,
    value: Value | State,
    reducer: Reducer = mean,
    *,
    weight: Value | None = None,
    every: int | str | None = None,
    doc: str = "",
    collection: str = METRICS,
) -> bool: ...
def sow(
    *args: Any,
    weight: Value | None = None,
    every: int | str | None = None,
    doc: str = "",
    collection: str = METRICS,
    **kwargs: Any,
) -> bool:
    """Sow a statistic, to be logged under `<module path>/<name>`; under its name where there is no module.

    Two forms: `sow(self, name, value, reducer)` in a module of linen or nnx, `sow(name, value, reducer)` in
    any function, where `sowlog.scope` adds a path. A sow may stand under any transform of JAX, linen and nnx;
    the `collect` around it returns the value. Without a `collect` nothing is computed or compiled for it.

    The value carries no gradient: a statistic observes, and `sow_loss` trains. Values of the same name (a
    second call, a shared module, the steps of a loop, the examples of a vmap) are accumulated by the reducer.
    `init` sows nothing. A sow in `setup` happens each time that Flax runs `setup`: once, or at each call of a
    class made by a transform such as `nn.remat`.

    Args:
        module: the module of linen or nnx that sows, `self`; none in the second form.
        name: the metric's name, unique in the module.
        value: a real number or array; or a state of the reducer.
        reducer: the accumulation of values of one name: `sowlog.mean`, `sowlog.max`, `sowlog.mean(axis=0)`
            ...
        weight: the weight of the value, or of each element (with as many axes as the value), such as a mask.
        every: the cadence: a number of steps, of the `step` that `collect` is given, or the name of one of
            its flags. At other steps nothing is computed (but in a `shard_map` that checks what varies), and
            the value is absent.
        doc: a description for people, with the unit in square brackets and the ideal value: "Entropy of the
            attention [nats]. Ideal: above 1." `describe` returns it, and TensorBoard shows it.
        collection: in a linen module, the variable collection to write to; `collect` returns the sows of
            "metrics".

    Returns:
        True if the value was sown; False if it is not collected.

    Raises:
        TypeError: `module` is neither a module nor a name, `value` is not a real number, or `reducer`
            is not a reducer; or another reducer used the name.
        ValueError: `collection` is "losses", or is not "metrics" outside of linen; the name has an empty
            part; the value does not fit its `weight` or earlier values; or another nnx model sows under the
            tag.
        LostMetricError: Under `collect`, a transform would drop the value; a submodule or scope that sows
            has the name; or the model of an nnx module is unknown.
        RuntimeError: `value` or `weight` was donated or deleted.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, sowlog
        >>> class Block(nn.Module):
        ...     def __call__(self, x):
        ...         sowlog.sow(self, "rms", x, sowlog.rms)
        ...         return 2 * x
        >>> y, updates = sowlog.collect(Block().apply)({}, jnp.array([3.0, 4.0]))
        >>> sowlog.compute(updates["metrics"])["rms"]
        np.float32(3.535534)

        >>> def half(x):
        ...     sowlog.sow("largest", x, sowlog.max)
        ...     return x / 2
        >>> y, updates = sowlog.collect(jax.vmap(half))(jnp.array([3.0, 4.0]))
        >>> sowlog.compute(updates["metrics"])
        {'largest': np.float32(4.0)}
    """
    module, name, value, reducer = arguments_of(args, kwargs, ("value", "reducer"), {"reducer": mean})
    check_module(module, name, f"sowlog.sow(self, {name!r}, value)")
    check_reducer(module, name, reducer)
    cadence.check_every(every)
    if collection == losses.COLLECTION:
        raise ValueError(
            f'"{losses.COLLECTION}" holds losses with a weight in the objective, which a reducer has not: '
            f'write sowlog.sow_loss({"self, " if module is not None else ""}"{name}", value, weight=...).'
        )
    if collection != METRICS and not isinstance(module, nn.Module):
        raise ValueError(
            f'"{collection}" is no collection of {place_of(module, name)}: only a linen module has others '
            f'than "{METRICS}". Write: sowlog.sow({"self, " if module is not None else ""}"{name}", value).'
        )

    def state(*values: Any) -> State:
        return reducer.of(*_without_gradient(values))

    def emit_state(label: Label) -> None:
        emit_statistic(label, state, value, weight, every=every)

    return _sow(module, collection, name, emit_state, lambda: state(value, weight), State.merge, doc)


@overload
def sow_loss(name: str, value: Value, /, *, weight: Value = 1.0, doc: str = "") -> bool: ...
@overload
def sow_loss(
    module: "nn.Module | nnx.Pytree", name: str, value: Value, *, weight: Value = 1.0, doc: str = ""
) -> bool: ...
def sow_loss(*args: Any, weight: Value = 1.0, doc: str = "", **kwargs: Any) -> bool:
    """Sow an auxiliary loss: `total_loss` adds weight * value to the objective, and both are logged.

    Two forms, as of `sow`: with the module, `self`, and in any function without one. Within a forward pass (a
    second call, more layers, the steps of a loop) values of one name are added; over microbatches, replicas
    and steps they are averaged, as the objective is.

    Args:
        module: the module of linen or nnx that sows, `self`; none in the second form.
        name: the loss's name, unique in the module.
        value: a real scalar; its gradient is kept.
        weight: a real scalar, which may be traced (a schedule). 0 logs the loss without training on it.
        doc: a description for people, as of `sow`.

    Returns:
        True if the loss was sown; False if it is not collected.

    Raises:
        TypeError: `module` is neither a module nor a name; `value` or `weight` is complex or not a
            number.
        ValueError: `value` or `weight` is not a scalar; the name has an empty part; or another nnx model sows
            under the tag.
        LostMetricError: Under `collect`, a transform would drop the value; a custom derivative would drop its
            gradient; a submodule or scope that sows has the name; or the model of an nnx module is unknown.
        RuntimeError: `value` or `weight` was donated or deleted.

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
    module, name, value = arguments_of(args, kwargs, ("value",), {})
    check_module(module, name, f"sowlog.sow_loss(self, {name!r}, value, weight=...)")

    def state() -> State:
        return losses.loss_state(value, weight)

    return _sow(
        module,
        losses.COLLECTION,
        name,
        lambda label: emit(label, state()),
        state,
        losses.add_in_pass,
        doc,
    )


def _sow(
    module: Any,
    collection: str,
    name: str,
    emit_state: Callable[[Label], None],
    state: Callable[[], State],
    join: Callable[[State, State], State],
    doc: str,
) -> bool:
    """Sow a state, made only if it is collected, by `emit_state`, or stored in linen's collection."""
    check_on_device(name)
    if is_collected(module, collection):
        with noting_place(module, name):
            emit_state(label_of(module, collection, name, doc))
        return True
    if not isinstance(module, nn.Module):
        return False
    if module.is_initializing() or not module.is_mutable_collection(collection):
        return False
    with noting_place(module, name):
        new = state()
    return _store(module, collection, name, new, join)


def _store(
    module: nn.Module, collection: str, name: str, state: State, join: Callable[[State, State], State]
) -> bool:
    """Store a state in Flax's collection, or join it with the state already there."""

    def reduce_fn(old: Any, new: State) -> State:
        if old is None:
            return new
        if not isinstance(old, State):
            raise TypeError(
                f"{place_of(module, name)}: another sow left {type(old).__name__} under this name. "
                "Give each its own name."
            )
        with noting_place(module, name):
            return join(old, new)

    # The initial None has nothing to merge. linen.collect_and_watch may have replaced the module's sow, so
    # this is the class's.
    return type(module).sow(module, collection, name, state, reduce_fn=reduce_fn, init_fn=lambda: None)


def _without_gradient(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if isinstance(x, jax.Array) else x, tree)
