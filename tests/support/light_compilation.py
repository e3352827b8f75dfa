"""Compilation with less optimization, in a third of the time, for tests that compare runs with runs."""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
from jax._src import compiler

_OPTIMIZATIONS = "jax_disable_most_optimizations"
_EMITTERS = "xla_cpu_use_fusion_emitters"


@contextlib.contextmanager
def compiled_lightly() -> Iterator[None]:
    """Compile with less optimization, here and in the processes that are started meanwhile.

    All programs of a test are compiled alike, so its runs are as equal as under full optimization. These
    programs are dropped at the end: tests of sowlog's own numbers run the programs of users.

    JAX has no setting for an XLA option of all programs of a process, hence the private name.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {_OPTIMIZATIONS.upper(): "1"}))
        if _has_option():
            flags = f"{os.environ.get('XLA_FLAGS', '')} --{_EMITTERS}=false"
            stack.enter_context(mock.patch.dict(os.environ, XLA_FLAGS=flags))
            stack.enter_context(mock.patch.object(compiler, "get_compile_options", _without_emitters))
        jax.config.update(_OPTIMIZATIONS, True)
        yield
    jax.config.update(_OPTIMIZATIONS, False)
    jax.clear_caches()


@functools.cache
def _has_option() -> bool:
    """Return whether this XLA can compile without the emitters: newer ones end at the flag."""
    try:
        jax.jit(lambda: 0, compiler_options={_EMITTERS: False})()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@contextlib.contextmanager
def compiled_fully() -> Iterator[None]:
    """Compile as users do within `compiled_lightly`.

    Two programs that compute one number among others then round it alike; with less optimization the rounding
    depends on the computations beside it.
    """
    jax.clear_caches()
    jax.config.update(_OPTIMIZATIONS, False)
    with mock.patch.object(compiler, "get_compile_options", _complete):
        yield
    jax.config.update(_OPTIMIZATIONS, True)
    jax.clear_caches()


_complete = compiler.get_compile_options


def _without_emitters(*args: Any, env_options_overrides: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    overrides = {_EMITTERS: False, **(env_options_overrides or {})}
    return _complete(*args, env_options_overrides=overrides, **kwargs)
