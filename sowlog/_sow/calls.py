"""A call of a function, as the arrays in it and all else: models, flags and names."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from sowlog._sow import foreign

_Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a function, or of a model.

    Attributes:
        arrays: the arrays in the function and in its arguments; shapes may stand in their place.
        names: the name of each, such as "params['w']".
        filled: the function from such arrays to function, arguments and keyword arguments.
        state: the function from these to the arrays of their nnx models, by name.
    """

    arrays: list[Any]
    names: list[str]
    filled: Callable[[Sequence[Any]], tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]
    state: Callable[[Any], list[tuple[str, Any]]]

    @classmethod
    def of(cls, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Call":
        """Return the call of a function with arguments."""
        nnx = foreign.loaded_nnx()
        call: Any = (fn, args, kwargs)
        if nnx is None:
            whole, joined = call, lambda call: call
        else:
            call = nnx.without_self(*call)
            whole, joined = nnx.split_models(call)
        leaves, structure = jax.tree.flatten(whole)
        is_array = [isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct) for leaf in leaves]
        places, models = _places(call, nnx)

        def place(path: _Path) -> _Path:
            if nnx is None:
                return path
            of_model, at = path[0].idx, path[1]
            return (*models[at.key], *path[2:]) if of_model else (*places[at.idx], *path[2:])

        def filled(arrays: Sequence[Any]) -> Any:
            rest = iter(arrays)
            both = zip(leaves, is_array, strict=True)
            return joined(structure.unflatten([next(rest) if array else leaf for leaf, array in both]))

        def state(call: Any) -> list[tuple[str, Any]]:
            if nnx is None:
                return []
            (_, of_models), _ = nnx.split_models(call)
            pairs = tree_flatten_with_path(of_models)[0]
            return [(name((*models[path[0].key], *path[1:])), leaf) for path, leaf in pairs]

        name = _namer(call[0])
        both = zip(tree_flatten_with_path(whole)[0], is_array, strict=True)
        named = [(leaf, name(place(path))) for (path, leaf), array in both if array]
        return cls([leaf for leaf, _ in named], [name for _, name in named], filled, state)


def _places(call: Any, nnx: Any) -> tuple[list[_Path], list[_Path]]:
    """Return the paths of a call's leaves and those of its nnx models, which are leaves."""
    if nnx is None:
        return [], []
    leaves = tree_flatten_with_path(call, is_leaf=nnx.is_module)[0]
    return [path for path, _ in leaves], [path for path, leaf in leaves if nnx.is_module(leaf)]


def _namer(fn: Any) -> Callable[[_Path], str]:
    """Return the function from the path of an array in a call to its name."""
    try:
        signature = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        signature = ()
    positional = [p.name for p in signature if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]

    def name(path: _Path) -> str:
        if path[0].idx == 0:
            return f"fn{keystr(path[1:])}"
        if path[0].idx == 2:
            return f"{path[1].key}{keystr(path[2:])}"
        at = path[1].idx
        return f"{positional[at] if at < len(positional) else f'args[{at}]'}{keystr(path[2:])}"

    return name
