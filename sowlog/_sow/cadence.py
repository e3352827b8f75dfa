"""The cadence of statistics: numbers on the device that a `collect` is given, and that a sow inside reads.

A statistic that is off computes nothing: its state is in a branch of a cond, which the device skips (in a
shard_map that checks what varies, it is computed and dropped: `if_due`). The flag
of that cond is an argument of the step, so one compiled program serves every cadence. A sow inside of a
transform cannot close over it, since JAX uses the jaxpr of a function again. There a read is an equation, and
the rule of the transform, where that is bound, passes the number in.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from sowlog._reduce import ambient
from sowlog._sow import internals
from sowlog._sow.errors import LostMetricError
from sowlog._tree.tags import empty_like

Every = int | str | None
"""Each n-th step, a name of a flag, or always."""

Numbers = dict[str, Any]
"""The flags (bool scalars) by name, and the step (an int32 scalar), or functions that return them."""

_STEP, _ALL = "step", ""
_given: contextvars.ContextVar[tuple[tuple[Any, Numbers], ...]] = contextvars.ContextVar(
    "sowlog_given", default=()
)
replays: contextvars.ContextVar[bool] = contextvars.ContextVar("sowlog_replays", default=False)
"""Whether the jaxprs that are evaluated now are those of functions that ran before."""


def check_every(every: Any) -> None:
    """Raise if a cadence is none.

    Raises:
        TypeError: It is neither an integer nor a name.
        ValueError: It is not positive, or the name is empty or "step".
    """
    if every is None or (isinstance(every, str) and every not in (_STEP, _ALL)):
        return
    if every in (_STEP, _ALL):
        raise ValueError(f"every={every!r} is no name of a flag: write every=50, or another name.")
    if isinstance(every, bool) or not isinstance(every, int | np.integer):
        raise TypeError(
            f"every={every!r} is no cadence: write a number of steps, such as every=50, or the name of a "
            "flag that collect is given: collect(fn, due={'slow': flag})."
        )
    if every < 1:
        raise ValueError(f"every={every} is no cadence: write every=1 for each step.")


def numbers_of(step: Any, due: Any) -> Numbers:
    """Return the numbers that a `collect` is given by its arguments `step` and `due`.

    Raises:
        TypeError: The step is not an integer, or a flag is not a bool.
        ValueError: One is not a scalar, or a flag has no name.
    """
    numbers = {} if step is None else {_STEP: _scalar(step, "step", jnp.integer, "an integer")}
    flags = due if isinstance(due, Mapping) else {} if due is None else {_ALL: due}
    for name, flag in flags.items():
        if isinstance(due, Mapping):
            check_every(str(name))
        numbers[name] = _scalar(flag, f"due[{name!r}]" if name else "due", jnp.bool_, "a bool")
    return numbers


def _scalar(value: Any, name: str, kind: Any, described: str) -> jax.Array:
    array = jnp.asarray(value)
    if not (jnp.issubdtype(array.dtype, kind) or array.dtype == kind):
        raise TypeError(f"collect: {name} is {array.dtype}, not {described}.")
    if array.shape:
        raise ValueError(f"collect: {name} has shape {array.shape}: it is one number for the whole pass.")
    return array if kind is jnp.bool_ else array.astype(jnp.int32)


@contextlib.contextmanager
def given(numbers: Numbers) -> Generator[None]:
    """Let reads inside, at the level of the caller, return these numbers."""
    if not numbers:
        yield
        return
    token = _given.set((*_given.get(), (internals.level(), numbers)))
    try:
        with internals.traced_with(tuple(sorted(_names()))):
            yield
    finally:
        _given.reset(token)


def _names() -> set[str]:
    return {name for _, numbers in _given.get() for name in numbers}


def all_given() -> Numbers:
    """Return functions that read the numbers at the level of the caller, for a function not traced yet.

    A number that it does not read must leave no equation: JAX may bind a transform again, to map it.
    """
    level = internals.level()

    def reading(name: str) -> Callable[[], Any]:
        def read() -> Any:
            with internals.set_current_trace(level):
                return _read(name)

        return read

    return {name: reading(name) for name in _names()}


def names_in(jaxpr: Any) -> list[str]:
    """Return the names of the numbers that the equations of a jaxpr read, closed or not."""
    names = (e.params["name"] for e in internals.equations(jaxpr) if e.primitive is READ)
    return sorted(set(names))


def given_to(names: Iterable[str]) -> Numbers:
    """Return the numbers with some names, at the level of the caller."""
    return {name: _read(name) for name in names}


def if_due(every: Every, states: Callable[[], Any]) -> Any:
    """Return the states of a function, computed if they are due, or else empty ones of the same structure."""
    flag = _is_due(every)
    if flag is None:
        return states()
    shapes = jax.eval_shape(states)
    empty = ambient.varying_like(empty_like(shapes), shapes)
    if any(map(ambient.varying_axes, jax.tree.leaves(shapes))):
        # In a checked shard_map JAX cannot map a cond that is in a branch, so the states are selected.
        return jax.tree.map(functools.partial(jnp.where, flag), states(), empty)
    return jax.lax.cond(flag, states, lambda: empty)


def _is_due(every: Every) -> jax.Array | None:
    """Return whether a statistic of a cadence is due; None for always.

    Raises:
        ValueError: The `collect` was given flags, and none of this name.
    """
    names = _names()
    flags = [_read(_ALL)] if _ALL in names else []
    if isinstance(every, str):
        if every in names:
            flags.append(_read(every))
        elif names - {_STEP, _ALL}:
            known = ", ".join(sorted(names - {_STEP, _ALL}))
            raise ValueError(f"every={every!r} is none of the flags that collect was given: {known}.")
    elif every is not None and every > 1 and _STEP in names:
        flags.append(_read(_STEP) % every == 0)
    return flags[0] & flags[-1] if flags else None


def _read(name: str) -> Any:
    token = replays.set(False)
    try:
        return READ.bind(name=name)
    finally:
        replays.reset(token)


class _Read(internals.Primitive):
    """A read: an equation in a transform, until the rule of that passes the number in."""

    def bind_with_trace(self, trace: Any, args: Sequence[Any], *rest: Any) -> Any:
        name = rest[-1]["name"]
        level = internals.level(trace)
        known = [entry for entry in reversed(_given.get()) if name in entry[1] and not replays.get()]
        for own, numbers in known:
            if own is level:
                number = numbers[name]
                return number() if callable(number) else number
        if known:
            with internals.set_current_trace(level):
                return super().bind_with_trace(level, args, *rest)
        # A jaxpr that is evaluated again, in silence or outside of its collect, sows nothing.
        return _NOTHING[name == _STEP]


_NOTHING = (np.zeros((), np.bool_), np.zeros((), np.int32))


def _refuse(*_: Any, name: str) -> NoReturn:
    raise LostMetricError(
        f"a value is sown, with the cadence {name or 'due'!r}, inside a transform that sowlog knows no rule "
        "for, so it would be lost. Return the value from the function, and sow it outside."
    )


READ = _Read("sowlog_cadence")
internals.set_rules(
    READ, _refuse, lambda name: jax.core.ShapedArray((), jnp.int32 if name == _STEP else jnp.bool_)
)
