"""Collecting around a function: one pass, its sown values, and an error for each lost value."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
from flax import linen as nn

from sowlog._sow import cadence, foreign, internals, linen, watches
from sowlog._sow.calls import Call
from sowlog._sow.collector import collecting
from sowlog._sow.errors import LostMetricError
from sowlog._sow.labels import METRICS, Label, Sown
from sowlog._sow.watching import checking
from sowlog._tree import losses
from sowlog._tree.tags import empty_like

_COLLECTIONS = [METRICS, losses.COLLECTION]
_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


def collect(
    fn: Callable[_Params, _Result],
    *,
    watch: watches.watch | Iterable[watches.watch] = (),
    step: jax.typing.ArrayLike | None = None,
    due: jax.typing.ArrayLike | Mapping[str, jax.typing.ArrayLike] | None = None,
) -> Callable[_Params, tuple[Any, dict[str, Any]]]:
    """Wrap a linen model's `apply`, an nnx model or any function, so that it also returns the sown values.

    A sow may stand under any transform of JAX, linen and nnx: a loop, a branch, vmap, checkpoint, grad,
    shard_map, a jitted function that was traced before. Lifted transforms need not name "metrics" or
    "losses". A value that cannot be returned is an error. Eager code stays eager, and nothing is traced
    twice.

    A scan, map or vmap merges the states of its steps into one. `sowlog.stacked(body)` keeps a state for each
    step, as do nn.scan, nn.vmap, nnx.scan and nnx.vmap whose parameters, or metrics, are stacked.

    The path of an nnx module begins at its model, which is `fn` itself, the object of a method `fn`, an
    argument, or a value that `fn` closes over or names as a global of its module. A container or an object
    may hold the model; the keys of a container join the path.

    Args:
        fn: `model.apply` of a linen model, an nnx model or a method of one, or any function.
        watch: statistics of modules by their paths, one `sowlog.watch` or several, beside those whose context
            is entered around the call.
        step: the number of the step, for statistics with a cadence: those with `every=50` are computed at the
            steps 0, 50, 100 ..., by a branch on the device. Without it they are computed at each step.
        due: a flag for all statistics, or flags by name for those with that name as `every`: bool scalars.
            Step and flags may be arguments of a jitted step, which is compiled once for all cadences. They
            hold for a `collect` inside as well. Losses are always computed.

    Returns:
        A function with the same arguments that returns `(y, updates)`: `updates["metrics"]` and
        `updates["losses"]` hold the values sown in this pass (empty dicts if none), beside the collections
        named in `mutable=`, an argument of `apply`.

    Raises:
        TypeError: `fn` is a linen model and not its `apply`, or cannot be called; `step` is no integer, or
            `due` no bool; or (when called) the first argument of `model.apply` is not variables, or two sows
            of one name have different reducers.
        ValueError: (when called) The variables already hold sown values, which would be counted again; or
            two nnx models sow under one tag.
        LostMetricError: (when called) A sown value would be lost or wrong.
        UnmatchedWatchError: (when called) A watch matches no module.
        RuntimeError: (when called) This version of Flax or JAX has internals that sowlog does not know.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, sowlog
        >>> model = nn.BatchNorm(use_running_average=False)
        >>> x = jnp.ones((2, 3))
        >>> variables = model.init(jax.random.key(0), x)
        >>> y, updates = sowlog.collect(model.apply)(variables, x, mutable=["batch_stats"])
        >>> sorted(updates)
        ['batch_stats', 'losses', 'metrics']

        >>> def total(xs):
        ...     def add(sum, x):
        ...         sowlog.sow("smallest", x, sowlog.min)
        ...         return sum + x, None
        ...     return jax.lax.scan(add, 0.0, xs)[0]
        >>> y, updates = sowlog.collect(total)(jnp.array([3.0, 1.0]))
        >>> sowlog.compute(updates["metrics"])
        {'smallest': np.float32(1.0)}

        >>> from flax import nnx
        >>> class Block(nnx.Module):
        ...     def __call__(self, x):
        ...         sowlog.sow(self, "rms", x, sowlog.rms)
        ...         return x
        >>> y, updates = sowlog.collect(nnx.Sequential(Block(), Block()))(jnp.ones(3))
        >>> sorted(sowlog.compute(updates["metrics"]))
        ['layers/0/rms', 'layers/1/rms']

        >>> def model(x):
        ...     sowlog.sow("histogram", x, sowlog.histogram, every=50)
        ...     return x
        >>> @jax.jit
        ... def step(number, x):
        ...     return sowlog.pack(sowlog.collect(model, step=number)(x)[1]["metrics"])
        >>> [list(sowlog.compute(step(number, jnp.ones(3)))) for number in (99, 100)]
        [[], ['histogram']]
    """
    _check_function(fn)
    numbers = cadence.numbers_of(step, due)
    own = (watch,) if isinstance(watch, watches.watch) else tuple(watch)
    is_apply = isinstance(getattr(fn, "__self__", None), nn.Module)

    # The attributes of a model are not those of the function.
    @functools.wraps(fn, updated=() if foreign.library_of(fn) else functools.WRAPPER_UPDATES)
    def collected(*args: _Params.args, **kwargs: _Params.kwargs) -> tuple[Any, dict[str, Any]]:
        internals.check()
        linen.check()
        if is_apply:
            _check_variables(args[0] if args else kwargs.get("variables"))
        nnx = foreign.loaded_nnx()
        places = contextlib.nullcontext() if nnx is None else nnx.placing(fn, args, kwargs)
        intercepted = nn.intercept_methods(linen.collect_and_watch)
        if own or watches.active():
            foreign.watch_calls()
        with (
            linen.outermost(),
            places,
            collecting() as collector,
            cadence.given(numbers),
            checking(own, lambda: collector.sown),
            intercepted,
        ):
            y: Any = fn(*args, **kwargs)
        updates: Mapping[str, Any] = {}
        if kwargs.get("mutable", False) is not False and _is_pair(y):
            y, updates = y
        updates = {**updates, **_tree_of(collector.sown)}
        updates[losses.COLLECTION] = losses.finish_pass(updates[losses.COLLECTION])
        return y, updates

    return collected


def _is_pair(y: Any) -> bool:
    """Return whether a result is that of an `apply` with mutable collections."""
    return isinstance(y, tuple) and len(y) == 2 and isinstance(y[1], Mapping)


def _tree_of(sown: Sown) -> dict[str, Any]:
    """Return the sown states as nested dicts, by collection and path."""
    tree: dict[str, Any] = {name: {} for name in _COLLECTIONS}
    sites: dict[tuple[str, ...], Label] = {}
    for label, state in _of_all_models(sown).items():
        site = (label.collection, *label.path, label.name)
        for end in range(1, len(site)):
            if site[:end] in sites:
                raise LostMetricError(_taken_message(sites[site[:end]], label))
        if site in sites:
            raise TypeError(
                f"{label}: another sow left a value of another kind under this name, by functions of your "
                "own and not by a reducer, inside of sowlog.stacked, or by sowlog.sow_grad. Give each its "
                "own name."
            )
        sites[site] = label
        node = tree
        for part in site[:-1]:
            node = node.setdefault(part, {})
        if isinstance(node.get(label.name), dict):
            raise LostMetricError(
                _taken_message(label, next(other for other in sites.values() if other is not label))
            )
        node[label.name] = _value_of(label, state)
    return tree


def _of_all_models(sown: Sown) -> Sown:
    """Join the states under one label of an nnx model, and of a module that was made in the pass.

    Raises:
        ValueError: Modules of two models sow under one label.
    """
    joined: Sown = {}
    models: dict[Label, int] = {}
    for of_model, state in sown.items():
        label = of_model._replace(model=0)
        if of_model.model and models.setdefault(label, of_model.model) != of_model.model:
            raise ValueError(
                f"{label} is sown by two models that the collected function was given, and would be one "
                'number. Give one a scope: with sowlog.scope("teacher"): y = teacher(x).'
            )
        joined[label] = label.join(joined[label], state) if label in joined else state
    return joined


def _taken_message(label: Label, inner: Label) -> str:
    return (
        f"{label} is sown under the name of a submodule or scope, in which {inner} is sown, and would stand "
        "in its place: give the metric a name of its own."
    )


def _value_of(label: Label, state: Any) -> Any:
    if label.functions is None:
        return state.under(label.note_of_result)
    init_fn, reduce_fn = label.functions
    return functools.reduce(reduce_fn, state, init_fn())


def discover(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Find the values that a model or a function sows, without computing them.

    Args:
        fn: a linen model or its `apply`, an nnx model, or any function.
        *args: the arguments of `fn`; shapes and dtypes suffice, as of `jax.ShapeDtypeStruct` or
            `jax.eval_shape`. Other objects (a flag, a name) are passed unchanged.
        **kwargs: the keyword arguments of `fn`, likewise.

    Returns:
        `{"metrics": ..., "losses": ...}` of empty states: the start of a scan over microbatches.

    Raises:
        Exception: As for a call of `collect(fn)`.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, sowlog
        >>> class Block(nn.Module):
        ...     def __call__(self, x):
        ...         sowlog.sow(self, "rms", x, sowlog.rms)
        ...         return x
        >>> sowlog.discover(Block(), {}, jnp.ones(3))
        {'losses': {}, 'metrics': {'rms': State(rms, nothing sown)}}
    """
    updates = sown_shapes(function_of(fn), args, kwargs)
    return empty_like({name: updates[name] for name in _COLLECTIONS})


def function_of(model: Any) -> Callable[..., Any]:
    """Return the function to collect of a model of Flax, or a function itself."""
    return model.apply if isinstance(model, nn.Module) else model


def sown_shapes(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the updates of a pass as shapes and dtypes, without computing them."""
    call = Call.of(fn, args, kwargs)

    def updates(arrays: list[Any]) -> dict[str, Any]:
        fn, args, kwargs = call.filled(arrays)
        return collect(fn)(*args, **kwargs)[1]

    return jax.eval_shape(updates, call.arrays)


def _check_function(fn: Any) -> None:
    """Raise if a model is collected in place of a function; the error has the line to write."""
    if isinstance(fn, nn.Module):
        raise TypeError(
            f"collect was given the module {type(fn).__name__}, not a function. "
            "Write: sowlog.collect(model.apply)(variables, x)."
        )
    if not callable(fn):
        raise TypeError(
            f"collect was given {type(fn).__name__}, which cannot be called. Write: sowlog.collect(function)."
        )


def _check_variables(variables: Any) -> None:
    if isinstance(variables, Mapping):
        return _check_fresh(variables)
    raise TypeError(
        f"the first argument of a collected apply is {type(variables).__name__}, and apply takes a dict "
        "of variables there. Write: variables = model.init(key, x), which sows nothing, and then "
        'sowlog.collect(model.apply)({"params": variables["params"]}, x).'
    )


def _check_fresh(variables: Mapping[str, Any]) -> None:
    stale = [name for name in _COLLECTIONS if variables.get(name)]
    if stale:
        raise ValueError(
            f"the variables passed to collect already hold {' and '.join(stale)}, which would be counted "
            'twice. Keep only the parameters, `params = model.init(key, x)["params"]`, and pass '
            '{"params": params}; to accumulate over steps, merge outside: '
            '`metrics = sowlog.merge(metrics, updates["metrics"])`.'
        )
