"""Collecting around `apply`: one pass, its sown values, and an error for each lost value."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import errors as flax_errors
from flax import linen as nn
from flax.core import scope as flax_scope

from sowlog._reduce import state
from sowlog._sow import foreign
from sowlog._sow.frames import check_frames
from sowlog._sow.recording import LostMetricError, Recorder, recording
from sowlog._sow.seeding import find_seeds
from sowlog._sow.sowing import METRICS, report_plain_sows
from sowlog._tree import losses
from sowlog._tree.tags import empty_like, is_state

_COLLECTIONS = [METRICS, losses.COLLECTION]


def collect(apply: Callable[..., Any]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Wrap a module's `apply` so that it also returns the sown values.

    A sow that a transform would drop raises, Flax's own `module.sow` to "metrics" or "losses" included. A
    model that sows in one branch of `nn.cond`, in `nn.switch`, `nn.while_loop` or an `nn.scan` that carries
    the collection needs no changes: its states are initialized, empty, before it runs.

    Args:
        apply: `model.apply`, or a function of the same form.

    Returns:
        A function with `apply`'s arguments that returns `(y, updates)`: `updates["metrics"]` and
        `updates["losses"]` hold the values sown in this pass (empty dicts if none), beside the collections
        named in `mutable=`, an argument as of `apply`.

    Raises:
        TypeError: The argument is not a function like `apply`, but a model (of linen or another library), or
            the result of `flax.linen.apply`; or (when called) the first argument is not variables.
        ValueError: (when called) The variables already hold sown values, which would be counted again.
        LostMetricError: (when called) A sown value would be lost or wrong.
        RuntimeError: (when called) This version of Flax or JAX hides lost values.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, sowlog
        >>> model = nn.BatchNorm(use_running_average=False)
        >>> x = jnp.ones((2, 3))
        >>> variables = model.init(jax.random.key(0), x)
        >>> y, updates = sowlog.collect(model.apply)(variables, x, mutable=["batch_stats"])
        >>> sorted(updates)
        ['batch_stats', 'losses', 'metrics']
    """
    _check_apply(apply)

    @functools.wraps(apply)
    def collected(
        variables: Mapping[str, Any],
        *args: Any,
        mutable: Any = False,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        _check_variables(variables)
        _check_fresh(variables)
        check_frames()

        def run(seeds: Mapping[str, Any] | None = None) -> tuple[Any, Mapping[str, Any]]:
            filter = flax_scope.union_filters(mutable, _COLLECTIONS)
            with nn.intercept_methods(report_plain_sows):
                return apply({**variables, **(seeds or {})}, *args, mutable=filter, **kwargs)

        y, updates = _run_with_seeds_if_needed(run)
        sown = {name: _with_arrays(updates.get(name, {})) for name in _COLLECTIONS}
        updates = {**updates, **sown}
        updates[losses.COLLECTION] = losses.finish_pass(updates[losses.COLLECTION])
        return y, updates

    return collected


def discover(
    apply: Callable[..., Any], variables: Mapping[str, Any], *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Find the values that a model sows, without computing them.

    Args:
        apply: `model.apply`.
        variables: the model's variables; shapes and dtypes suffice (`jax.eval_shape` of `init`).
        *args: the inputs, or their shapes and dtypes; other objects (a flag, a name) are passed unchanged.
        **kwargs: as for `collect(apply)`.

    Returns:
        `{"metrics": ..., "losses": ...}` of empty states: the start of a scan over microbatches.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, sowlog
        >>> class Block(nn.Module):
        ...     def __call__(self, x):
        ...         sowlog.sow(self, "rms", x, sowlog.rms)
        ...         return x
        >>> sowlog.discover(Block().apply, {}, jnp.ones(3))
        {'losses': {}, 'metrics': {'rms': State(rms, nothing sown)}}
    """
    updates = sown_shapes(apply, variables, args, kwargs)
    return empty_like({name: updates[name] for name in _COLLECTIONS})


def sown_shapes(
    apply: Callable[..., Any], variables: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the updates of a pass as shapes and dtypes, without computing them."""
    leaves, structure = jax.tree.flatten((variables, args))
    abstract = [isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct) for leaf in leaves]

    def updates(arrays: list[Any]) -> dict[str, Any]:
        rest = iter(arrays)
        filled = [next(rest) if array else leaf for leaf, array in zip(leaves, abstract, strict=True)]
        variables, args = structure.unflatten(filled)
        return collect(apply)(variables, *args, **kwargs)[1]

    return jax.eval_shape(updates, [leaf for leaf, array in zip(leaves, abstract, strict=True) if array])


def _run_with_seeds_if_needed(
    run: Callable[..., tuple[Any, Mapping[str, Any]]],
) -> tuple[Any, Mapping[str, Any]]:
    """Run a pass; one that JAX refuses for the structure of its loops and branches is run with seeds.

    Most models need no seeds and pay for no search.
    """
    try:
        return _run(run)
    except TypeError as error:
        refused = error
    seeds, unseedable = find_seeds(run, _COLLECTIONS)
    if not seeds and not unseedable:
        raise refused
    try:
        return _run(functools.partial(run, seeds))
    except TypeError as error:
        if unseedable:
            raise LostMetricError(unseedable[0]) from error
        raise


def _run(run: Callable[..., tuple[Any, Mapping[str, Any]]]) -> tuple[Any, Mapping[str, Any]]:
    with recording(Recorder()) as recorder:
        try:
            y, updates = run()
        except flax_errors.NameInUseError as error:
            taken = [site for site in recorder.states if f'"{site.name}"' in str(error)]
            if not taken:
                raise
            raise LostMetricError(
                f"{taken[0]} is sown under a name that a submodule or parameter takes later ({error}): "
                "give the metric a name of its own."
            ) from error
        recorder.check_returned(updates)
        return y, updates


def _with_arrays(tree: Any) -> Any:
    """Return a tree with JAX arrays in its states, where jax.checkpoint returns NumPy's outside of jit."""

    def with_arrays(leaf: Any) -> Any:
        return jax.tree.map(state.strong, leaf) if is_state(leaf) else leaf

    return jax.tree.map(with_arrays, tree, is_leaf=is_state)


def _check_apply(apply: Any) -> None:
    """Raise if a function is surely not like `apply`; the error has the line to write."""
    owner = getattr(apply, "__self__", apply)
    library = foreign.library_of(owner)
    if library:
        raise TypeError(
            f"collect was given {foreign.described(owner, library)}, and knows Flax linen modules only. "
            f"{foreign.REMEDY}"
        )
    if isinstance(apply, nn.Module):
        raise TypeError(
            f"collect was given the module {type(apply).__name__}, not a function. "
            "Write: sowlog.collect(model.apply)(variables, x)."
        )
    if hasattr(apply, "lower") and hasattr(apply, "__wrapped__"):
        raise TypeError(
            "collect was given a function of jax.jit, which takes no filter as `mutable`. "
            "Write: jax.jit(sowlog.collect(model.apply))."
        )
    if getattr(apply, "__code__", None) is _CORE_APPLY.__code__:
        raise TypeError(
            "collect was given the result of flax.linen.apply(fn, module), whose mutable collections are "
            "fixed. Write: sowlog.collect(module.apply)(variables, *args, method=fn)."
        )
    if not callable(apply) or not _takes_mutable(apply):
        raise TypeError(
            f"collect was given {_name_of(apply)}, which takes no `mutable`: it wraps the apply of a linen "
            "module, or a function of its form, `lambda variables, x, **kwargs: model.apply(variables, x, "
            f"**kwargs)`. {foreign.REMEDY}"
        )


# The result of flax.linen.apply has the name of its function, and this code.
_CORE_APPLY = flax_scope.apply(lambda _: None)


def _takes_mutable(apply: Any) -> bool:
    try:
        parameters = inspect.signature(apply).parameters.values()
    except (TypeError, ValueError):
        return True  # Unknown without a call.
    return any(
        parameter.name == "mutable" or parameter.kind is inspect.Parameter.VAR_KEYWORD
        for parameter in parameters
    )


def _name_of(function: Any) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__


def _check_variables(variables: Any) -> None:
    if isinstance(variables, Mapping):
        return
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
