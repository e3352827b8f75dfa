"""Places of nnx modules: found when a `collect` begins, and carried by the structure of each module."""

import contextvars
import copy
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
from flax import nnx

from sowlog._sow.holding import objects_in


class Place(NamedTuple):
    """The place of a module.

    Attributes:
        path: the attributes that lead to the module from its model.
        model: the number of the model among those found when the `collect` began; None for a model made
            during the `collect`.
    """

    path: tuple[str, ...]
    model: int | None = None

    def __truediv__(self, keys: Iterable[Any]) -> "Place":
        return self._replace(path=(*self.path, *map(str, keys)))


class Setup(int):
    """The flag `is_setup` of a module, which is part of its structure, with the module's place.

    Modules at two places, or at one and at none, are two structures to jit. Axes and shardings made outside
    of the `collect` have a plain flag, so that equals every flag. GraphDefs are compared as keys of caches
    only, and there a plain flag equals plain flags only. Under `jax.tree.map` the flags of all places are
    equal.

    Attributes:
        place: the place, or None for a module that the `collect` does not know.
        is_prefix: whether the module may hold the axes or shardings of another module, and then fits it: it
            has no array, or its structure was made outside of the `collect`.
    """

    place: Place | None
    is_prefix: bool

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Setup):
            fits = self.is_prefix != other.is_prefix or is_mapping.get()
            same = self.place == other.place or fits
        else:
            same = not is_key.get()
        return same and isinstance(other, int) and int(self) == int(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__

    def __repr__(self) -> str:
        if current_places.get() is None:
            return repr(bool(self))
        place = "a place unknown" if self.place is None else "/".join(self.place.path) or "the model"
        return f"{bool(self)} at {place}"


def setup_at(setup: int, place: Place | None, *, is_prefix: bool) -> Setup:
    """Return the flag of a module at a place."""
    flag = Setup(setup)
    flag.place, flag.is_prefix = place, is_prefix
    return flag


class Places:
    """The places of the modules that a `collect` knows."""

    def __init__(self, outer: "Places | None") -> None:
        self._outer = outer
        # Modules and their states by id. A transform of nnx replaces the states of a model's modules, and a
        # flatten has only a state. An entry keeps its state alive and ends with its module, so that no other
        # object gets the id; a module is not kept alive, since one made inside of a transform holds tracers.
        self._known: dict[int, tuple[Any, Place]] = {}
        self._models: list[nnx.Pytree] = []
        self._prefixes: dict[int, Any] = {}

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
        state = module._pytree__state
        ids = (id(module), id(state))
        self._known[id(module)] = (weakref.ref(module, lambda _: self._end(ids)), place)
        self._known[id(state)] = (state, place)

    def _end(self, ids: tuple[int, ...]) -> None:
        for known in ids:
            self._known.pop(known, None)

    def is_prefix(self, state: Any) -> bool:
        """Return whether a state is of a module that holds the axes or shardings of another."""
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
        """Add the modules of a model made during the `collect`, except those of a model found before."""
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
        """Return the place of a module; None for an unknown module."""
        _, place = self._known.get(id(module), (None, None))
        return self.of_state(module._pytree__state) if place is None else place

    def of_state(self, state: Any) -> Place | None:
        """Return the place of the module with a state of Flax; None for an unknown module."""
        if id(state) in self._known:
            return self._known[id(state)][1]
        place = getattr(state._is_setup, "place", None)
        return self._outer.of_state(state) if place is None and self._outer is not None else place

    def forget(self) -> None:
        """Remove the places that transforms left in the states of the models.

        A transform replaces states, so the `collect`s around note the present ones.
        """
        for model in self._models:
            for module, _ in _places_in(model, Place(())):
                module._pytree__state._is_setup = bool(module._pytree__state._is_setup)
                for level in self._around():
                    if id(module) in level._known:
                        level._note(module, level._known[id(module)][1])


def _places_in(model: nnx.Pytree, place: Place) -> Iterator[tuple[nnx.Pytree, Place]]:
    """Return a model's modules and their places; a shared module has the first of its places by name."""
    seen: set[int] = set()
    below = [(place, model)]
    while below:
        place, module = below.pop()
        if id(module) in seen:
            continue
        if id(module._pytree__state) in seen:
            # `copy.copy` of a module shares the state, and two modules need two places.
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
    """Return whether a model has axes or shardings in place of its arrays, as one made by `nnx.prefix`."""
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
# Whether structures are compared as keys of caches, and whether by `jax.tree.map`.
is_key: contextvars.ContextVar[bool] = contextvars.ContextVar("sowlog_is_key", default=False)
is_mapping: contextvars.ContextVar[bool] = contextvars.ContextVar("sowlog_is_mapping", default=False)
current_places: contextvars.ContextVar[Places | None] = contextvars.ContextVar("sowlog_places", default=None)
