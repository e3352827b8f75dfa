"""Values and weights: the check that they can be sown, and their conversion to arrays."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import jax
import jax.core
import jax.numpy as jnp
import jax.typing
import numpy as np

Value = jax.typing.ArrayLike | Sequence[Any]
"""A real number or an array of real numbers."""

_SHOWN = 80


@final
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Weighted:
    """A value and its weight, for the plain form `module.sow(col, name, weighted(value, w), **reducer)`."""

    value: Any
    weight: Any


def weighted(value: Value, weight: Value) -> Weighted:
    """Pair a value with its weight, for Flax's own form of sowing.

    That form is `module.sow("metrics", name, sowlog.weighted(value, w), **sowlog.mean)`.

    Args:
        value: a real number or array.
        weight: a number, or an array with as many axes as `value` that broadcasts to it.

    Returns:
        The pair, which a reducer accepts in place of a value.

    Example:
        >>> import sowlog
        >>> sowlog.mean.reduce_fn(sowlog.mean.init_fn(), sowlog.weighted([1.0, 5.0], [3, 1]))
        State(mean, 2.0)
    """
    return Weighted(value, weight)


def separated(value: Value | Weighted, weight: Value | None) -> tuple[Value, Value | None]:
    """Return a value and its weight, of a pair or as they are.

    Raises:
        ValueError: The value has two weights.
    """
    if not isinstance(value, Weighted):
        return value, weight
    if weight is not None:
        raise ValueError(
            "a value has two weights, one in sowlog.weighted(value, w) and one in weight=v: "
            "write weight=w * v, and the value by itself."
        )
    return value.value, value.weight


def narrowed(value: Any) -> Any:
    """Return a value, with integers of the host that do not fit JAX's integers converted to float32.

    Without 64-bit types JAX keeps the lower half of a NumPy int64: 2^33 would be 0.
    """
    if isinstance(value, list | tuple):
        return [narrowed(part) for part in value]
    if isinstance(value, bool) or not isinstance(value, int | np.integer | np.ndarray):
        return value
    array = np.asarray(value)
    if array.dtype == np.object_ and isinstance(value, int):
        return _float_of(value)
    if array.dtype.kind not in "iu" or not array.size:
        return value
    limits = np.iinfo(jax.dtypes.canonicalize_dtype(array.dtype))
    fits = limits.min <= array.min() and array.max() <= limits.max
    return value if fits else array.astype(np.float32)


def _float_of(value: int) -> Any:
    """Return an integer beyond 64 bits as float32 (or infinity); one that no float64 holds is unchanged."""
    try:
        with np.errstate(over="ignore"):
            return np.float32(float(value))
    except OverflowError:
        return value


def real_array(value: Value, what: str) -> jax.Array:
    """Return a value or weight as an array: floats as float32 or wider, integers and bools as they are.

    Raises:
        TypeError: The value is complex or not a number.
        RuntimeError: The array was donated or deleted.
    """
    if isinstance(value, jax.core.Tracer):
        if value.dtype == jnp.float32 and not jax.typeof(value).weak_type:
            # Most values of a model: a trace has hundreds of them.
            return value
    elif isinstance(value, jax.Array) and value.is_deleted():
        raise RuntimeError(deleted(f"the {what}"))
    for part in _parts(value):
        if isinstance(part, np.ma.MaskedArray):
            check_real(f"the {what}", part, f"a {what} must be")
    try:
        array = jnp.asarray(narrowed(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(_not_a_number_message(value, what)) from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"a {what} must be real, got {array.dtype}: sow jnp.abs(x), x.real or x.imag.")
    check_real(f"the {what}", array, f"a {what} must be")
    if array.dtype in (jnp.bool_, jnp.float64) or jnp.issubdtype(array.dtype, jnp.integer):
        return array
    return array.astype(jnp.float32)


def is_small_integer(array: jax.Array) -> bool:
    """Return whether an array is of bools, or of integers below 32 bits; float32 holds each exactly."""
    dtype = array.dtype
    return dtype == jnp.bool_ or (jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize < 4)


def is_exact_as_float32(array: jax.Array) -> bool:
    """Return whether float32 holds each element of a real array exactly, by its dtype."""
    return array.dtype == jnp.float32 or is_small_integer(array)


def check_real(name: str, array: Any, rule: str) -> None:
    """Raise if an array, concrete or abstract, is not of real numbers.

    Args:
        name: the name of the array in the message, such as its tag.
        array: anything with a shape and a dtype.
        rule: the subject and verb of the rule in the message: "a metric is".

    Raises:
        TypeError: The array is complex, masked, or holds keys or objects.
    """
    dtype = array.dtype
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask JAX drops: {rule} a real number. Write "
            "sowlog.mean.of(x.data, weight=~np.ma.getmaskarray(x)), or x.compressed()."
        )
    if not is_real(dtype):
        raise TypeError(f"{name} has dtype {dtype}: {rule} a real number.{_dtype_hint(dtype)}")


def is_real(dtype: Any) -> bool:
    """Return whether a dtype is of real numbers or bools."""
    # NumPy counts durations among the integers.
    is_number = jnp.issubdtype(dtype, jnp.number) and getattr(dtype, "kind", "") != "m"
    return dtype == np.bool_ or (is_number and not jnp.issubdtype(dtype, jnp.complexfloating))


def _dtype_hint(dtype: Any) -> str:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return " Write jnp.abs(x), x.real or x.imag."
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return " A key of random numbers has none: leave it out, or look at jax.random.key_data(key)."
    if getattr(dtype, "kind", "") in "mM":
        return ' Write x / np.timedelta64(1, "s") for seconds.'
    if dtype == np.object_:
        return " Write np.asarray(x, np.float32), where all elements are numbers."
    return ""


def deleted(name: str) -> str:
    """Return the message for a deleted array."""
    return (
        f"{name} is an array that was deleted: it was donated to a jitted function (donate_argnums), which "
        "reused its memory. Leave it out of the donated arguments, or use it before the call."
    )


def shown(value: Any) -> str:
    """Return a value as short text for a message."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:
        return f"a value whose repr fails with {type(error).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


def hint(value: Any) -> str:
    """Return a sentence with the expression to write in place of a value that is no number, or ""."""
    if isinstance(value, complex):
        return " Write abs(x), x.real or x.imag."
    if isinstance(value, Mapping):
        return " Write dict(...) of it."
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return " Write dataclasses.asdict(...) of it."
    if not isinstance(value, type | str | int) and hasattr(type(value), "__float__"):
        return " Write float(...) of it."
    return ""


def _not_a_number_message(value: Any, what: str) -> str:
    kind = type(value).__name__
    return f"a {what} must be a real number or an array of them, got {kind} {shown(value)}.{hint(value)}"


def _parts(value: Any) -> Iterator[Any]:
    """Yield a value, or the elements of its nested lists."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    else:
        yield value


def is_counted(weight: jax.Array) -> jax.Array:
    """Return where a weight is not 0, as bool; strict dtype promotion has no rule for a bool and a number."""
    return weight if weight.dtype == jnp.bool_ else weight != 0


def fit_weight(weight: jax.Array, value: jax.Array) -> jax.Array:
    """Return a weight in the shape of its value.

    Raises:
        ValueError: The shapes do not fit, or could fit by chance.
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
