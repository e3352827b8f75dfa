"""The statistics of watched modules, sown at their calls: `sowlog.watch`."""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sowlog._reduce.families import First
from sowlog._reduce.notes import Note, Source
from sowlog._reduce.state import State
from sowlog._sow import foreign
from sowlog._sow.cadence import Every
from sowlog._sow.collector import emit_statistic, is_collecting
from sowlog._sow.errors import UnmatchedWatchError
from sowlog._sow.labels import METRICS, Label, Sown
from sowlog._sow.module_names import is_naming
from sowlog._sow.parameters import Module, modules_of
from sowlog._sow.paths import outer_path, scope_path
from sowlog._sow.taps import tap
from sowlog._sow.watches import UPDATES, Statistic, active, watch, watching


class _Seen:
    """The modules that a `collect` met: their paths, and the watches that some of them matched.

    Attributes:
        watches: the watches in the `collect`.
        paths: the paths of modules that were called.
        updated: the paths of modules whose updates passed `sowlog.observe("updates")`.
        matched: the watches that match one.
    """

    def __init__(self, watches: tuple[watch, ...]) -> None:
        self.watches = watches
        self.paths: set[str] = set()
        self.updated: set[str] = set()
        self.matched: set[watch] = set()

    def add(self, other: "_Seen") -> None:
        self.paths |= other.paths
        self.updated |= other.updated
        self.matched |= other.matched


_seen: contextvars.ContextVar[_Seen | None] = contextvars.ContextVar("sowlog_seen", default=None)
_within: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("sowlog_within", default=())
_matched_before: set[watch] = set()
_MARK = "_sowlog_watches"
"""The attribute of a `__call__` that can be watched."""


def is_watching() -> bool:
    """Return whether the calls of modules are watched."""
    return is_collecting() and bool(active())


def call_watched(
    label: Label, module: Any, params: Callable[[], Any], call: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Call a module, and sow the statistics of the watches that match its path.

    Args:
        label: a label with the path of the module.
        module: the module; a call of the same one by its own `__call__`, as of a base class, is not another.
        params: returns the parameters of the module.
        call: its `__call__`.
        args: the arguments.
        kwargs: the keyword arguments.
    """
    if any(module is outer for outer in _within.get()[-1:]):
        return call(*args, **kwargs)
    matching = _matching((*outer_path(), *label.path))
    token = _within.set((*_within.get(), module))
    try:
        _sow_of(label, matching, "inputs", lambda: (args, kwargs))
        _sow_of(label, matching, "params", params)
        outputs = call(*args, **kwargs)
    finally:
        _within.reset(token)
    _sow_of(label, matching, "outputs", lambda: outputs)
    return _tapped(label, matching, outputs)


def watch_updates(tree: Any, stacked: Sequence[str]) -> None:
    """Sow the statistics of the watches of updates; a module has the updates of those inside of it.

    Args:
        tree: the updates, in the form of the parameters.
        stacked: the globs of the arrays with layers along their first axis.
    """
    if not is_watching():
        return
    inside: dict[tuple[str, ...], list[Module]] = {}
    for path, module in modules_of(tree, None, stacked).items():
        parts = tuple(path.split("/"))
        for end in range(len(parts) + 1):
            inside.setdefault(parts[:end], []).append(module)
    for path, modules in inside.items():
        label = Label(METRICS, (*scope_path(), *path), "")
        matching = _matching((*outer_path(), *label.path), updates=True)
        arrays = [array for module in modules for array in module.arrays.values()]
        layers = {module.layers for module in modules}
        by_layer = len(layers) == 1 and None not in layers
        _sow_of(label, matching, UPDATES, functools.partial(list, arrays), by_layer=by_layer)


def caller() -> Any:
    """Return the innermost watched module whose call runs; None outside of all."""
    return next(iter(_within.get()[-1:]), None)


def _matching(path: tuple[str, ...], *, updates: bool = False) -> list[watch]:
    matching = [one for one in active() if (one.of == UPDATES) is updates and one.matches(path)]
    if seen := _seen.get():
        (seen.updated if updates else seen.paths).add("/".join(path))
        seen.matched.update(matching)
    return matching


def _sow_of(
    label: Label, watches: list[watch], of: str, values: Callable[[], Any], *, by_layer: bool = False
) -> None:
    """Sow the statistics of arrays, or of each layer along their first axis."""
    sites = _sites(label, watches, of)
    arrays = _floating(values()) if sites else []
    if not arrays:
        return
    for site, statistic, every in sites:
        state_of = functools.partial(_state_of, statistic, only_first=of == "params")
        emit_statistic(site, jax.vmap(state_of) if by_layer else state_of, *arrays, every=every)


def _tapped(label: Label, watches: list[watch], outputs: Any) -> Any:
    """Return outputs through which a backward pass sows the statistics of their gradients."""
    sites = _sites(label, watches, "grads")
    if not sites:
        return outputs

    def tapped(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        for site, statistic, every in sites:
            leaf = tap(site, leaf, functools.partial(_state_of, statistic), every)
        return leaf

    return jax.tree.map(tapped, outputs, is_leaf=foreign.is_nnx)


def _sites(label: Label, watches: list[watch], of: str) -> list[tuple[Label, Statistic, Every]]:
    """Return the label and the cadence of each statistic, once also if several watches have it."""
    path = (*label.path, of)
    own = {
        statistic.name: (
            label._replace(path=path, name=statistic.name, note=_note_of(statistic, of)),
            statistic,
            one.every,
        )
        for one in watches
        if one.of == of
        for statistic in one.statistics
    }
    return list(own.values())


def _note_of(statistic: Statistic, of: str) -> Note:
    return Note(Source(f"Watched: {statistic.name} of the {of} of the module."))


def _state_of(statistic: Statistic, *arrays: jax.Array, only_first: bool = False) -> State:
    """Return the state of all arrays; parameters are the same at each call."""
    of = statistic.of or (lambda array: array)
    state = functools.reduce(State.merge, (statistic.reducer.of(of(array)) for array in arrays))
    return dataclasses.replace(state, reducer=First(state.reducer)) if only_first else state


def _floating(tree: Any) -> list[jax.Array]:
    arrays = (leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype") and hasattr(leaf, "shape"))
    return [array for array in arrays if jnp.issubdtype(array.dtype, jnp.floating)]


@contextlib.contextmanager
def checking(own: tuple[watch, ...], sown: Callable[[], Sown]) -> Generator[None]:
    """Watch in a `collect`, and check at its end that each watch matched.

    Args:
        own: the watches that `collect` was given.
        sown: returns the labels that the `collect` has sown, also of functions that JAX had traced before.

    Raises:
        UnmatchedWatchError: A watch matches no module.
    """
    outer = _seen.get()
    watches = (*active(), *own)
    new = tuple(one for one in watches if outer is None or one not in outer.watches)
    if not new:
        yield
        return
    seen = _Seen(watches)
    token = _seen.set(seen)
    try:
        with watching(watches) if own else contextlib.nullcontext():
            yield
    finally:
        _seen.reset(token)
    if outer is not None:
        outer.add(seen)
    labels = list(sown())
    for one in new:
        if one in seen.matched or any(_is_of(label, one) for label in labels):
            _matched_before.add(one)
        elif seen.paths or seen.updated or one not in _matched_before:
            raise UnmatchedWatchError(_nothing_message(one, seen))


def _is_of(label: Label, one: watch) -> bool:
    return label.collection == METRICS and label.path[-1:] == (one.of,) and one.matches(label.path[:-1])


def _nothing_message(one: watch, seen: _Seen) -> str:
    paths = seen.updated if one.of == UPDATES else seen.paths
    found = ", ".join(path or "the model itself (**)" for path in sorted(paths)) or "none"
    if one.of == UPDATES:
        return (
            f'the watch of updates "{one.glob}" matches no module whose updates pass '
            f'sowlog.observe("updates") inside of the collect. Modules: {found}. Put the observer at the end '
            "of the optax.chain, and collect a function that calls optimizer.update."
        )
    return (
        f'the watch "{one.glob}" matches no module that was called. Modules called: {found}. A scope counts '
        "where sowlog.scope decorates a function."
    )


def watch_classes(base: type, watched: Callable[[Any, Callable[..., Any], Any, Any], Any]) -> None:
    """Let the calls of all classes of a base pass through a function of the module and its `__call__`.

    Each class is changed once, and stays so: unwatched and unnamed, a call looks at context variables.
    """
    for kind in _classes_of(base):
        call = vars(kind).get("__call__")
        if call is None or hasattr(call, _MARK):
            continue
        kind.__call__ = _watched_call(call, watched)


def _watched_call(call: Callable[..., Any], watched: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def call_or_watch(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_watching() and not is_naming():
            return call(self, *args, **kwargs)
        return watched(self, call, args, kwargs)

    vars(call_or_watch)[_MARK] = True
    return call_or_watch


def _classes_of(base: type) -> Iterator[type]:
    yield base
    for kind in type.__subclasses__(base):
        yield from _classes_of(kind)
