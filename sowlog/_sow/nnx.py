"""Sows in nnx: the attribute path of a module, layers that a transform stacks, and Flax's own `module.sow`.

An nnx module knows no parent, and the transforms of nnx make new modules. So a `collect` looks up the places
of all modules in the models that its function takes or holds, and while it runs the structure of a module
carries its place through split, merge and jit. For this, functions of Flax are wrapped, once, and pass
through outside of a `collect`; `install` raises if this version of Flax lacks one.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Generator, Iterator
from typing import Any

import flax
import flax.errors
import jax
from flax import nnx
from flax.nnx import filterlib, graphlib, pytreelib
from flax.nnx.bridge import wrappers as bridge
from flax.nnx.transforms import iteration

from sowlog._reduce.notes import Note, Source
from sowlog._reduce.reducer import Reducer
from sowlog._sow import internals, linen
from sowlog._sow.callers import place_of_caller
from sowlog._sow.collector import emit, is_collecting
from sowlog._sow.errors import LostMetricError
from sowlog._sow.holding import objects_held, objects_in
from sowlog._sow.labels import METRICS, Label
from sowlog._sow.module_names import named
from sowlog._sow.nnx_places import Places, current_places
from sowlog._sow.nnx_structure import (
    carry_place,
    compare_places,
    map_all_places,
    mark_unflattened,
    place_assigned,
    place_made,
    place_merged,
)
from sowlog._sow.paths import inside, scope_path
from sowlog._sow.scopes import stacked
from sowlog._sow.watching import call_watched, is_watching, watch_classes
from sowlog.nnx import Metric


@contextlib.contextmanager
def placing(fn: Callable[..., Any], args: Any, kwargs: Any) -> Generator[None]:
    """Look up the places of the modules in a function's arguments, and in the function itself."""
    places = Places(current_places.get())
    for value in (*args, *kwargs.values(), fn):
        places.add(objects_held(value, nnx.Pytree))
    token = current_places.set(places)
    try:
        yield
    except flax.errors.TraceContextError as error:
        error.add_note(
            "A module is changed inside of a transform, and was made outside. Pass its model to the "
            "transformed function as an argument: nnx.jit(lambda model, x: model(x))(model, x)."
        )
        raise
    finally:
        current_places.reset(token)
        places.forget()


def is_module(value: Any) -> bool:
    """Return whether a value is a module, or another object, of nnx."""
    return isinstance(value, nnx.Pytree)


def without_self(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Return a call of the function of a bound method, with its model as the first argument."""
    if inspect.ismethod(fn) and is_module(fn.__self__):
        return fn.__func__, (fn.__self__, *args), kwargs
    return fn, args, kwargs


def split_models(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return a tree with the state of the models in it, and a function that makes the models of such a tree.

    The models are split as graphs: as pytrees, a shared module would be two modules, and a cycle infinite.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_module)
    graphs, state = nnx.split([leaf for leaf in leaves if is_module(leaf)], graph=True)

    def joined(split: tuple[list[Any], Any]) -> Any:
        others, state = split
        models = iter(nnx.merge(graphs, state))
        both = zip(leaves, others, strict=True)
        return structure.unflatten([next(models) if is_module(leaf) else other for leaf, other in both])

    return ([None if is_module(leaf) else leaf for leaf in leaves], state), joined


def is_collected(module: nnx.Pytree) -> bool:
    """Return whether the sows of a module arrive at a `collect`; those of an initialization do not."""
    if not is_collecting() or module._pytree__state.initializing:
        return False
    outer = bridge.current_linen_module()
    return outer is None or not outer.is_initializing()


def label_of(module: nnx.Pytree, collection: str, name: str) -> Label:
    """Return the label of a sow in a module.

    Raises:
        LostMetricError: The module is in no model that the collected function was given or holds.
    """
    places = current_places.get()
    place = None if places is None else places.of(module)
    if place is None:
        raise LostMetricError(
            f"{name} is sown in {type(module).__name__}, an nnx module of a model that the collected "
            "function neither was given nor holds, so its path is not known. Pass the model as an argument: "
            "sowlog.collect(fn)(model, x)."
        )
    return Label(collection, (*scope_path(), *place.path), name, model=place.model or 0)


def watch_calls() -> None:
    """Let the calls of all classes of modules be watched and named."""
    watch_classes(nnx.Module, _watched)


def _watched(module: nnx.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    places = current_places.get()
    place = None if places is None else places.of(module)
    call = functools.partial(call, module)
    if place is None:
        return call(*args, **kwargs)
    with named(place.path):
        if not is_watching() or not is_collected(module):
            return call(*args, **kwargs)
        label = label_of(module, METRICS, "")
        return call_watched(label, module, lambda: nnx.state(module, nnx.Param), call, args, kwargs)


def described(module: nnx.Pytree, name: str) -> str:
    """Return the place of a sow in errors."""
    places = current_places.get()
    place = None if places is None else places.of(module)
    return f"{'/'.join((*(place.path if place else ()), name))} (in {type(module).__name__})"


def _with_stacks(maps: Callable[..., bool]) -> Callable[..., Any]:
    """Keep a state for each layer where nnx.scan or nnx.vmap maps the parameters of a module."""

    def wrapper(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_with_stacks(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_collecting():
                return call(self, *args, **kwargs)

            @functools.wraps(self.f)
            def run(*args: Any, **kwargs: Any) -> Any:
                return (stacked(self.f) if maps(self, args, kwargs) else self.f)(*args, **kwargs)

            return call(dataclasses.replace(self, f=run), *args, **kwargs)

        return call_with_stacks

    return wrapper


def _vmap_maps(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether the vmap that runs maps parameters of modules among its arguments."""
    parameters = [parameter for value in (args, kwargs) for parameter in _parameters_in(value)]
    batch = internals.mapped(next(internals.current_traces()), jax.tree.leaves(parameters))
    return batch is not None and any(axis is not None for _, axis in batch[2])


def _scan_maps(scan: Any, args: tuple[Any, ...], _: Any) -> bool:
    """Return whether the axes of an nnx.scan map parameters of modules among its arguments."""
    axes = scan.in_axes if isinstance(scan.in_axes, tuple) else (scan.in_axes,) * len(args)
    return any(
        _maps_parameters(axis) and any(True for _ in _parameters_in(value))
        for value, axis in zip(args, axes, strict=True)
    )


def _parameters_in(value: Any) -> Iterator[nnx.Param[Any]]:
    for _, module in objects_in(value, nnx.Module):
        for _, node in nnx.iter_graph(module, graph=True):
            if isinstance(node, nnx.Param):
                yield node


def _maps_parameters(axes: Any) -> bool:
    if isinstance(axes, nnx.StateAxes):
        return any(
            isinstance(axis, int)
            for filter, axis in axes.items()
            if filterlib.to_predicate(filter)((), nnx.Param(0.0))
        )
    if isinstance(axes, nnx.Pytree | tuple | list | dict):
        leaves = jax.tree.leaves(axes, is_leaf=lambda axis: isinstance(axis, nnx.StateAxes))
        return any(map(_maps_parameters, leaves))
    return isinstance(axes, int)


def _sow_metric(sow: Callable[..., Any]) -> Callable[..., Any]:
    """Collect Flax's own `module.sow(sowlog.nnx.Metric, ...)`; an `nnx.capture` has the values as well."""

    def sow_or_collect(
        module: nnx.Module, variable_type: Any, name: str, value: Any, **functions: Any
    ) -> bool:
        if variable_type is not Metric or not is_collected(module):
            return sow(module, variable_type, name, value, **functions)
        reducer = getattr(functions.get("reduce_fn"), "__self__", None)
        if not isinstance(reducer, Reducer):
            raise TypeError(
                f"{described(module, name)} is sown as sowlog.nnx.Metric with functions that are not those "
                f'of a reducer. Write: module.sow(sowlog.nnx.Metric, "{name}", value, **sowlog.mean).'
            )
        label = label_of(module, METRICS, name)
        emit(label._replace(note=Note(Source(place=place_of_caller()))), reducer.of(value))
        if hasattr(module, "__captures__"):
            sow(module, variable_type, name, value, **functions)
        return True

    return sow_or_collect


def _bridge_path(call: Callable[..., Any]) -> Callable[..., Any]:
    """Put the path of an nnx module that wraps a linen model before the paths of that model."""

    def call_inside(self: Any, *args: Any, **kwargs: Any) -> Any:
        places = current_places.get()
        place = None if places is None or not is_collecting() else places.of(self)
        if place is None:
            return call(self, *args, **kwargs)
        with linen.outermost(), inside(place.path):
            return call(self, *args, **kwargs)

    return call_inside


_WRAPPED: list[tuple[Any, str, Callable[[Any], Any]]] = [
    (pytreelib.PytreeState, "is_setup", carry_place),
    (pytreelib.PytreeState, "__init__", mark_unflattened),
    (pytreelib, "_graph_node_meta_call", place_made),
    (pytreelib.Pytree, "_setattr", place_assigned),
    (graphlib, "unflatten", place_merged),
    (graphlib.GraphDef, "__eq__", compare_places),
    (graphlib.TreeNodeDef, "__eq__", compare_places),
    (iteration.ScanFn, "__call__", _with_stacks(_scan_maps)),
    (iteration.SimpleScanFn, "__call__", _with_stacks(_scan_maps)),
    (iteration.VmapFn, "__call__", _with_stacks(_vmap_maps)),
    (iteration.SimpleVmapFn, "__call__", _with_stacks(_vmap_maps)),
    (nnx.Module, "sow", _sow_metric),
    (bridge.ToNNX, "__call__", _bridge_path),
    *((module, "tree_map", map_all_places) for module in internals.TREE_UTIL),
]


class _Probe(nnx.Module):
    """A module whose place is looked for after a split and a merge."""


@functools.cache
def install() -> None:
    """Wrap the functions of Flax.

    Raises:
        RuntimeError: This Flax lacks one, or its modules do not carry their places; the message says which.
    """
    missing = [f"{owner.__name__}.{name}" for owner, name, _ in _WRAPPED if not hasattr(owner, name)]
    if not missing:
        for owner, name, wrapper in _WRAPPED:
            function = getattr(owner, name)
            wrapped = wrapper(function)
            is_property = isinstance(wrapped, property)
            setattr(owner, name, wrapped if is_property else functools.wraps(function)(wrapped))
    if missing or not _carries_places():
        raise RuntimeError(
            f"sowlog needs {', '.join(missing) or 'modules whose flag is_setup outlives a split'}, which "
            f"flax {flax.__version__} has not. Install the version of flax that this sowlog was released "
            "with, or a newer sowlog."
        )


def _carries_places() -> bool:
    """Return whether a split and a merge, of a graph and of a pytree, keep the place of a module."""
    probe = _Probe()
    with placing(_Probe, (probe,), {}):
        places = current_places.get()
        merged = [nnx.merge(*nnx.split(probe)), jax.tree.map(lambda leaf: leaf, probe)]
        return places is not None and all(places.of(module) == places.of(probe) for module in merged)
