"""Checks of a user's own model and step: see `sowlog.testing`."""

import fnmatch
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import jax

from sowlog import _collecting, _tree


def assert_sown(
    model: Any,
    variables: Mapping[str, Any],
    *args: Any,
    names: str | Iterable[str],
    mutable: Any = False,
    **kwargs: Any,
) -> list[str]:
    """Asserts that a forward pass sows what it should; nothing is computed (the pass is abstract).

    Args:
        model: a Flax module.
        variables: its variables, without sown collections.
        *args: the inputs of its `__call__`; shapes and dtypes suffice (`jax.ShapeDtypeStruct`).
        names: tags or globs that must each match a sown one: "blocks/attn/entropy", "*/entropy",
            "losses/*". A tag is the module path and the name, losses stand under "losses".
        mutable: further mutable collections, as for `collect`.
        **kwargs: passed to `apply`: rngs=, method=, ...

    Returns:
        All tags that were sown, sorted, without the indices of stacked axes and the names of results.

    Raises:
        AssertionError: a name matches nothing; the message lists what was sown.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, sowlog.testing
        >>> class Block(nn.Module):
        ...     def __call__(self, x):
        ...         sowlog.sow(self, "rms", x, sowlog.rms)
        ...         return x
        >>> sowlog.testing.assert_sown(Block(), {}, jnp.ones(3), names="rms")
        ['rms']
    """
    forward = functools.partial(_collecting.collect(model.apply), mutable=mutable, **kwargs)
    _, updates = jax.eval_shape(forward, variables, *args)
    tree = {**updates["metrics"], "losses": updates["losses"]}
    sown = sorted(tag for tag, _ in _tree.leaves_by_tag(tree))
    wanted = [names] if isinstance(names, str) else list(names)
    missing = [name for name in wanted if not any(fnmatch.fnmatchcase(tag, name) for tag in sown)]
    if missing:
        raise AssertionError(
            f"{type(model).__name__} does not sow {', '.join(missing)}; "
            f"it sows: {', '.join(sown) or 'nothing'}."
        )
    return sown


@final
class count_traces:  # noqa: N801  # used as a function, and reads as one
    """Wraps a function so that how often JAX traces it can be asserted: once, for a step that is right.

    Attributes:
        traces: how often the function ran in Python.

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
        """Calls the function and counts the call."""
        self.traces += 1
        return self._function(*args, **kwargs)
