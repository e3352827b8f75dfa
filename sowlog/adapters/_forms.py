"""The form of a metric of another library: its tree structure, settings and accumulated arrays."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_HOST_NUMBERS = (bool, int, float, complex, str)

Arrays = tuple[tuple[tuple[int, ...], str], ...]
"""The shape and dtype of each array."""


class Form(NamedTuple):
    """The form of a metric: static, so that states of one reducer have one structure.

    Attributes:
        structure: the tree structure of the metric.
        constants: for each leaf the setting it holds; None for an accumulated array.
        arrays: shape and dtype of each accumulated array.
    """

    structure: Any
    constants: tuple[Any, ...]
    arrays: Arrays


def constructor_of_collection(metric: Any) -> Callable[..., Any] | None:
    """Return the constructor of a Collection of clu, which has no other."""
    return getattr(metric, "single_from_model_output", None)


def constructor(metric: Any, settings: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    """Return the function that makes a metric of outputs, with the settings passed."""
    return functools.partial(constructor_of_collection(metric) or metric.from_model_output, **dict(settings))


@contextlib.contextmanager
def default_promotion() -> Generator[None]:
    """Run code of another library under JAX's default rules: the strict ones are for a user's own."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def fits(found: Arrays, wanted: Arrays) -> bool:
    """Return whether arrays can be cast to those of a form; a weight of 0.5 is no int32."""
    return [shape for shape, _ in found] == [shape for shape, _ in wanted] and not any(
        np.issubdtype(one, np.floating) and not np.issubdtype(other, np.floating)
        for (_, one), (_, other) in zip(found, wanted, strict=True)
    )


def described(arrays: Arrays) -> str:
    """Return arrays as text: float32[200]."""
    return ", ".join(f"{dtype}[{','.join(map(str, shape))}]" for shape, dtype in arrays)


def takes_one_array(make: Callable[..., Any]) -> bool:
    """Return whether a metric may be made of one argument."""
    try:
        inspect.signature(make).bind(None)
    except TypeError:
        return False
    return True


def form_of(
    make: Callable[..., Any], args: tuple[Any, ...] = (), named: Mapping[str, Any] | None = None
) -> Form:
    """Return the form of the metrics that a function makes of an example, or of an empty metric."""
    is_example = named is not None
    found: list[Form] = []

    def look(args: tuple[Any, ...], arrays: Mapping[str, Any]) -> None:
        made = make(*args, **{**(named or {}), **arrays})
        leaves, structure = jax.tree.flatten(made)
        # A number of Python is a setting if a merge keeps it, and a count if a merge adds it. Of an empty
        # metric this cannot be seen: its numbers are counts.
        again = jax.tree.leaves(made.merge(made)) if is_example else leaves
        constants = tuple(
            a if is_example and isinstance(a, _HOST_NUMBERS) and a is b else None
            for a, b in zip(leaves, again, strict=True)
        )
        kept = [leaf for leaf, setting in zip(leaves, constants, strict=True) if setting is None]
        found.append(Form(structure, constants, tuple((np.shape(leaf), wide_dtype(leaf)) for leaf in kept)))

    arrays = {name: value for name, value in (named or {}).items() if not _is_text(value)}
    with default_promotion():
        if args or arrays:
            jax.eval_shape(look, args, arrays)
        else:
            look((), {})
    return found[0]


def _is_text(value: Any) -> bool:
    return any(isinstance(leaf, str) for leaf in jax.tree.leaves(value))


def wide_dtype(leaf: Any) -> str:
    """Return the dtype of a part, of 32 bits or more."""
    dtype = np.dtype(jnp.result_type(leaf))
    return "float32" if dtype.itemsize < 4 and dtype != np.bool_ else str(dtype)
