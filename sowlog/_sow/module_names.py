"""The paths of nnx and Equinox modules in the names of equations, as linen puts those of its own there."""

import contextlib
import contextvars
from collections.abc import Generator

import jax

from sowlog._sow import internals

_named: contextvars.ContextVar[tuple[str, ...] | None] = contextvars.ContextVar(
    "sowlog_named_module", default=None
)
"""The path of the innermost module that is named; None where modules are not named."""


def is_naming() -> bool:
    """Return whether the calls of modules name their equations."""
    return _named.get() is not None


@contextlib.contextmanager
def naming() -> Generator[None]:
    """Let the calls of modules name their equations, also in a function that JAX has traced before."""
    token = _named.set(())
    try:
        with internals.cache_key(collects=False, names=True):
            yield
    finally:
        _named.reset(token)


@contextlib.contextmanager
def named(path: tuple[str, ...]) -> Generator[None]:
    """Name the equations of a module by the part of its path that the modules around it do not have."""
    around = _named.get()
    if around is None:
        yield
        return
    rest = path[len(around) :] if path[: len(around)] == around else path
    token = _named.set(path)
    try:
        with jax.named_scope("/".join(rest)) if rest else contextlib.nullcontext():
            yield
    finally:
        _named.reset(token)
