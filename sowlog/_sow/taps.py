"""The primitive of `sow_grad`: an identity whose transpose, in the backward pass, sows its cotangent.

A tap is an equation of the forward jaxpr, and its tangent one of the linear jaxpr; the transpose of that
runs where JAX builds the backward jaxpr of a transform, so the sow in it leaves the transform by the rule
of any other sow. The backward pass runs outside of the scopes that the function of the gradient entered, so
the label of a tap has their names. JAX uses a jaxpr again in another scope: where its transform is bound,
`placed` adds the names around that, and marks the taps that a vmap is about to batch.
"""

import contextlib
import contextvars
import functools
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from sowlog._reduce.state import State
from sowlog._sow import internals
from sowlog._sow.batched_taps import NOT_MAPPED, Vmap, is_stacking, order_of, stacking_vmap, state_of_examples
from sowlog._sow.cadence import Every
from sowlog._sow.collector import Collector, collecting, emit_statistic
from sowlog._sow.errors import LostMetricError
from sowlog._sow.labels import Label
from sowlog._sow.paths import gradient_path, outer_path, scope_path

_LOOPS = ("scan", "while")

_Place = tuple[tuple[str, ...], int]
"""The names of scopes, and how many transforms but vmaps stack, around a tap or a transform."""

_NOWHERE: _Place = ((), 0)
_Edit = tuple[_Place, int | None]
"""A place to add, and before a vmap that stacks the number of stacking loops around it, else None."""

_around: contextvars.ContextVar[tuple[tuple[Any, Any, _Place], ...]] = contextvars.ContextVar(
    "sowlog_around", default=()
)


def tap(label: Label, x: jax.Array, state_of: Callable[[jax.Array], State], every: Every = None) -> jax.Array:
    """Return x; the backward pass through it sows the state of its cotangent."""
    _is_used.set()
    path, stacks = _place()
    own = label.path[len(scope_path()) :]
    label = label._replace(path=(*path, *own), stacks=stacks, of_gradient=True)
    return _TAP.bind(x, label=label, state_of=state_of, every=every, vmaps=(), stacking=None)


def _place() -> _Place:
    """Return the place inside of the innermost gradient, at the level of the caller."""
    level, gradient = internals.level(), internals.gradient()
    around = [place for own, inside, place in _around.get() if own is level and inside is gradient]
    names = (name for path, _ in around for name in path)
    return (*names, *gradient_path()), sum(stacks for _, stacks in around)


@contextlib.contextmanager
def _within(place: _Place) -> Generator[None]:
    token = _around.set((*_around.get(), (internals.level(), internals.gradient(), place)))
    try:
        yield
    finally:
        _around.reset(token)


@contextlib.contextmanager
def collecting_step() -> Generator[Collector]:
    """Collect the sows of one step of a mapping transform, whose states are kept apart, as those of taps."""
    with stacking_vmap() as is_vmap, _within(((), int(not is_vmap))), collecting() as collector:
        yield collector


def placing() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return the context of a function that a transform runs, in which taps have the place of the caller.

    A shard_map is bound with a function, which has no jaxpr yet.
    """
    return functools.partial(_within, _place())


@contextlib.contextmanager
def _placed_already() -> Generator[None]:
    token = _done.set((internals.level(), internals.gradient(), next(internals.current_traces())))
    try:
        yield
    finally:
        _done.reset(token)


def placing_once(primitive: Any, rule: internals.Rule) -> internals.Rule:
    """Return a rule for transforms with placed taps. A transform that the rule binds has them already.

    Each vmap around a transform binds it once more, with the place and before another vmap.
    """

    def of_placed(bind: internals.Bind, args: Sequence[Any], params: dict[str, Any]) -> Any:
        if not _is_used.is_set():
            return rule(bind, args, params)
        own, inside, trace = _done.get()
        is_placed = own is not None and own is internals.level() and inside is internals.gradient()
        if is_placed and trace is next(internals.current_traces()):
            return rule(bind, args, params)
        new = placed(params, primitive, _NOWHERE if is_placed else _place())
        with contextlib.nullcontext() if new is params else _placed_already():
            return rule(bind, args, new)

    return of_placed


def placed(params: dict[str, Any], primitive: Any, place: _Place) -> dict[str, Any]:
    """Return the parameters of a transform with a place in the labels of its taps.

    If a vmap runs that keeps its examples apart, the taps are marked for it.

    Raises:
        LostMetricError: A loop that merges its steps is inside of one that keeps them apart.
    """
    if not any(map(_holds_taps, _jaxprs(params))):
        return params
    edit: _Edit = (place, _place()[1] if is_stacking() else None)
    if edit == (_NOWHERE, None):
        return params
    return _map_jaxprs(lambda jaxpr: _placed(jaxpr, edit, int(primitive.name in _LOOPS)), params)


_done: contextvars.ContextVar[tuple[Any, Any, Any]] = contextvars.ContextVar(
    "sowlog_done", default=(None, None, None)
)
"""The level, the gradient and the trace at which a rule runs for a transform whose taps are placed."""
_is_used = threading.Event()
"""Set with the first tap of the process: before it no jaxpr is searched."""

_tapped: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
_placed_jaxprs: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def _holds_taps(jaxpr: Any) -> bool:
    found = _tapped.get(jaxpr)
    if found is None:
        found = any(
            equation.primitive is _TAP or any(map(_holds_taps, _jaxprs(equation.params)))
            for equation in internals.equations(jaxpr)
        )
        _tapped[jaxpr] = found
    return found


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        if hasattr(value, "eqns"):
            yield value
        elif isinstance(value, tuple | list):
            yield from (part for part in value if hasattr(part, "eqns"))


def _placed(jaxpr: Any, edit: _Edit, loops: int) -> Any:
    """Return a jaxpr, closed or not, with a place in the labels of its taps; cached, as a jit is by jaxpr."""
    found = _placed_jaxprs.setdefault(jaxpr, {})
    if (edit, loops) not in found:
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        equations = [_placed_equation(equation, edit, loops) for equation in inner.eqns]
        if all(new is old for new, old in zip(equations, inner.eqns, strict=True)):
            # The cache must not keep its own key.
            found[edit, loops] = None
        else:
            new = inner.replace(eqns=equations)
            found[edit, loops] = new if inner is jaxpr else jaxpr.replace(jaxpr=new)
    result = found[edit, loops]
    return jaxpr if result is None else result


def _placed_equation(equation: Any, edit: _Edit, loops: int) -> Any:
    (path, stacks), around_vmap = edit
    params = equation.params
    if equation.primitive is _TAP:
        label: Label = params["label"]
        if stacks and label.stacks < loops:
            raise LostMetricError(
                f"the gradient of {label} is sown inside a loop that merges its steps, inside of one that "
                "keeps a state for each. Write sowlog.stacked(body) for the inner loop as well, or for "
                "neither."
            )
        label = label._replace(path=(*path, *label.path), stacks=label.stacks + stacks)
        stacking = params["stacking"] if around_vmap is None else label.stacks - around_vmap
        return equation.replace(params={**params, "label": label, "stacking": stacking})
    inside = loops + int(equation.primitive.name in _LOOPS)
    new = _map_jaxprs(lambda jaxpr: _placed(jaxpr, edit, inside), params)
    return equation if new is params else equation.replace(params=new)


def _map_jaxprs(function: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with their jaxprs mapped: the same dict if none has changed."""

    def of(value: Any) -> Any:
        if hasattr(value, "eqns"):
            return function(value)
        if isinstance(value, tuple | list) and any(hasattr(part, "eqns") for part in value):
            return type(value)(map(of, value))
        return value

    new = {name: of(value) for name, value in params.items()}
    changed = any(jaxpr is not old for jaxpr, old in zip(_jaxprs(new), _jaxprs(params), strict=True))
    return new if changed else params


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> tuple[Any, Any]:
    """Tap the tangent and no longer the value, so that of nested gradients the inner one is recorded."""
    (x,), (tangent,) = primals, tangents
    return x, tangent if type(tangent) is ad.Zero else _TANGENT.bind(tangent, **params)


def _transpose(
    cotangent: Any,
    _: Any,
    *,
    label: Label,
    state_of: Callable[[jax.Array], State],
    every: Every,
    vmaps: tuple[Vmap, ...],
    **_mark: Any,
) -> list[Any]:
    if type(cotangent) is not ad.Zero:
        label = label.within(scope_path())
        if NOT_MAPPED in vmaps:
            raise LostMetricError(
                f"the gradient of {label.within(outer_path())} is sown in a vmap that keeps its examples "
                "apart, and the value is not mapped: JAX computes one gradient of all examples. Sow it "
                "outside of the vmap, or sow that of x + jnp.zeros_like(y), with a mapped y."
            )
        label = label._replace(order=order_of(vmaps, label.stacks))
        make = functools.partial(state_of_examples, state_of, label, vmaps)
        emit_statistic(label, make, cotangent, every=every)
    return [cotangent]


def _batched(
    primitive: Any, _: Any, args: Any, axes: Any, *, vmaps: Any, stacking: Vmap, **params: Any
) -> tuple[Any, int | None]:
    """Batch a tap. `stacking` is the mark of this vmap, if it keeps the states of its examples apart."""
    (x,), (axis,) = args, axes
    if axis is not None:
        x, vmaps = jnp.moveaxis(x, axis, 0), (stacking, *vmaps)
    elif stacking is not None:
        vmaps = (NOT_MAPPED, *vmaps)
    return primitive.bind(x, vmaps=vmaps, stacking=None, **params), None if axis is None else 0


class _Tap(internals.Primitive):
    """The primitive of a tap, marked where the running vmap is about to batch it."""

    def bind_with_trace(self, trace: Any, args: Sequence[Any], *rest: Any) -> Any:
        params = rest[-1]
        # JAX binds in no trace.
        with internals.set_current_trace(trace):
            if is_stacking():
                params = {**params, "stacking": params["label"].stacks - _place()[1]}
        return super().bind_with_trace(trace, args, *rest[:-1], params)


_TAP: Any = _Tap("sow_grad")
_TANGENT: Any = internals.Primitive("sow_grad_tangent")
for _primitive in (_TAP, _TANGENT):
    _primitive.def_impl(lambda x, **_: x)
    _primitive.def_abstract_eval(lambda x, **_: x)
    mlir.register_lowering(_primitive, lambda _, x, **__: [x])
    batching.fancy_primitive_batchers[_primitive] = functools.partial(_batched, _primitive)
ad.primitive_jvps[_TAP] = _jvp
ad.deflinear2(_TANGENT, _transpose)
