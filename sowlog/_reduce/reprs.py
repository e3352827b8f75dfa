"""Reprs of states and histograms: their results where they are concrete, their shape and place elsewhere."""

from typing import Any

import jax
import jax.core
import numpy as np


def place_of(tree: Any, like: Any) -> str:
    """Return the place and shape of a tree's arrays, or "" if they hold a single concrete result.

    Args:
        tree: a state or histogram, whose leaves may be anything that JAX puts there.
        like: the leaf that has the shape of the results.
    """
    leaves = jax.tree.leaves(tree)
    # JAX's errors describe each array by its type.
    if leaves and all(isinstance(leaf, str) for leaf in leaves):
        return ", ".join(leaves)
    shape = getattr(like, "shape", None)
    if shape is None or not all(hasattr(leaf, "shape") for leaf in leaves):
        return f"leaves of {type(like).__name__}"
    parts: list[str] = []
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        parts.append("traced")
    elif any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        parts.append("abstract")
    elif any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves):
        parts.append("deleted")
    if shape:
        parts.append(f"shape={tuple(shape)}")
    return ", ".join(parts)


def result_text(result: Any) -> str:
    """Return a single concrete result as text: a number, a histogram, or numbers by name."""
    if not isinstance(result, dict):
        return number_text(result) if np.shape(result) == () and hasattr(result, "dtype") else repr(result)
    named = ((name and f"{name}=", number_text(value)) for name, value in result.items())
    return ", ".join(f"{name}{text}" for name, text in named)


def number_text(value: Any) -> str:
    """Return a number with the digits that float32 holds."""
    return str(np.float32(value))
