"""Wrappers of the functions by which Flax makes, flattens and compares nnx modules: they keep the places."""

from collections.abc import Callable
from typing import Any

from flax import nnx
from flax.nnx.bridge import wrappers as bridge

from sowlog._sow.holding import objects_in
from sowlog._sow.nnx_places import Place, Setup, current_places, is_key, is_mapping, setup_at


def carry_place(_: property) -> property:
    """Let the structure of a module carry its place: a flatten, of JAX or of nnx, reads `is_setup`."""

    def with_place(state: Any) -> Any:
        places, setup = current_places.get(), state._is_setup
        if places is None:
            return bool(setup)
        return setup_at(setup, places.of_state(state), is_prefix=places.is_prefix(state))

    return property(with_place)


def mark_unflattened(init: Callable[..., None]) -> Callable[..., None]:
    """Mark the modules made inside of a `collect` from a structure of outside: they fit all places."""

    def init_and_mark(state: Any, *args: Any, **kwargs: Any) -> None:
        init(state, *args, **kwargs)
        if current_places.get() is not None and not isinstance(state._is_setup, Setup):
            state._is_setup = setup_at(state._is_setup, None, is_prefix=True)

    return init_and_mark


def place_made(make: Callable[..., Any]) -> Callable[..., Any]:
    """Place the modules of a model that is made inside of a `collect`: under the name of its class."""

    def make_and_place(cls: Any, *args: Any, **kwargs: Any) -> Any:
        module = make(cls, *args, **kwargs)
        places = current_places.get()
        if places is not None:
            outer = bridge.current_linen_module()
            is_bridged = isinstance(outer, bridge.ToLinen)
            for level in places.levels():
                level.add_made(module, Place(tuple(outer.path) if is_bridged else (cls.__name__,)))
        return module

    return make_and_place


def place_assigned(assign: Callable[..., None]) -> Callable[..., None]:
    """Place the modules that were made inside of a `collect`, and become an attribute of another."""

    def assign_and_place(module: nnx.Pytree, name: str, value: Any) -> None:
        assign(module, name, value)
        places = current_places.get()
        for level in () if places is None else places.levels():
            if place := level.of(module):
                for keys, made in objects_in(value, nnx.Pytree):
                    level.add_made(made, place / (name, *keys))

    return assign_and_place


def place_merged(unflatten: Callable[..., Any]) -> Callable[..., Any]:
    """Place the modules of a model that was split outside of the `collect`, and is merged inside."""

    def unflatten_and_place(*args: Any, **kwargs: Any) -> Any:
        merged = unflatten(*args, **kwargs)
        places = current_places.get()
        if places is not None:
            for keys, model in objects_in(merged, nnx.Pytree):
                places.add_merged(model, Place(keys))
        return merged

    return unflatten_and_place


def compare_places(equal: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Let a GraphDef that carries no places differ from one that does, as long as a `collect` runs."""

    def equal_with_places(one: Any, other: Any) -> Any:
        if current_places.get() is None:
            return equal(one, other)
        token = is_key.set(True)
        try:
            # `int.__eq__` runs for a plain flag on the left, so both orders are compared.
            same = equal(one, other)
            return same and (same is NotImplemented or equal(other, one))
        finally:
            is_key.reset(token)

    return equal_with_places


def map_all_places(tree_map: Callable[..., Any]) -> Callable[..., Any]:
    """Let `jax.tree.map` take modules of several places together, as for the average of two models."""

    def map_all(*args: Any, **kwargs: Any) -> Any:
        if current_places.get() is None:
            return tree_map(*args, **kwargs)
        token = is_mapping.set(True)
        try:
            return tree_map(*args, **kwargs)
        finally:
            is_mapping.reset(token)

    return map_all
