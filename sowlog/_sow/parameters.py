"""Trees of parameters, gradients or updates: their arrays by module, and the norms of these."""

import dataclasses
from collections.abc import Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
from flax import linen as nn

from sowlog._reduce.squares import squares_of
from sowlog._sow import foreign
from sowlog._tree.globs import matches


@final
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Module:
    """The arrays of one module.

    Attributes:
        arrays: the floating-point arrays by path; complex ones as their magnitudes.
        layers: the length of their first axis, if it is that of layers, or None (static).
    """

    arrays: dict[str, jax.Array]
    layers: int | None = dataclasses.field(metadata={"static": True})


def modules_of(tree: Any, depth: int | None, stacked: Sequence[str]) -> dict[str, Module]:
    """Return the modules of a tree by path: the path of an array without its last name.

    An array at the root is a module of its own. Integers, keys and arrays without elements, which have no
    gradient, are left out.

    Args:
        tree: nested dicts, an nnx.State, an Equinox module or any pytree.
        depth: the number of names after which paths are cut; None cuts none.
        stacked: the globs of the arrays with layers along their first axis.

    Raises:
        ValueError: The layers of arrays of one module differ.
    """
    modules: dict[str, Module] = {}
    for names, array in _arrays_of(tree):
        path = "/".join(names)
        module = "/".join((names[:-1] or names)[:depth])
        is_stacked = any(matches(glob, path) for glob in stacked)
        if is_stacked and not array.ndim:
            raise ValueError(f"stacked= matches {path}, a scalar: the first axis must be that of its layers.")
        layers = array.shape[0] if is_stacked else None
        own = modules.setdefault(module, Module({}, layers))
        if own.layers != layers:
            raise ValueError(_layers_message(path, layers, next(iter(own.arrays)), own.layers))
        own.arrays[path] = array
    return modules


def _arrays_of(tree: Any) -> list[tuple[list[str], jax.Array]]:
    found: list[tuple[list[str], jax.Array]] = []
    for path, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_box)[0]:
        names = [jax.tree_util.keystr((key,), simple=True) for key in path]
        found += [(names, _real(leaf)) for leaf in jax.tree.leaves(node) if _has_gradient(leaf)]
    return found


def _is_box(node: Any) -> bool:
    """Return whether a node holds one array and no name: an nnx variable, or linen's axis metadata."""
    return foreign.is_variable(node) or isinstance(node, nn.meta.AxisMetadata)


def _has_gradient(leaf: Any) -> bool:
    dtype = jnp.result_type(leaf) if isinstance(leaf, float | complex) else getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact) and jnp.size(leaf) > 0


def _real(leaf: Any) -> jax.Array:
    array = jnp.asarray(leaf)
    return jnp.abs(array) if jnp.iscomplexobj(array) else array


def _layers_message(path: str, layers: int | None, other: str, others: int | None) -> str:
    if layers is None or others is None:
        one, second = (path, other) if others is None else (other, path)
        return (
            f"stacked= matches {one} and not {second}, which are of one module: write a glob that matches "
            "both, or a greater depth=."
        )
    return (
        f"stacked= matches {other} with {others} layers and {path} with {layers}, which are of one module: "
        "the first axis must be that of its layers. Write a narrower glob, or a greater depth=."
    )


@jax.jit
def norm_of(array: jax.Array) -> jax.Array:
    """Return the root of the sum of squares over all elements, in float32 and without overflow."""
    squares = squares_of(array.astype(jnp.float32))
    return squares.scale * jnp.sqrt(squares.total.value)
