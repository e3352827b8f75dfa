"""A state: the accumulator of a reducer, with leading axes and a flag for absence."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

import jax
import jax.numpy as jnp
import numpy as np

from sowlog import _html
from sowlog._reduce import ambient, reprs
from sowlog._reduce.html import results_html
from sowlog._reduce.notes import NO_NOTE, Note

if TYPE_CHECKING:
    from sowlog._reduce.reducer import Reducer

Parts = Any
"""A pytree of arrays: the accumulator of a reducer."""


@final
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class State:
    """The accumulator of a reducer: a pytree whose arrays may carry leading axes.

    Leading axes come from `reducer(axis=...)` (the axes that are kept) and from transforms that stack
    (`nn.scan`, `nn.vmap`, `sowlog.stacked`, `jax.vmap` of a pass): the state is then an array of independent
    states.

    A state is not a number: `merge`, `sowlog.all_reduce` and `sowlog.accumulate` join states. An average of
    their arrays (pmean, a mean over microbatches, a moving average) or a cast to bfloat16 changes dtypes, and
    is an error in these three, in `compute` and in `sowlog.pack`. A bare sum of the arrays of two states
    changes no dtype: it cannot be seen.

    A notebook shows a state as a table of its results, and after `%load_ext sowlog` a dict of states as well.

    Attributes:
        parts: the reducer's arrays, each of shape [*batch, *own].
        seen: bool, shape [*batch]; False where nothing was sown.
        reducer: the reducer that made it (static).
        note: the note of the sow (static; equal for all states).

    Example:
        >>> import sowlog
        >>> state = sowlog.mean.of([1.0, 2.0])
        >>> state
        State(mean, 1.5)
        >>> state.merge(sowlog.mean.of(6.0))
        State(mean, 3.0)
    """

    parts: Parts
    seen: jax.Array
    reducer: "Reducer" = dataclasses.field(metadata={"static": True})
    note: Note = dataclasses.field(default=NO_NOTE, metadata={"static": True})

    def merge(self, other: "State") -> "State":
        """Return the state of the values of both; merging an empty state changes nothing, bit for bit.

        Raises:
            TypeError: `other` is not a state, or is one of another reducer, or arithmetic has changed a
                state.
        """
        if not isinstance(other, State):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise TypeError(
                f"cannot merge a state of {self.reducer} with {type(other).__name__}: "
                f"make it a state first, `sowlog.{self.reducer}.of(value)`."
            )
        check_intact(self)
        check_intact(other)
        if self.reducer != other.reducer:
            raise TypeError(
                f"cannot merge a state of {self.reducer} with one of {other.reducer}: two reducers share one "
                "name. Give each its own name, or use the same reducer at both places."
            )
        if _is_start(other):
            return self
        if _is_start(self):
            return other
        _check_one_shape(self, other)
        merged = ambient.isolated(_merge, _device_arrays(self), _device_arrays(other))
        # The cached program of a merge has the note of the states that it was traced with.
        return merged.under(self.note if self.note.order else other.note)

    def under(self, note: Note) -> "State":
        """Return the state with a note."""
        return dataclasses.replace(self, note=note)

    def compute(self) -> Any:
        """Return the result: a float32 array of shape [*batch], or a dict of them by result name.

        Where nothing was sown the result is NaN; `sowlog.compute` and the logger leave such results out.

        Raises:
            TypeError: Arithmetic has changed the state.
        """
        check_intact(self)
        return ambient.isolated(_compute, _device_arrays(self))

    def __repr__(self) -> str:
        return f"State({self.reducer}, {self._result_or_place()})"

    def _repr_html_(self) -> str:
        try:
            with jax.ensure_compile_time_eval():
                result = self.compute()
                results = result if isinstance(result, dict) else {"": result}
                return results_html(repr(self.reducer), results, self.seen)
        except Exception:
            # The state is traced or deleted, or has no numbers, as a histogram: the repr has its place.
            return _html.code(repr(self))

    def _result_or_place(self) -> str:
        place = reprs.place_of(self, self.seen)
        if place:
            return place
        try:
            # A concrete state is computed now, also while a function is traced.
            with jax.ensure_compile_time_eval():
                return reprs.result_text(self.compute()) if self.seen else "nothing sown"
        except Exception:
            # Arithmetic has changed the arrays, or they are on another host, or a guard forbids to read them.
            return "unreadable"


def _device_arrays(state: State) -> State:
    """Return a state with JAX's arrays, which a user's `merge` expects, in place of a fetched state's."""
    return jax.tree.map(jnp.asarray, state)


@jax.jit
def _merge(a: State, b: State) -> State:
    """Merge under jit: the states of one reducer and shape, hundreds in a model, are traced once."""
    return _over_batch(_merge_one, a.seen.ndim)(a, b)


@jax.jit
def _compute(state: State) -> Any:
    return _over_batch(_compute_one, state.seen.ndim)(state)


def _merge_one(a: State, b: State) -> State:
    merged = a.reducer.merge(a.parts, b.parts)
    if a.reducer.counts_unseen:
        return State(merged, a.seen | b.seen, a.reducer)

    def select(both: jax.Array, only_a: jax.Array, only_b: jax.Array) -> jax.Array:
        return jnp.where(b.seen, jnp.where(a.seen, both, only_b), only_a)

    return State(jax.tree.map(select, merged, a.parts, b.parts), a.seen | b.seen, a.reducer)


def _compute_one(state: State) -> Any:
    def present(x: Any) -> jax.Array:
        array = jnp.asarray(x, jnp.float32)
        return jax.lax.select(state.seen, array, jnp.full_like(array, jnp.nan))

    return jax.tree.map(present, state.reducer.compute(state.parts))


def _over_batch(function: Callable[..., Any], axes: int) -> Callable[..., Any]:
    for _ in range(axes):
        function = jax.vmap(function)
    return function


_START: Any = np.zeros((), np.bool_)
"""The `seen` of `init_fn`'s state, known by identity: a fetched state may have a NumPy False, too."""
_START.flags.writeable = False


def start(reducer: "Reducer") -> State:
    """Return the state of a reducer before anything was sown."""
    with ambient.unchecked():
        return State(jax.tree.map(strong, reducer.empty()), _START, reducer)


def _is_start(state: State) -> bool:
    """Return whether a state is `init_fn`'s: nothing was sown, and its kept axes are not known yet."""
    return state.seen is _START


def check_intact(state: State, tag: str = "") -> None:
    """Raise if arithmetic has changed the dtypes of a state's arrays.

    Args:
        state: any state, its arrays anywhere.
        tag: the state's place in a tree, for the message.

    Raises:
        TypeError: An average of states is not the state of their values.
    """
    seen = jax.dtypes.result_type(state.seen)
    if seen != np.bool_:
        raise _arithmetic_error(state.reducer, tag, f"its `seen` is {seen}, not bool")
    widths = zip(jax.tree.leaves(state.parts), _widths(state.reducer), strict=False)
    narrow = [leaf.dtype for leaf, width in widths if _width(leaf) < width]
    if narrow:
        raise _arithmetic_error(state.reducer, tag, f"its parts are cast to {narrow[0]}")


def _arithmetic_error(reducer: "Reducer", tag: str, evidence: str) -> TypeError:
    return TypeError(
        f"{tag and tag + ': '}a state of {reducer} has been through arithmetic ({evidence}): an average or a "
        "cast of states is not the state of their values. Write sowlog.merge(a, b) for microbatches and "
        "steps, sowlog.all_reduce(tree, axis_name) in place of jax.lax.pmean, sowlog.accumulate(step_fn, n) "
        "for gradients and metrics together; average numbers only, after sowlog.compute."
    )


@functools.lru_cache(maxsize=1024)
def _widths(reducer: "Reducer") -> list[int]:
    """Return the bytes that each floating-point part of a state must have at least, 0 for the others."""
    with ambient.unchecked():
        return [_width(leaf) for leaf in jax.tree.leaves(jax.eval_shape(reducer.empty))]


def _width(leaf: Any) -> int:
    return _width_of(leaf.dtype if hasattr(leaf, "dtype") else jax.dtypes.result_type(leaf))


@functools.cache
def _width_of(dtype: Any) -> int:
    # At most 4, as the parts of some reducers are float64 or float32, by JAX's 64-bit mode.
    return min(4, dtype.itemsize) if jnp.issubdtype(dtype, jnp.floating) else 0


def _check_one_shape(a: State, b: State) -> None:
    shapes = np.shape(a.seen), np.shape(b.seen)
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"cannot merge states of {a.reducer} with kept or stacked axes of shapes {shapes[0]} and "
            f"{shapes[1]}: a value sown under one name must keep its shape from call to call. Give values of "
            "other shapes a name of their own, and start from sowlog.empty_like of a step."
        )


def broadcast(state: State, batch: tuple[int, ...]) -> State:
    """Return a state without batch axes as an array of equal states of shape `batch`."""
    with ambient.unchecked():
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x.reshape((1,) * len(batch) + x.shape), batch + x.shape), state
        )


def strong(leaf: Any) -> jax.Array:
    """Return a leaf as an array of strong dtype: the weak type of a Python 0.0 would cost a second trace."""
    is_strong = isinstance(leaf, jax.Array) and not leaf.weak_type
    return leaf if is_strong else jnp.asarray(leaf, jnp.result_type(leaf))


def cast_like(parts: Parts, like: Parts) -> Parts:
    """Return parts in the dtypes of others."""
    return jax.tree.map(lambda x, reference: jnp.asarray(x, jnp.asarray(reference).dtype), parts, like)


def check_reducer(reducer: "Reducer", state: State, weight: Any) -> State:
    """Return a state that is given as a value of a reducer.

    Raises:
        TypeError: The state is of another reducer.
        ValueError: It has a weight beside it.
    """
    if weight is not None:
        raise ValueError(
            f"a state of {state.reducer} has a weight beside it, and holds the weights of its values: "
            "pass the weight where the state is made."
        )
    if state.reducer != reducer:
        raise TypeError(
            f"a state of {state.reducer} was passed as a value of {reducer}: use the reducer of the state."
        )
    return state
