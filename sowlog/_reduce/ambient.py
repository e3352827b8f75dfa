"""Reducers under JAX's ambient settings: meshes with Explicit axes, NaN checks and transfer guards.

On a mesh with Explicit axes, the default of `jax.make_mesh`, an array's sharding is part of its type, and JAX
refuses an operation whose result could be sharded in several ways. So a reducer, built-in or a user's, runs
with these axes as Auto ones, where XLA decides. Its result, a few numbers, is replicated: states from all
places have one type, and can be merged, carried by a loop and packed.

`jax_debug_nans` and `jax_debug_infs` end a program at the first NaN or infinity. Those of a reducer are no
faults: the start of a maximum is -Inf, and an absent value computes to NaN. A user's own operations stay
checked. `jax_transfer_guard` refuses the constants of code outside of jit, which are not a user's data.
"""

import contextlib
import math
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import jax
import jax.core
from jax.sharding import AxisType, NamedSharding, PartitionSpec

_Result = TypeVar("_Result")
_OFF = False
# jax.config is typed without its values.
_CONFIG: Any = jax.config


def isolated(function: Callable[..., _Result], *args: Any) -> _Result:
    """Return `function(*args)`, computed without the ambient settings.

    On a mesh with Explicit axes the result is replicated.

    Args:
        function: a function from pytrees of arrays to a pytree of arrays.
        *args: the function's arguments.
    """
    with unchecked():
        return _with_auto_axes(function, *args)


@contextlib.contextmanager
def unchecked() -> Generator[None]:
    """Allow NaN, infinities and constants in the operations of this context that run outside of jit."""
    with contextlib.ExitStack() as stack:
        if _CONFIG.jax_debug_nans or _CONFIG.jax_debug_infs:
            stack.enter_context(jax.debug_nans(_OFF))
            stack.enter_context(jax.debug_infs(_OFF))
        if _CONFIG.jax_transfer_guard_host_to_device == "disallow":
            stack.enter_context(jax.transfer_guard_host_to_device("allow"))
        yield


def _with_auto_axes(function: Callable[..., _Result], *args: Any) -> _Result:
    leaves, structure = jax.tree.flatten(args)
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    mesh = _mesh_of(arrays)
    axes = _explicit_axes(mesh)
    if not axes:
        return function(*args)

    def on_arrays(*arrays: jax.Array) -> _Result:
        rest = iter(arrays)
        filled = [next(rest) if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
        return function(*structure.unflatten(filled))

    replicated = NamedSharding(mesh, PartitionSpec())
    # Typed as a decorator's result or a decorator.
    with_auto_axes: Any = jax.sharding.auto_axes(on_arrays, axes=axes, out_sharding=replicated)
    return with_auto_axes(*arrays)


def split_first_axis(array: jax.Array, parts: int) -> jax.Array:
    """Return an array of shape [parts * n, ...] as one of shape [parts, n, ...], with n sharded as before.

    On a mesh with Explicit axes n is left unsharded if it cannot be shared evenly.
    """
    length = array.shape[0] // parts
    shape = (parts, length, *array.shape[1:])
    mesh = _mesh_of([array])
    if not _explicit_axes(mesh):
        return array.reshape(shape)
    first, *others = jax.typeof(array).sharding.spec
    axes = first if isinstance(first, tuple) else (first,) if first is not None else ()
    shards = math.prod(mesh.shape[axis] for axis in axes)
    spec = PartitionSpec(None, first if length % shards == 0 else None, *others)
    return jax.lax.reshape(array, shape, out_sharding=NamedSharding(mesh, spec))


def varying_like(tree: Any, like: Any) -> Any:
    """Return the arrays of a tree, marked as varying over the mapped axes that `like`'s arrays vary over.

    Inside a checked `shard_map` a loop's carry must have this mark at the start, although all replicas start
    with equal values.

    Args:
        tree: arrays.
        like: arrays, or their shapes and dtypes as `jax.eval_shape` returns them.
    """
    axes = frozenset[Any]().union(*map(varying_axes, jax.tree.leaves(like)))
    if not axes:
        return tree
    return jax.tree.map(lambda array: _vary(array, axes - varying_axes(array)), tree)


def _vary(array: jax.Array, axes: frozenset[Any]) -> jax.Array:
    names = tuple(sorted(axes, key=str))
    return jax.lax.pcast(array, names, to="varying") if names else array


def varying_axes(leaf: Any) -> frozenset[Any]:
    """Return the mapped axes that an array, or its shape, is known to vary over in a checked `shard_map`."""
    kind: Any = getattr(leaf, "aval", leaf)
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(manual.varying if manual is not None else ())


def _mesh_of(arrays: list[jax.Array]) -> Any:
    """Return the abstract mesh of arithmetic on arrays, or None."""
    mesh: Any = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        return mesh
    # Without jax.set_mesh only the arrays know the mesh.
    meshes = (_own_mesh(array) for array in arrays)
    return next((mesh for mesh in meshes if mesh is not None and not mesh.empty), None)


def _own_mesh(array: jax.Array) -> Any:
    if isinstance(array, jax.core.Tracer):
        return jax.typeof(array).sharding.mesh
    # Outside of jit a mesh needs its devices, too.
    return array.sharding.mesh if isinstance(array.sharding, NamedSharding) else None


def _explicit_axes(mesh: Any) -> tuple[Any, ...]:
    if mesh is None:
        return ()
    return tuple(
        axis for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit
    )
