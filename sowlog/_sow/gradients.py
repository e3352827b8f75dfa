"""Statistics of the gradients of activations, sown in the backward pass."""

from typing import TYPE_CHECKING, Any, overload

import jax
import jax.numpy as jnp
from flax import linen as nn

from sowlog._reduce.reducer import Reducer
from sowlog._sow.cadence import check_every
from sowlog._sow.labels import METRICS
from sowlog._sow.site import (
    arguments_of,
    check_module,
    check_reducer,
    is_collected,
    label_of,
    place_of,
)
from sowlog._sow.taps import tap

if TYPE_CHECKING:
    from flax import nnx


@overload
def sow_grad(
    name: str, x: jax.Array, reducer: Reducer, /, *, every: int | str | None = None
) -> jax.Array: ...
@overload
def sow_grad(
    module: "nn.Module | nnx.Pytree",
    name: str,
    x: jax.Array,
    reducer: Reducer,
    *,
    every: int | str | None = None,
    doc: str = "",
) -> jax.Array: ...
def sow_grad(*args: Any, every: int | str | None = None, doc: str = "", **kwargs: Any) -> Any:
    """Sow statistics of the gradient that flows back through an activation; return the activation.

    Write `h = sowlog.sow_grad(self, "h", h, sowlog.rms)`, without `self` in a function. The backward pass
    sows the gradient of the returned value, so it arrives at the `collect` around the gradient, and no array
    of the activation's size is kept for it:

        (loss, aux), backward = sowlog.collect(jax.value_and_grad(loss_fn, has_aux=True))(params)

    A `collect` inside of `loss_fn` returns the other sows there, such as losses. The place may be under any
    transform of JAX. A scan merges its steps, from the last to the first, and `sowlog.stacked` keeps them
    apart. A value that a vmap does not map has one gradient there, the sum over the examples. Where no
    gradient flows, as in an evaluation, nothing is sown. Of nested gradients the innermost is recorded.
    Without a `collect` nothing is computed or compiled.

    Args:
        module: the module of linen or nnx that sows, `self`; none in the second form.
        name: the metric's name, unique in the module.
        x: a floating-point array.
        reducer: the accumulation of the gradients of one name: `sowlog.rms`, `sowlog.histogram` ...
        every: the cadence, as of `sow`, by the step or a flag of the `collect` around the gradient.
        doc: a description for people, as of `sow`.

    Returns:
        The array `x`, of which the rest of the function is to be computed.

    Raises:
        TypeError: `module` is neither a module nor a name; `x` is not a floating-point array; or `reducer` is
            not a reducer.
        ValueError: The name has an empty part.
        LostMetricError: (in the backward pass) The `collect` is inside of the gradient only; (while tracing)
            a loop that merges its steps is inside of one that keeps them apart, or a value is not mapped by
            a vmap that keeps its examples apart.

    Example:
        >>> import jax, jax.numpy as jnp, sowlog
        >>> def loss_fn(w, x):
        ...     h = sowlog.sow_grad("h", w * x, sowlog.max)
        ...     return jnp.sum(h**2)
        >>> grad, backward = sowlog.collect(jax.grad(loss_fn))(2.0, jnp.array([1.0, 3.0]))
        >>> sowlog.compute(backward["metrics"])
        {'h': np.float32(12.0)}
    """
    module, name, x, reducer = arguments_of(args, kwargs, ("x", "reducer"), {})
    check_module(module, name, f"x = sowlog.sow_grad(self, {name!r}, x, reducer)")
    check_reducer(module, name, reducer)
    check_every(every)
    if not is_collected(module, METRICS):
        return x
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{place_of(module, name)} is {dtype}: only the gradient of a floating-point array is sown"
            f"{'; sow those of x.real and x.imag' if jnp.issubdtype(dtype, jnp.complexfloating) else ''}."
        )
    return tap(label_of(module, METRICS, name, doc), jnp.asarray(x), reducer.of, every)
