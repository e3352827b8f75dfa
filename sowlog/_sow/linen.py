"""Sows in linen: the module's path, layers that a transform stacks, and Flax's own `module.sow`.

Four functions of Flax are wrapped, once, and pass through outside of a `collect`. `check` raises if this
version of Flax lacks one.
"""

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Generator, Sequence
from typing import Any

import flax
import flax.core
from flax import linen as nn
from flax.core import axes_scan, lift
from flax.core import scope as flax_scope
from flax.linen import transforms
from flax.linen.module import InterceptorContext

from sowlog._reduce.notes import Note, Source
from sowlog._reduce.reducer import Reducer
from sowlog._sow.callers import place_of_caller
from sowlog._sow.collector import Collector, emit, is_collecting, silent
from sowlog._sow.labels import METRICS, Functions, Label
from sowlog._sow.paths import scope_path
from sowlog._sow.scopes import emit_stacked
from sowlog._sow.taps import collecting_step
from sowlog._sow.watching import call_watched, is_watching
from sowlog._tree import losses

_STACKING = ("scan", "vmap")
_depth: contextvars.ContextVar[int] = contextvars.ContextVar("sowlog_depth", default=0)


def is_collected(module: nn.Module, collection: str) -> bool:
    """Return whether the sows of a module arrive at a `collect`.

    Those of a model that another model applies do not: a frozen teacher's losses are not trained on.
    """
    within = _depth.get() <= 1 and collection in (METRICS, losses.COLLECTION)
    return is_collecting() and within and not module.is_initializing()


def label_of(module: nn.Module, collection: str, name: str) -> Label:
    """Return the label of a sow in a module."""
    return Label(collection, (*scope_path(), *module.path), name)


def collect_and_watch(call: Callable[..., Any], args: Any, kwargs: Any, context: InterceptorContext) -> Any:
    """Collect Flax's own `module.sow`, too, and watch calls: an interceptor of the methods of modules.

    Flax calls no interceptor for `sow`. So a bound module, which lives as long as its pass, gets another
    `sow` at the entry of each of its methods.
    """
    module = context.module
    if module.scope is not None and "sow" not in vars(module):
        object.__setattr__(module, "sow", functools.partial(_sow_plainly, module))
    if context.method_name != "__call__" or not is_watching() or not is_collected(module, METRICS):
        return call(*args, **kwargs)
    label = label_of(module, METRICS, "")
    return call_watched(label, module, lambda: module.variables.get("params", {}), call, args, kwargs)


def _sow_plainly(module: nn.Module, col: str, name: str, value: Any, **functions: Any) -> bool:
    if not is_collected(module, col):
        return type(module).sow(module, col, name, value, **functions)
    label = label_of(module, col, name)
    reducer = getattr(functions.get("reduce_fn"), "__self__", None)
    if isinstance(reducer, Reducer) and functions["reduce_fn"] == reducer.reduce_fn:
        emit(label._replace(note=Note(Source(place=place_of_caller()))), reducer.of(value))
    else:
        emit(label._replace(functions=Functions(**{**_DEFAULTS, **functions})), (value,))
    return True


_DEFAULTS = {
    name: inspect.signature(nn.Module.sow).parameters[name].default for name in ("init_fn", "reduce_fn")
}


def _apply_with_depth(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Count the calls of Flax's `apply` that run."""

    def counted_apply(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        call = apply(*args, **kwargs)

        @functools.wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            token = _depth.set(_depth.get() + 1)
            try:
                return call(*args, **kwargs)
            finally:
                _depth.reset(token)

        return counted

    return counted_apply


@contextlib.contextmanager
def outermost() -> Generator[None]:
    """Collect the sows of the next `apply`, also if it runs inside of another."""
    token = _depth.set(0)
    try:
        yield
    finally:
        _depth.reset(token)


def _pack_with_stacks(pack: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a state for each layer where nn.scan or nn.vmap stacks the parameters or the collection."""

    def stacking_pack(fn: Any, ins: Any, outs: Any, rngs: Any, name: Any = None, **kwargs: Any) -> Any:
        if name in _STACKING and _stacks(fn, ins, outs):
            fn = _with_stacks(fn)
        return pack(fn, ins, outs, rngs, name, **kwargs)

    return stacking_pack


def _stacks(fn: Callable[..., Any], ins: Sequence[Any], outs: Sequence[Any]) -> bool:
    """Return whether a lifted transform stacks "metrics", or if it does not name them, "params"."""
    variables = dict(
        zip(fn.__code__.co_freevars, (cell.cell_contents for cell in fn.__closure__ or ()), strict=True)
    )
    for collection, filters, axes in (
        (METRICS, outs, "variable_out_axes"),
        ("params", ins, "variable_in_axes"),
    ):
        # nn.scan has the filters of broadcast and carried variables before those of stacked ones.
        unmapped = len(filters) - len(variables[axes])
        for filter, axis in zip(filters, (*[None] * unmapped, *variables[axes]), strict=True):
            if flax_scope.in_filter(filter, collection):
                return isinstance(axis, int)
    return False


def _with_stacks(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def run(scope_fn: Callable[..., Any], repack_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Collect between the two functions that Flax calls at the ends of each step."""
        steps = contextlib.ExitStack()
        if not is_collecting():
            return fn(scope_fn, repack_fn, *args, **kwargs)

        def begin(*args: Any, **kwargs: Any) -> Any:
            if is_collecting():
                collectors.append(steps.enter_context(collecting_step()))
            return scope_fn(*args, **kwargs)

        def end(scopes: Any) -> Any:
            steps.close()
            if collectors:
                emit_stacked(collectors.pop().sown)
            return repack_fn(scopes)

        collectors: list[Collector] = []
        with steps:
            return fn(begin, end, *args, **kwargs)

    return run


def _scan_after_rehearsal(scan: Callable[..., Any]) -> Callable[..., Any]:
    """Sow nothing in the first run of the body of nn.scan, in which Flax finds values that steps share."""

    def scan_with_silence(
        fn: Callable[..., Any], *args: Any, check_constancy_invariants: bool = True, **kwargs: Any
    ) -> Callable[..., Any]:
        def run(*operands: Any) -> Any:
            rehearsals = iter([fn] if check_constancy_invariants else [])

            def body(*arguments: Any) -> Any:
                rehearses = next(rehearsals, None) is not None
                with silent() if rehearses and is_collecting() else contextlib.nullcontext():
                    return fn(*arguments)

            settings = {**kwargs, "check_constancy_invariants": check_constancy_invariants}
            return scan(body, *args, **settings)(*operands)

        return run

    return scan_with_silence


def _fingerprint_by_path(fingerprint: Callable[..., Any]) -> Callable[..., Any]:
    """Let nn.jit trace the modules of each path: by its key two modules that differ in name alone are equal.

    Nothing is sown while it makes the key, for which it runs `setup` once more.
    """

    def of_path(module: nn.Module) -> Any:
        if not is_collecting():
            return fingerprint(module)
        with silent():
            return fingerprint(module), module.path

    return of_path


_WRAPPED = [
    (flax.core, "apply", _apply_with_depth),
    (lift, "pack", _pack_with_stacks),
    (axes_scan, "scan", _scan_after_rehearsal),
    (transforms, "_module_fingerprint", _fingerprint_by_path),
]


def install() -> None:
    """Wrap the functions of Flax."""
    for module, name, wrapper in _WRAPPED:
        function = getattr(module, name, None)
        if function is not None:
            setattr(module, name, functools.wraps(function)(wrapper(function)))


@functools.cache
def check() -> None:
    """Check that this Flax has the functions that are wrapped.

    Raises:
        RuntimeError: One is missing; the message names it.
    """
    missing = [f"{module.__name__}.{name}" for module, name, _ in _WRAPPED if not hasattr(module, name)]
    if missing:
        raise RuntimeError(
            f"sowlog needs {', '.join(missing)}, which flax {flax.__version__} has not. Install the version "
            "of flax that this sowlog was released with, or a newer sowlog."
        )
