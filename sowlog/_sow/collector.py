"""The primitive of a sow, and the collector of its values.

A sow at the level of its `collect` is recorded as it runs. A sow inside a transform becomes an equation of
the transform's jaxpr, and comes out where the transform is bound: `sowlog._sow.rules`. Differentiation and
vmap have no jaxpr: a sow passes through them, to the level below, at once.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from sowlog._reduce import ambient
from sowlog._reduce.state import State
from sowlog._sow import cadence, internals
from sowlog._sow.cadence import replays as _replays
from sowlog._sow.errors import LostMetricError
from sowlog._sow.labels import Label, Sown
from sowlog._sow.module_names import is_naming
from sowlog._sow.paths import outer_path, scope_path, whole_path
from sowlog._tree.tags import empty_like


class Collector:
    """The sown states of one level of tracing.

    Attributes:
        sown: the states by label, in the order of their first sow.
    """

    def __init__(self) -> None:
        self._traces = list(internals.current_traces())
        self.sown: Sown = {}

    def is_level(self, trace: Any) -> bool:
        """Return whether values of a trace can be recorded: it is the collector's, or one around that."""
        return any(trace is own for own in self._traces)

    def record(self, label: Label, state: Any) -> None:
        """Add a state to those under its label."""
        with internals.set_current_trace(self._traces[0]):
            self.sown[label] = label.join(self.sown[label], state) if label in self.sown else state


_SILENCE: Any = object()
_HOST: Any = object()
_current: contextvars.ContextVar[Collector | None] = contextvars.ContextVar("sowlog_collector", default=None)
_once: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("sowlog_once", default=())


def is_collecting() -> bool:
    """Return whether the caller runs inside of a `collect`, and not in silence."""
    return _current.get() not in (None, _SILENCE, _HOST)


def is_inside() -> bool:
    """Return whether the caller runs inside of a `collect`, be it in silence."""
    return _current.get() not in (None, _HOST)


@contextlib.contextmanager
def collecting() -> Generator[Collector]:
    """Collect the sows of this context in a new collector."""
    token, replays = _current.set(Collector()), _replays.set(False)
    try:
        with internals.cache_key(collects=True, names=is_naming()):
            yield _current.get()  # pyright: ignore[reportReturnType]  # set above
    finally:
        _replays.reset(replays)
        _current.reset(token)


@contextlib.contextmanager
def silent() -> Generator[None]:
    """Drop the sows of this context, as outside of a `collect`."""
    token, replays = _current.set(_SILENCE), _replays.set(True)
    try:
        with internals.cache_key(collects=False, names=is_naming()):
            yield
    finally:
        _replays.reset(replays)
        _current.reset(token)


@contextlib.contextmanager
def replaying() -> Generator[None]:
    """Drop the sows in jaxprs of functions that ran before, which a backward rule evaluates again.

    A rule's own sows are collected. The context may be outside of a `collect`.
    """
    token = _replays.set(True)
    try:
        yield
    finally:
        _replays.reset(token)


@contextlib.contextmanager
def on_host() -> Generator[None]:
    """Refuse sows: a host callback runs after the collected function was traced."""
    token = _current.set(_HOST)
    try:
        yield
    finally:
        _current.reset(token)


def check_on_device(label: Any) -> None:
    """Raise if the caller is a host callback of a collected function.

    Raises:
        LostMetricError: The caller is one.
    """
    if _current.get() is _HOST:
        raise LostMetricError(
            f"{label} is sown in a host callback (jax.pure_callback, io_callback, jax.debug.callback), which "
            "runs after the function was traced and collected. Return the value from the callback, and sow "
            "it outside."
        )


@contextlib.contextmanager
def once(trace: Any) -> Generator[None]:
    """Sow a value that the vmap of a trace does not map once, and not for each of the mapped elements."""
    token = _once.set((*_once.get(), trace))
    try:
        yield
    finally:
        _once.reset(token)


def emit(label: Label, state: Any) -> None:
    """Sow a state, or a tuple of values for a label with functions, at the current level."""
    _bind(label._replace(note=label.note.now()), state)


def _bind(label: Label, state: Any) -> None:
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, state))
    token = _replays.set(False)
    try:
        _SOW.bind(*leaves, label=label, structure=structure)
    finally:
        _replays.reset(token)


def emit_statistic(
    label: Label, make: Callable[..., State], *operands: Any, every: cadence.Every = None
) -> None:
    """Sow a state made of primal values, below the traces that differentiate: it has no tangent."""
    trace, values = internals.undifferentiated(operands)
    with internals.set_current_trace(trace):
        emit(label, cadence.if_due(every, lambda: make(*values)))


def emit_all(*sown: Sown, is_loop: bool = False) -> None:
    """Sow at the current level the states that a transform returned, within the scopes around it.

    They keep their order of execution. JAX sorts the labels of states that pass through a transform.
    """
    path = scope_path()
    groups: dict[int, int] = {}
    for label, state in sorted(
        (item for of_kind in sown for item in of_kind.items()), key=lambda item: item[0].note.order
    ):
        note = label.note.now()
        group = groups.setdefault(0 if is_loop else label.note.group, note.order)
        _bind(label.within(path)._replace(note=dataclasses.replace(note, group=group)), state)


def sows_of(jaxpr: Any) -> list[tuple[Label, Any]]:
    """Return the labels of a jaxpr's sows, and the types of their states.

    Raises:
        LostMetricError: A transform in it that has no rule holds a sow.
    """
    found: list[tuple[Label, Any]] = []
    for equation in internals.equations(jaxpr):
        if equation.primitive is _SOW:
            avals = [variable.aval for variable in equation.invars]
            found.append((equation.params["label"], equation.params["structure"].unflatten(avals)))
        elif equation.primitive is not cadence.READ and internals.holds_sows(equation):
            inner = [
                label.within(whole_path())
                for jaxpr in jax.tree.leaves(equation.params)
                if hasattr(jaxpr, "eqns")
                for label, _ in sows_of(jaxpr)
            ]
            raise LostMetricError(
                f"{inner[0] if inner else 'a value'} is sown inside {equation.primitive}, which sowlog knows "
                "no rule for, so it would be lost. Return the value from the function, and sow it outside."
            )
    return found


class _Sow(internals.Primitive):
    """The primitive: its operands are the leaves of a state; it has no results."""

    def bind_with_trace(self, trace: Any, args: Sequence[Any], *rest: Any) -> Any:
        params = rest[-1]
        if _replays.get():
            return []
        collector = _current.get()
        if collector is None:
            _refuse(**params)
        if collector is _SILENCE:
            return []
        if collector.is_level(trace):
            collector.record(params["label"], params["structure"].unflatten(map(_as_array, args)))
            return []
        if evaluated := internals.evaluated(trace, args):
            below, values = evaluated
            with internals.set_current_trace(below):
                return self.bind(*values, **params) if values is not None else _refuse_in_rule(**params)
        if batch := internals.mapped(trace, args):
            below, size, mapped = batch
            with internals.set_current_trace(below):
                self._leave_vmap(trace, size, mapped, **params)
            return []
        return super().bind_with_trace(trace, args, *rest)

    def _leave_vmap(self, trace: Any, size: int, mapped: Any, *, label: Label, structure: Any) -> None:
        """Sow below a vmap the states of its elements: a state that is not mapped counts for each."""
        if trace in _once.get() and all(axis is None for _, axis in mapped):
            emit(label, structure.unflatten([value for value, _ in mapped]))
            return
        leaves = [_with_front_axis(value, axis, size) for value, axis in mapped]
        state = structure.unflatten(leaves)
        if label.stacks:
            emit(*label.unstacked(state))
            return
        label.within(outer_path()).check_merges("jax.vmap")
        emit(label, ambient.isolated(lambda state: merge_axis(label.join, state), state))


def _as_array(value: Any) -> Any:
    """Return a value that has a shape: the literals of a jaxpr that is evaluated are Python's, as True."""
    return np.asarray(value, jnp.result_type(value)) if isinstance(value, bool | int | float) else value


def _with_front_axis(value: Any, axis: int | None, size: int) -> jax.Array:
    if axis is None:
        return jnp.broadcast_to(jnp.asarray(value), (size, *jnp.shape(value)))
    return jnp.moveaxis(value, axis, 0)


def merge_axis(join: Callable[[State, State], State], state: State) -> State:
    """Merge the states along the first axis in their order, as a tree."""
    if not state.seen.shape[0]:
        return empty_like(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state))
    while (size := state.seen.shape[0]) > 1:
        even, odd = (jax.tree.map(lambda x, i=i: x[i : size - size % 2 : 2], state) for i in (0, 1))
        merged = join(even, odd)
        if size % 2:
            merged = jax.tree.map(lambda x, y: jnp.concatenate([x, y[-1:]]), merged, state)
        state = merged
    return jax.tree.map(lambda x: x[0], state)


def _refuse_in_rule(*, label: Label, **_: Any) -> NoReturn:
    tag = label.within(outer_path())
    raise LostMetricError(
        f"{tag} is sown in a rule of a custom derivative, and its value depends on a tangent, or JAX "
        "evaluates the rule in parts, as in the gradient of a loop: it would be lost. Sow it in the function "
        "itself, or outside."
    )


def _refuse(*_: Any, label: Label, **__: Any) -> NoReturn:
    """Raise where a sow is compiled, or evaluated outside of a `collect`: all rules take it out before."""
    if label.of_gradient:
        raise LostMetricError(
            f"the gradient of {label} is sown in a backward pass with no collect around it: it would be "
            "lost. Write: "
            "(loss, aux), backward = sowlog.collect(jax.value_and_grad(loss_fn, has_aux=True))(params)."
        )
    raise LostMetricError(
        f"{label} is sown inside a transform that sowlog knows no rule for, such as a Pallas kernel, or in a "
        "function traced inside of a collect and run outside: it would be lost. Return the value, or write "
        "it to an output of the kernel, and sow it outside."
    )


_SOW: Any = _Sow("sow")
internals.set_rules(_SOW, _refuse)
