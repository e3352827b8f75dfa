"""Checks of a user's model and step: see `sowlog.testing`."""

import contextlib
import functools
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, final

import jax
import jax.numpy as jnp

from sowlog._sow import collecting
from sowlog._tree.globs import check_globs, matches
from sowlog._tree.layout import is_packed
from sowlog._tree.tags import is_state, leaves_by_tag


def assert_sown(model: Any, *args: Any, names: str | Iterable[str], **kwargs: Any) -> list[str]:
    """Assert that a forward pass sows the expected names; the pass is abstract, so nothing is computed.

    Args:
        model: a linen or nnx model, or any function.
        *args: the arguments of its call, for a linen model after its variables, which hold no sown
            collections; shapes and dtypes suffice (`jax.ShapeDtypeStruct`).
        names: tags or globs that must each match a sown tag: "blocks/attn/entropy", "**/entropy",
            "losses/*". A tag is the module path and the name; losses are under "losses". `*` is any text
            within a part of the tag, `**` any number of parts.
        **kwargs: the keyword arguments of the call; for a linen model those of `apply`, such as mutable=,
            rngs= and method=.

    Returns:
        All sown tags, sorted, without the indices of stacked axes and the names of results.

    Raises:
        AssertionError: A name matches no tag; the message lists the sown tags.
        TypeError: `names` is no text, and not several.
        ValueError: A name has an empty part.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, sowlog.testing
        >>> class Block(nn.Module):
        ...     def __call__(self, x):
        ...         sowlog.sow(self, "rms", x, sowlog.rms)
        ...         return x
        >>> sowlog.testing.assert_sown(Block(), {}, jnp.ones(3), names="rms")
        ['rms']
    """
    wanted = check_globs("names of assert_sown", names)
    sown = list(sown_structure(model, *args, **kwargs))
    missing = [name for name in wanted if not any(matches(name, tag) for tag in sown)]
    if missing:
        raise AssertionError(
            f"{getattr(model, '__qualname__', type(model).__name__)} does not sow {', '.join(missing)}; "
            f"it sows: {', '.join(sown) or 'nothing'}."
        )
    return sown


def sown_structure(model: Any, *args: Any, **kwargs: Any) -> dict[str, str]:
    """Describe the values that a forward pass sows, as a snapshot for a test that detects changes.

    Args:
        model: a linen or nnx model, or any function.
        *args: the arguments of its call, for a linen model after its variables, which hold no sown
            collections; shapes and dtypes suffice (`jax.ShapeDtypeStruct`).
        **kwargs: the keyword arguments of the call; for a linen model those of `apply`, such as mutable=,
            rngs= and method=.

    Returns:
        Text by tag, sorted by tag: the reducer and the shape of the kept and stacked axes. For values of
        Flax's own `sow` it has the dtype and shape.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, sowlog.testing
        >>> class Block(nn.Module):
        ...     def __call__(self, x):
        ...         sowlog.sow(self, "load", x, sowlog.mean(axis=0))
        ...         return x
        >>> sowlog.testing.sown_structure(Block(), {}, jnp.ones((5, 3)))
        {'load': 'mean(axis=0)[3]'}

        >>> from flax import nnx
        >>> class Block(nnx.Module):
        ...     def __call__(self, x):
        ...         sowlog.sow(self, "load", x, sowlog.mean(axis=0))
        ...         return x
        >>> sowlog.testing.sown_structure(Block(), jnp.ones((5, 3)))
        {'load': 'mean(axis=0)[3]'}
    """
    updates = collecting.sown_shapes(collecting.function_of(model), args, kwargs)
    tree = {**updates["metrics"], "losses": updates["losses"]}
    return dict(sorted((tag, _describe(leaf)) for tag, leaf in leaves_by_tag(tree)))


def _describe(leaf: Any) -> str:
    if is_packed(leaf):
        return f"packed[{leaf.layout.words}]"
    kind, shape = (leaf.reducer, leaf.seen.shape) if is_state(leaf) else (leaf.dtype, leaf.shape)
    return f"{kind}[{','.join(map(str, shape))}]" if shape else str(kind)


# The methods by which Python reads a device array, or one number of it.
_READS = (
    *("__float__", "__int__", "__bool__", "__index__", "__complex__", "__array__", "item", "tolist"),
    *("__format__", "__str__", "__repr__"),
)


@contextlib.contextmanager
def forbid_host_sync() -> Generator[None]:
    """Make reading the device an error in the calling thread: a stray `float(x)`, `if x > 0` or f"{x}".

    Put it around the loop that trains and logs; batches of NumPy arrays are allowed. The methods that read an
    array raise, and on accelerators JAX's transfer guard covers all other reads. On the CPU, where host and
    device share memory, that guard does nothing: `np.asarray(x)` passes there.

    Raises:
        HostSyncError: (within) An array was read.

    Example:
        >>> import jax.numpy as jnp, sowlog.testing
        >>> x = jnp.ones(())
        >>> with sowlog.testing.forbid_host_sync():
        ...     float(x)
        Traceback (most recent call last):
            ...
        sowlog.testing.HostSyncError: float(x) waits for the device: log the array, or read it steps later.
    """
    owner, thread = type(jnp.zeros(())), threading.get_ident()
    originals = {name: getattr(owner, name) for name in _READS}
    try:
        for name, original in originals.items():
            setattr(owner, name, _forbidden(name, original, thread))
        with jax.transfer_guard_device_to_host("disallow"):
            yield
    finally:
        for name, original in originals.items():
            setattr(owner, name, original)


class HostSyncError(RuntimeError):
    """The training thread waited for the device.

    Example:
        >>> import jax.numpy as jnp, sowlog.testing
        >>> x = jnp.ones(())
        >>> with sowlog.testing.forbid_host_sync():
        ...     x.item()
        Traceback (most recent call last):
            ...
        sowlog.testing.HostSyncError: x.item() waits for the device: log the array, or read it steps later.
    """


def _forbidden(name: str, original: Callable[..., Any], thread: int) -> Callable[..., Any]:
    @functools.wraps(original)
    def read(array: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return original(array, *args, **kwargs)
        call = f"{name.strip('_')}(x)" if name.startswith("__") else f"x.{name}()"
        raise HostSyncError(f"{call} waits for the device: log the array, or read it steps later.")

    return read


@final
class count_traces:  # noqa: N801  # used as a function, and reads as one
    """A wrapper of a function that counts its traces by JAX: a test asserts one trace of a step.

    Args:
        function: the function, to be passed to `jax.jit` once wrapped.

    Attributes:
        traces: the number of calls of the function in Python.

    Example:
        >>> import jax, jax.numpy as jnp, sowlog.testing
        >>> step = sowlog.testing.count_traces(lambda x: x + 1)
        >>> jitted = jax.jit(step)
        >>> _ = [jitted(jnp.float32(i)) for i in range(5)]
        >>> step.traces
        1
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.traces = 0
        self._function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function and count the call."""
        self.traces += 1
        return self._function(*args, **kwargs)
