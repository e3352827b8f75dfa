"""The place of arrays in an evaluation: whole, or inside of a shard_map with the shards along a first axis.

JAX evaluates a shard_map outside of jit as well, but compiles each equation anew each time it runs. A jitted
shard_map for each equation is compiled once, however many iterations its loop has.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.sharding import PartitionSpec

from sowlog._reduce import ambient

Axes = tuple[tuple[str, int], ...]
"""Names of mesh axes, and their sizes."""

_JOINED = 32
"""Arrays that one concatenation takes: XLA compiles slowly for thousands of operands."""


class Whole:
    """Arrays as they are."""

    def axes_of(self, aval: Any) -> Axes:
        """Return the mesh axes along which the shards of an array lie."""
        return ()

    def lifted(self, array: Any) -> Any:
        """Return a constant as it is kept here."""
        return array

    def rows_of(self, array: Any) -> np.ndarray[Any, Any]:
        """Return an array on the host, with the shards along the first axis."""
        return np.asarray(jax.device_get(array))[None]

    def bind(self, equation: Any, arrays: Sequence[Any]) -> list[Any]:
        """Evaluate an equation by its primitive."""
        return bound(equation, arrays)

    def compiled(self, function: Callable[..., Any], jaxpr: Any) -> Callable[..., list[Any]]:
        """Return a function with the arrays of a closed jaxpr, jitted."""
        return jax.jit(function)

    def element(self, array: Any, index: int) -> Any:
        """Return the element of an array along its first axis; one compilation serves all indices."""
        return _element(array, index, axis=0)

    def stacked(self, parts: Sequence[Any]) -> Any:
        """Return arrays stacked along a new first axis."""
        return _stacked(parts, axis=0)


class Sharded(Whole):
    """Arrays inside of a shard_map: the shards of each lie along a new first axis.

    Args:
        equation: the equation of the shard_map.
    """

    def __init__(self, equation: Any):
        params = equation.params
        self._mesh, self._check = params["mesh"], params["check_vma"]
        mapped = params["newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"]
        self._axes = tuple((name, self._mesh.shape[name]) for name in self._mesh.axis_names if name in mapped)
        self._equation = equation
        self._bound: dict[int, Callable[..., list[Any]]] = {}

    def entered(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the arguments of the shard_map as they are kept here."""
        avals = self._equation.params["jaxpr"].invars
        outs = [self._spec(variable.aval) for variable in avals]
        ins = self._equation.params["in_specs"]
        return self._map(lambda *args: list(map(_wrap, args)), ins, outs)(*arrays)

    def left(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the results of the shard_map as whole arrays."""
        ins = [self._spec(atom.aval) for atom in self._equation.params["jaxpr"].outvars]
        outs = self._equation.params["out_specs"]
        return self._map(lambda *args: list(map(_unwrap, args)), ins, outs)(*arrays)

    def axes_of(self, aval: Any) -> Axes:
        """Return the mesh axes along which the shards of an array lie."""
        if not self._check:
            return self._axes
        varying = ambient.varying_axes(aval)
        return tuple(axis for axis in self._axes if axis[0] in varying)

    def lifted(self, array: Any) -> Any:
        """Return a constant as it is kept here, the same on all shards."""
        array = jnp.asarray(array)
        size = 1 if self._check else math.prod(size for _, size in self._axes)
        return jnp.broadcast_to(array[None], (size, *array.shape))

    def rows_of(self, array: Any) -> np.ndarray[Any, Any]:
        """Return an array on the host, with the shards along the first axis."""
        return np.asarray(jax.device_get(array))

    def bind(self, equation: Any, arrays: Sequence[Any]) -> list[Any]:
        """Evaluate an equation by its primitive on all shards."""
        atoms = equation.invars
        # A number in an equation stays one, of the type that the equation knows.
        passed = [not isinstance(atom, Literal) for atom in atoms]

        def run(*args: Any) -> list[Any]:
            rest = iter(args)
            both = zip(atoms, passed, strict=True)
            return bound(equation, [next(rest) if is_passed else atom.val for atom, is_passed in both])

        if id(equation) not in self._bound:
            ins = [atom.aval for atom, is_passed in zip(atoms, passed, strict=True) if is_passed]
            outs = [variable.aval for variable in equation.outvars]
            self._bound[id(equation)] = self._on_shards(run, ins, outs)
        return self._bound[id(equation)](
            *(array for array, is_passed in zip(arrays, passed, strict=True) if is_passed)
        )

    def compiled(self, function: Callable[..., Any], jaxpr: Any) -> Callable[..., list[Any]]:
        """Return a function with the arrays of a closed jaxpr, jitted and on all shards."""
        return self._on_shards(function, jaxpr.in_avals, jaxpr.out_avals)

    def element(self, array: Any, index: int) -> Any:
        """Return the element of an array along its first axis on each shard."""
        return _element(array, index, axis=1)

    def stacked(self, parts: Sequence[Any]) -> Any:
        """Return arrays stacked along a new first axis on each shard."""
        return _stacked(parts, axis=1)

    def _on_shards(self, function: Callable[..., Any], ins: Sequence[Any], outs: Sequence[Any]) -> Any:
        def run(*args: Any) -> list[Any]:
            return [_wrap(result) for result in function(*map(_unwrap, args))]

        return self._map(run, list(map(self._spec, ins)), list(map(self._spec, outs)))

    def _map(self, function: Callable[..., list[Any]], ins: Sequence[Any], outs: Sequence[Any]) -> Any:
        return jax.jit(
            jax.shard_map(
                function,
                mesh=self._mesh,
                in_specs=tuple(ins),
                out_specs=list(outs),
                axis_names={name for name, _ in self._axes},
                check_vma=self._check,
            )
        )

    def _spec(self, aval: Any) -> PartitionSpec:
        names = tuple(name for name, _ in self.axes_of(aval))
        return PartitionSpec(names) if names else PartitionSpec()


def bound(equation: Any, arrays: Sequence[Any]) -> list[Any]:
    """Return the results of an equation of arrays."""
    primitive = equation.primitive
    with equation.ctx.manager:
        results = primitive.bind(*arrays, **primitive.get_bind_params(equation.params))
    return list(results) if primitive.multiple_results else [results]


def _wrap(x: Any) -> Any:
    return jnp.expand_dims(x, 0)


def _unwrap(x: Any) -> Any:
    return jnp.squeeze(x, 0)


@jax.jit(static_argnames="axis")
def _element(x: Any, index: Any, *, axis: int) -> Any:
    return jax.lax.dynamic_index_in_dim(x, index, axis, keepdims=False)


def _stacked(parts: Sequence[Any], *, axis: int) -> Any:
    groups = [jnp.stack(parts[at : at + _JOINED], axis) for at in range(0, len(parts), _JOINED)]
    while len(groups) > 1:
        groups = [jnp.concatenate(groups[at : at + _JOINED], axis) for at in range(0, len(groups), _JOINED)]
    return groups[0]
