"""Laws of reducers and of metrics as assertions: see `sowlog.testing`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sowlog._reduce.reducer import Reducer
from sowlog._reduce.state import State
from sowlog._tree import microbatches, replicas, results
from sowlog._tree.tags import empty_like, merge, unstack

_Closeness = Callable[[str, State, State], None]
"""Assert that two states compute equal results; the first argument names the law."""

_SAMPLES: tuple[np.ndarray[Any, Any], ...] = (
    np.array([-3.0, -50.25, -7.5], np.float32),
    np.array([[4.0, -0.0], [1e-3, 12.0]], np.float32),
    np.array(-1.5, np.float32),
    np.array([2.0], np.float32),
)


def assert_reducer_laws(
    reducer: Reducer, values: Sequence[Any] = _SAMPLES, *, rtol: float = 1e-6, atol: float = 1e-7
) -> None:
    """Assert that a reducer computes one result for all orders and groupings of its values.

    The empty state is the identity of `merge` on both sides, bit for bit. `merge` is associative and (unless
    the reducer is `ordered`) commutative. States keep their structure, shapes and strong dtypes, float32 or
    wider. One call, several calls, a merge of parts, `jit` and `lax.scan` have one result.

    Args:
        reducer: a built-in or custom reducer.
        values: at least three arrays that the reducer accepts, of any shapes; the default holds negative
            numbers and -0.0.
        rtol: the relative error allowed between two ways to one number.
        atol: the absolute error allowed.

    Raises:
        AssertionError: A law does not hold; the message names it.
        TypeError: `values` is no sequence, or the reducer does not accept one of them.
        ValueError: There are fewer than three values.

    Example:
        >>> import sowlog
        >>> sowlog.testing.assert_reducer_laws(sowlog.std)
    """
    values = _checked_values(values)
    states = [reducer.of(value) for value in values]
    _assert_identity(reducer, states)
    _assert_fixed_structure(reducer, values)
    close = _closeness(rtol, atol)
    _assert_neutral(reducer, states, close)
    a, b, c = states[:3]
    close("merge is associative", a.merge(b).merge(c), a.merge(b.merge(c)))
    if not reducer.ordered:
        close("merge is commutative", a.merge(b), b.merge(a))
    _assert_one_number(reducer, values, states, close)


def _checked_values(values: Any) -> list[Any]:
    try:
        found = list(values)
    except TypeError as error:
        raise TypeError(
            f"values is {type(values).__name__}, and must be a sequence of at least three arrays, such as "
            "values=[np.array([-3.0, 1.0]), np.array([0.5]), np.array(2.0)]."
        ) from error
    if len(found) < 3:
        shapes = ", ".join(str(np.shape(value)) for value in found) or "none"
        raise ValueError(
            f"values has {len(found)} array{'s' * (len(found) != 1)} (shapes: {shapes}), and an associative "
            "merge takes three states: pass three arrays or more, or leave values out."
        )
    return found


def assert_invariant(
    function: Callable[[Any], Any],
    batch: Any,
    *,
    over: str | Sequence[str] = ("microbatch", "scan", "shard"),
    parts: int = 2,
    rtol: float = 1e-6,
    atol: float = 1e-7,
) -> None:
    """Assert that metrics do not depend on the split of a batch: each way computes the whole batch's numbers.

    It detects numbers that should be states (a mean of means), and computations across examples.

    Args:
        function: a function from a batch to a tree of states, such as
            `lambda x: sowlog.collect(model.apply)(variables, x)[1]["metrics"]`.
        batch: a tree of arrays with the examples on the first axis; their number is a multiple of `parts`.
        over: the ways to split. "microbatch": parts merged in a Python loop; "scan": parts merged in a
            `lax.scan`; "shard": parts as replicas, merged by `all_reduce`.
        parts: the number of parts.
        rtol: the relative error allowed.
        atol: the absolute error allowed.

    Raises:
        AssertionError: A way computes another number; the message has the way, the tag and both numbers.
        ValueError: `over` names an unknown way, or the batch cannot be split into that many parts.

    Example:
        >>> import jax.numpy as jnp, sowlog.testing
        >>> x = jnp.arange(6.0)
        >>> sowlog.testing.assert_invariant(lambda x: {"x": sowlog.mean.of(x)}, x)
        >>> sowlog.testing.assert_invariant(lambda x: {"x": sowlog.last.of(jnp.max(x) - jnp.min(x))}, x)
        Traceback (most recent call last):
            ...
        AssertionError: over "microbatch", x is 2.0; of the whole batch it is 5.0.
    """
    ways = [over] if isinstance(over, str) else list(over)
    unknown = [way for way in ways if way not in _CUTS]
    if unknown:
        raise ValueError(f"over={unknown[0]!r} is no way to cut a batch; there are {', '.join(_CUTS)}.")
    whole = results.compute(jax.jit(function)(batch))
    (cut,) = microbatches.cut((batch,), parts)
    for way in ways:
        computed = results.compute(jax.jit(functools.partial(_CUTS[way], function))(cut))
        _assert_equal_results(way, computed, whole, rtol=rtol, atol=atol)


def _by_loop(function: Callable[[Any], Any], parts: Any) -> Any:
    trees = [function(part) for part in unstack(parts)]
    return functools.reduce(merge, trees)


def _by_scan(function: Callable[[Any], Any], parts: Any) -> Any:
    start = empty_like(jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], parts)))
    return jax.lax.scan(lambda total, part: (merge(total, function(part)), None), start, parts)[0]


def _by_shard(function: Callable[[Any], Any], parts: Any) -> Any:
    reduced = jax.vmap(lambda part: replicas.all_reduce(function(part), "parts"), axis_name="parts")(parts)
    return jax.tree.map(lambda leaf: leaf[0], reduced)


_CUTS = {"microbatch": _by_loop, "scan": _by_scan, "shard": _by_shard}


def _assert_equal_results(
    way: str, computed: dict[str, Any], whole: dict[str, Any], *, rtol: float, atol: float
) -> None:
    if set(computed) != set(whole):
        raise AssertionError(
            f'over "{way}", {", ".join(sorted(set(computed) ^ set(whole)))} is sown in only one of both.'
        )
    for tag, wanted in whole.items():
        pairs = zip(jax.tree.leaves(computed[tag]), jax.tree.leaves(wanted), strict=True)
        if not all(np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True) for a, b in pairs):
            raise AssertionError(
                f'over "{way}", {tag} is {computed[tag]}; of the whole batch it is {wanted}.'
            )


def _assert_identity(reducer: Reducer, states: list[State]) -> None:
    # merge returns early for the state of init_fn itself, so take the start of a scan.
    empty = empty_like(reducer.init_fn())
    for state in states:
        for side, merged in (("left", empty.merge(state)), ("right", state.merge(empty))):
            if _bits(merged) != _bits(state):
                raise AssertionError(
                    f"{reducer}: empty is not the {side} identity of merge: {state} -> {merged}."
                )


def _assert_neutral(reducer: Reducer, states: list[State], close: _Closeness) -> None:
    """Assert that the reducer's own `merge` with its own `empty` changes no value."""
    empty = reducer.init_fn()
    for state in states:
        left, right = reducer.merge(empty.parts, state.parts), reducer.merge(state.parts, empty.parts)
        close("empty() is neutral on the left of merge", dataclasses.replace(state, parts=left), state)
        if not reducer.ordered:
            close("empty() is neutral on the right of merge", dataclasses.replace(state, parts=right), state)


def _assert_fixed_structure(reducer: Reducer, values: Sequence[Any]) -> None:
    """Assert that states keep the start's structure, shapes, dtypes and weak types: no step retraces."""
    empty = _signature(reducer.init_fn())
    for value in values:
        grown = _signature(reducer.reduce_fn(reducer.init_fn(), value))
        if grown != empty:
            raise AssertionError(
                f"{reducer}: the state changes its structure as it grows: {empty} -> {grown}."
            )
    narrow = [leaf for leaf in empty[1] if leaf[1] != np.bool_ and leaf[1].itemsize < 4]
    weak = [leaf for leaf in empty[1] if leaf[2]]
    if narrow or weak:
        raise AssertionError(f"{reducer}: state narrower than 32 bits {narrow}, or of weak type {weak}.")


def _assert_one_number(
    reducer: Reducer, values: Sequence[Any], states: list[State], close: _Closeness
) -> None:
    together = reducer.of(np.concatenate([np.ravel(value) for value in values]))
    in_calls = reducer.init_fn()
    for value in values:
        in_calls = reducer.reduce_fn(in_calls, value)
    close("one call and several calls agree", in_calls, together)
    parts = states[0].merge(states[1]).merge(states[2])
    for state in states[3:]:
        parts = parts.merge(state)
    close("calls and merged parts agree", parts, together)
    flat = np.concatenate([np.ravel(value) for value in values])
    scanned, _ = jax.lax.scan(lambda state, x: (reducer.reduce_fn(state, x), None), reducer.init_fn(), flat)
    close("a lax.scan over the elements agrees", scanned, together)
    close("jit agrees", jax.jit(reducer.of)(flat), together)


def _closeness(rtol: float, atol: float) -> _Closeness:
    def close(law: str, a: State, b: State) -> None:
        left, right = (jax.tree.leaves(state.compute()) for state in (a, b))
        for x, y in zip(left, right, strict=True):
            np.testing.assert_allclose(
                np.asarray(x), np.asarray(y), rtol=rtol, atol=atol, err_msg=f"{a.reducer}: {law}"
            )

    return close


def _signature(state: State) -> tuple[Any, list[tuple[tuple[int, ...], np.dtype[Any], bool]]]:
    leaves, structure = jax.tree.flatten(state)
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    return structure, [(array.shape, array.dtype, array.weak_type) for array in arrays]


def _bits(state: State) -> list[tuple[Any, bytes]]:
    return [(leaf.dtype, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(state)]
