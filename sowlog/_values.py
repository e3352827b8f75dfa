"""What can be sown: values and their weights, made arrays."""

import dataclasses
from collections.abc import Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np

Value = jax.typing.ArrayLike | Sequence[Any]
"""What can be sown: a real number or an array of them."""


@final
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Weighted:
    """A value and its weight, for the plain form `module.sow(col, name, weighted(value, w), **reducer)`."""

    value: Any
    weight: Any


def weighted(value: Value, weight: Value) -> Weighted:
    """Pairs a value with its weight, for the plain form of sowing.

    That is `module.sow("metrics", name, sowlog.weighted(value, w), **sowlog.mean)`.

    Args:
        value: a real number or array.
        weight: a number, or an array with as many axes as `value` that broadcasts to it.

    Example:
        >>> import sowlog
        >>> state = sowlog.mean.reduce_fn(sowlog.mean.init_fn(), sowlog.weighted([1.0, 5.0], [3, 1]))
        >>> float(state.compute())
        2.0
    """
    return Weighted(value, weight)


def narrowed(value: Any) -> Any:
    """Returns a value, as float32 if it is integers of the host that JAX has no room for.

    Without 64-bit types JAX keeps the lower half of a NumPy int64: 2^33 would be 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer | np.ndarray):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or not array.size:
        return value
    limits = np.iinfo(jax.dtypes.canonicalize_dtype(array.dtype))
    fits = limits.min <= array.min() and array.max() <= limits.max
    return value if fits else array.astype(np.float32)


def real_array(value: Value | None, what: str) -> jax.Array:
    """Returns a value or weight as an array: float32, or wider where it is wider, or int32, or bool.

    Raises:
        TypeError: it is complex or no number.
    """
    refusal = f"a {what} must be a real number or an array of them, got {type(value).__name__}."
    if value is None:  # Which jax 0.5.0 takes for NaN.
        raise TypeError(refusal)
    try:
        array = jnp.asarray(narrowed(value))
    except (TypeError, ValueError) as error:
        raise TypeError(refusal) from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"a {what} must be real, got {array.dtype}: sow jnp.abs(x), x.real or x.imag.")
    if array.dtype == jnp.bool_ and what == "weight":
        return array
    if array.dtype in (jnp.int32, jnp.uint32, jnp.int64, jnp.uint64, jnp.float64):
        return array
    return array.astype(jnp.float32)


def fit_weight(weight: jax.Array, value: jax.Array) -> jax.Array:
    """Returns a weight in the shape of its value.

    Raises:
        ValueError: it does not fit, or could fit by chance.
    """
    fits = weight.ndim == value.ndim and all(
        w in (1, v) for w, v in zip(weight.shape, value.shape, strict=True)
    )
    if weight.ndim and not fits:
        raise ValueError(
            f"a weight of shape {weight.shape} does not fit a value of shape {value.shape}: it must be a "
            "scalar or have as many axes, each of size 1 or the value's. Add the missing axes yourself, "
            "`weight[..., None]` for a mask per token, so that no axis is matched by chance."
        )
    return jnp.broadcast_to(weight, value.shape)
