"""Sows in nnx: the attribute path of a module, layers that a transform stacks, and Flax's own `module.sow`.

An nnx module knows no parent, and the transforms of nnx make new modules. So a `collect` looks up the places
of all modules in the models that its function is given or holds, and while it runs the structure of a module
carries its place through split, merge and jit. The functions of Flax that this takes are wrapped, once, and
pass through outside of a `collect`; `check` says if this version of Flax has them.
"""

import contextlib
import contextvars
import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import flax
import jax
from flax import nnx
from flax.nnx import filterlib, graphlib, pytreelib
from flax.nnx.bridge import wrappers as bridge
from flax.nnx.transforms import iteration

from sowlog._reduce.reducer import Reducer
from sowlog._sow import internals, linen
from sowlog._sow.collector import emit, inside, is_collecting, scope_path
from sowlog._sow.errors import LostMetricError
from sowlog._sow.holding import objects_held, objects_in
from sowlog._sow.labels import METRICS, Label
from sowlog._sow.scopes import stacked
from sowlog.nnx import Metric


class Place(NamedTuple):
    """The place of a module.

    Attributes:
        path: the attributes that lead to it from its model.
        model: the number of the model among those that the function was given; None for one made meanwhile.
    """

    path: tuple[str, ...]
    model: int | None = None

    def __truediv__(self, keys: Iterable[Any]) -> "Place":
        return self._replace(path=(*self.path, *map(str, keys)))


class _Setup(int):
    """The flag `is_setup` of a module, which is part of its structure, with the module's place.

    Modules at two places, or at one and at none, are two structures to jit. The plain flag equals all, so
    that axes or shardings made outside of the `collect` fit; and `jax.tree.map` takes modules of all places
    together. Two GraphDefs are keys of caches only: there the plain flag equals itself.

    Attributes:
        place: the place, or None for a module that the `collect` does not know.
        is_prefix: whether the module may stand for the axes or shardings of another, which it then fits: it
            holds no array, or its structure was made outside of the `collect`.
    """

    place: Place | None
    is_prefix: bool

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Setup):
            fits = self.is_prefix != other.is_prefix or _is_mapping.get()
            same = self.place == other.place or fits
        else:
            same = not _is_key.get()
        return same and isinstance(other, int) and int(self) == int(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__

    def __repr__(self) -> str:
        if _places.get() is None:
            return repr(bool(self))
        place = "a place unknown" if self.place is None else "/".join(self.place.path) or "the model"
        return f"{bool(self)} at {place}"


def _flag(setup: int, place: Place | None, *, is_prefix: bool) -> _Setup:
    flag = _Setup(setup)
    flag.place, flag.is_prefix = place, is_prefix
    return flag


class Places:
    """The places of the modules that a `collect` knows."""

    def __init__(self, outer: "Places | None") -> None:
        self._outer = outer
        # Modules and their states, each kept beside its place, so that no other gets its id. Transforms of
        # nnx give the modules of a model other states, and flatten reads the state alone.
        self._known: dict[int, tuple[Any, Place]] = {}
        self._models: list[nnx.Pytree] = []
        self._prefixes: dict[int, Any] = {}
        self._sown_by: dict[Label, int] = {}

    def add(self, models: Iterable[tuple[tuple[str, ...], nnx.Pytree]]) -> None:
        """Add the modules of models, each with the path that leads to it."""
        for path, model in models:
            self._models.append(model)
            is_prefix = _is_prefix(model)
            for module, place in _places_in(model, Place(path, len(self._models))):
                for level in self._around():
                    if outer := level.of(module):
                        level._note(module, outer)
                if id(module) not in self._known:
                    self._note(module, place)
                if is_prefix:
                    self._prefixes[id(module._pytree__state)] = module._pytree__state

    def _note(self, module: nnx.Pytree, place: Place) -> None:
        for known in (module, module._pytree__state):
            self._known[id(known)] = (known, place)

    def is_prefix(self, state: Any) -> bool:
        """Return whether a state is of a module that stands for the axes or shardings of another."""
        known = next((level for level in self.levels() if id(state) in level._known), None)
        if known is not None:
            return id(state) in known._prefixes
        return getattr(state._is_setup, "is_prefix", False)

    def levels(self) -> "Iterator[Places]":
        """Return the places of this `collect`, and of those around it."""
        yield self
        yield from self._around()

    def _around(self) -> "Iterator[Places]":
        return iter(()) if self._outer is None else self._outer.levels()

    def add_made(self, model: nnx.Pytree, place: Place) -> None:
        """Add the modules of a model that was made meanwhile, but for those of a model known before."""
        for module, inner in _places_in(model, place):
            known = self.of(module)
            if known is None or known.model is None:
                self._note(module, inner)

    def add_merged(self, model: nnx.Pytree, place: Place) -> None:
        """Add the modules of a model whose structure carried no places."""
        for module, inner in _places_in(model, place):
            if self.of(module) is None and self.is_prefix(module._pytree__state):
                self._note(module, inner)

    def of(self, module: Any) -> Place | None:
        """Return the place of a module, if it is known."""
        _, place = self._known.get(id(module), (None, None))
        return self.of_state(module._pytree__state) if place is None else place

    def of_state(self, state: Any) -> Place | None:
        """Return the place of the module that a state of Flax belongs to."""
        if id(state) in self._known:
            return self._known[id(state)][1]
        place = getattr(state._is_setup, "place", None)
        return self._outer.of_state(state) if place is None and self._outer is not None else place

    def check_model(self, label: Label, place: Place) -> None:
        """Raise ValueError if modules of two models sow under one label."""
        if place.model is None:
            return
        if self._sown_by.setdefault(label, place.model) != place.model:
            raise ValueError(
                f"{label} is sown by two models that the collected function was given, and would be one "
                'number. Give one a scope: with sowlog.scope("teacher"): y = teacher(x).'
            )

    def forget(self) -> None:
        """Remove the places that transforms left in the states of the models: those around have their own."""
        for model in self._models:
            for module, _ in _places_in(model, Place(())):
                module._pytree__state._is_setup = bool(module._pytree__state._is_setup)
                for level in self._around():
                    if id(module) in level._known:
                        level._note(*level._known[id(module)])


def _places_in(model: nnx.Pytree, place: Place) -> Iterator[tuple[nnx.Pytree, Place]]:
    """Return a model's modules and their places: of several, the first by name."""
    seen: set[int] = set()
    below = [(place, model)]
    while below:
        place, module = below.pop()
        if id(module) in seen:
            continue
        if id(module._pytree__state) in seen:
            # `copy.copy` of a module copies no state, and two modules have two places.
            object.__setattr__(module, "_pytree__state", copy.copy(module._pytree__state))
        seen |= {id(module), id(module._pytree__state)}
        yield module, place
        inner = [
            (place / (name, *keys), inner)
            for name, value in sorted(vars(module).items())
            if not isinstance(value, nnx.Variable | jax.Array)
            for keys, inner in objects_in(value, nnx.Pytree)
        ]
        below.extend(reversed(inner))


def _is_prefix(model: nnx.Pytree) -> bool:
    """Return whether a model has axes or shardings in place of its arrays, as `nnx.prefix` makes it."""
    found = False
    for _, node in nnx.iter_graph(model, graph=True):
        if isinstance(node, nnx.Pytree):
            data = [vars(node).get(name, node) for name, is_data in node._pytree__nodes.items() if is_data]
        else:
            data = [node.get_raw_value()] if isinstance(node, nnx.Variable) else [node]
            if hasattr(data[0], "dtype"):
                return False
        found = found or any(value is None or isinstance(value, _AXES) for value in data)
    return found


_AXES = (int, jax.sharding.Sharding, jax.sharding.PartitionSpec)
_is_key: contextvars.ContextVar[bool] = contextvars.ContextVar("sowlog_is_key", default=False)
_is_mapping: contextvars.ContextVar[bool] = contextvars.ContextVar("sowlog_is_mapping", default=False)
_places: contextvars.ContextVar[Places | None] = contextvars.ContextVar("sowlog_places", default=None)


@contextlib.contextmanager
def placing(fn: Callable[..., Any], args: Any, kwargs: Any) -> Generator[None]:
    """Look up the places of the modules that a function is given, is, or holds."""
    places = Places(_places.get())
    for value in (*args, *kwargs.values(), fn):
        places.add(objects_held(value, nnx.Pytree))
    token = _places.set(places)
    try:
        yield
    finally:
        _places.reset(token)
        places.forget()


def is_module(value: Any) -> bool:
    """Return whether a value is a module, or another object, of nnx."""
    return isinstance(value, nnx.Pytree)


def without_self(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Return a call in which a model, whose method is called, is the first argument."""
    if inspect.ismethod(fn) and is_module(fn.__self__):
        return fn.__func__, (fn.__self__, *args), kwargs
    return fn, args, kwargs


def split_models(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return a tree with the state of the models in it, and a function that makes the models of such a tree.

    The models are graphs: as pytrees, a shared module would be two, and a cycle would have no end.
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
        ValueError: Two models sow under the label.
    """
    places = _places.get()
    place = None if places is None else places.of(module)
    if places is None or place is None:
        raise LostMetricError(
            f"{name} is sown in {type(module).__name__}, an nnx module of a model that the collected "
            "function neither was given nor holds, so its path is not known. Pass the model as an argument: "
            "sowlog.collect(fn)(model, x)."
        )
    label = Label(collection, (*scope_path(), *place.path), name)
    places.check_model(label, place)
    return label


def described(module: nnx.Pytree, name: str) -> str:
    """Return the place of a sow in errors."""
    places = _places.get()
    place = None if places is None else places.of(module)
    return f"{'/'.join((*(place.path if place else ()), name))} (in {type(module).__name__})"


def _carry_place(_: property) -> property:
    """Let the structure of a module carry its place: JAX and nnx read this flag when they flatten it."""

    def with_place(state: Any) -> Any:
        places, setup = _places.get(), state._is_setup
        if places is None:
            return bool(setup)
        return _flag(setup, places.of_state(state), is_prefix=places.is_prefix(state))

    return property(with_place)


def _mark_unflattened(init: Callable[..., None]) -> Callable[..., None]:
    """Mark the modules that a structure from outside makes inside of a `collect`: they fit all places."""

    def init_and_mark(state: Any, *args: Any, **kwargs: Any) -> None:
        init(state, *args, **kwargs)
        if _places.get() is not None and not isinstance(state._is_setup, _Setup):
            state._is_setup = _flag(state._is_setup, None, is_prefix=True)

    return init_and_mark


def _place_made(make: Callable[..., Any]) -> Callable[..., Any]:
    """Place the modules of a model that is made inside of a `collect`: under the name of its class."""

    def make_and_place(cls: Any, *args: Any, **kwargs: Any) -> Any:
        module = make(cls, *args, **kwargs)
        places = _places.get()
        if places is not None:
            outer = bridge.current_linen_module()
            is_bridged = isinstance(outer, bridge.ToLinen)
            for level in places.levels():
                level.add_made(module, Place(tuple(outer.path) if is_bridged else (cls.__name__,)))
        return module

    return make_and_place


def _place_assigned(assign: Callable[..., None]) -> Callable[..., None]:
    """Place the modules that were made inside of a `collect`, and become an attribute of another."""

    def assign_and_place(module: nnx.Pytree, name: str, value: Any) -> None:
        assign(module, name, value)
        places = _places.get()
        for level in () if places is None else places.levels():
            if place := level.of(module):
                for keys, made in objects_in(value, nnx.Pytree):
                    level.add_made(made, place / (name, *keys))

    return assign_and_place


def _place_merged(unflatten: Callable[..., Any]) -> Callable[..., Any]:
    """Place the modules of a model that was split outside of the `collect`, and is merged inside."""

    def unflatten_and_place(*args: Any, **kwargs: Any) -> Any:
        merged = unflatten(*args, **kwargs)
        places = _places.get()
        if places is not None:
            for keys, model in objects_in(merged, nnx.Pytree):
                places.add_merged(model, Place(keys))
        return merged

    return unflatten_and_place


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
    """Collect Flax's own `module.sow(sowlog.nnx.Metric, ...)`; `nnx.capture` of the type hears it as well."""

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
        emit(label_of(module, METRICS, name), reducer.of(value))
        if hasattr(module, "__captures__"):
            sow(module, variable_type, name, value, **functions)
        return True

    return sow_or_collect


def _bridge_path(call: Callable[..., Any]) -> Callable[..., Any]:
    """Put the path of an nnx module that wraps a linen model before the paths of that model."""

    def call_inside(self: Any, *args: Any, **kwargs: Any) -> Any:
        places = _places.get()
        place = None if places is None or not is_collecting() else places.of(self)
        if place is None:
            return call(self, *args, **kwargs)
        with linen.outermost(), inside(place.path):
            return call(self, *args, **kwargs)

    return call_inside


def _compare_places(equal: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Let a GraphDef that carries no places differ from one that does, as long as a `collect` runs."""

    def equal_with_places(one: Any, other: Any) -> Any:
        if _places.get() is None:
            return equal(one, other)
        token = _is_key.set(True)
        try:
            # A plain flag on the left compares as an int.
            same = equal(one, other)
            return same and (same is NotImplemented or equal(other, one))
        finally:
            _is_key.reset(token)

    return equal_with_places


def _map_all_places(tree_map: Callable[..., Any]) -> Callable[..., Any]:
    """Let `jax.tree.map` take modules of several places together, as for the average of two models."""

    def map_all(*args: Any, **kwargs: Any) -> Any:
        if _places.get() is None:
            return tree_map(*args, **kwargs)
        token = _is_mapping.set(True)
        try:
            return tree_map(*args, **kwargs)
        finally:
            _is_mapping.reset(token)

    return map_all


_WRAPPED: list[tuple[Any, str, Callable[[Any], Any]]] = [
    (pytreelib.PytreeState, "is_setup", _carry_place),
    (pytreelib.PytreeState, "__init__", _mark_unflattened),
    (pytreelib, "_graph_node_meta_call", _place_made),
    (pytreelib.Pytree, "_setattr", _place_assigned),
    (graphlib, "unflatten", _place_merged),
    (graphlib.GraphDef, "__eq__", _compare_places),
    (graphlib.TreeNodeDef, "__eq__", _compare_places),
    (iteration.ScanFn, "__call__", _with_stacks(_scan_maps)),
    (iteration.SimpleScanFn, "__call__", _with_stacks(_scan_maps)),
    (iteration.VmapFn, "__call__", _with_stacks(_vmap_maps)),
    (iteration.SimpleVmapFn, "__call__", _with_stacks(_vmap_maps)),
    (nnx.Module, "sow", _sow_metric),
    (bridge.ToNNX, "__call__", _bridge_path),
    *((module, "tree_map", _map_all_places) for module in internals.TREE_UTIL),
]


@functools.cache
def install() -> None:
    """Wrap the functions of Flax.

    Raises:
        RuntimeError: This Flax lacks one, or its modules do not carry the flag; the message names it.
    """
    missing = [f"{owner.__name__}.{name}" for owner, name, _ in _WRAPPED if not hasattr(owner, name)]
    if missing:
        raise RuntimeError(
            f"sowlog needs {', '.join(missing)}, which flax {flax.__version__} has not. Install the version "
            "of flax that this sowlog was released with, or a newer sowlog."
        )
    for owner, name, wrapper in _WRAPPED:
        function = getattr(owner, name)
        wrapped = wrapper(function)
        setattr(owner, name, wrapped if isinstance(wrapped, property) else functools.wraps(function)(wrapped))
