"""`sowlog.explain_nonfinite`: where the first NaN or infinity of a function is made."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.core
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from sowlog._explain.evaluated import given
from sowlog._explain.evaluating import Evaluation
from sowlog._explain.origins import ARGUMENT, first_origin
from sowlog._explain.report import NonfiniteReport
from sowlog._reduce.state import State
from sowlog._sow import foreign
from sowlog._sow.calls import Call
from sowlog._sow.collecting import function_of

_Params = ParamSpec("_Params")


def explain_nonfinite(fn: Callable[_Params, Any]) -> Callable[_Params, NonfiniteReport]:
    """Wrap a function so that a call finds the first equation that makes a NaN or an infinity in its results.

    Call it after the fact, with the arguments of the step that was not finite. The function is traced, and
    its equations are evaluated one by one on the device: those in loops, branches, checkpoints, custom
    derivatives and a shard_map as well. An equation is an origin if

    - a result of the function is not finite, and got that from this equation, by values that are not finite;
    - and it makes an infinity of operands that are all finite; or a NaN of operands without NaN; or brings
      a NaN that is written in the program, such as `jnp.nan`, into computed values.

    The origin that ran first is reported. An argument, or an array that the function closes over, that holds
    a NaN comes before all equations. An infinity that is written in the program (a mask's `-jnp.inf`) or
    passed in is an origin only if there is no other: where a NaN is made of it, that equation is reported,
    and `cause` is the origin of the infinity. A value that reaches no result, such as a masked score, is no
    fault, and neither is the infinite start of a sown maximum.

    XLA fuses equations and may round otherwise, so that a value near the limit of its dtype may be finite
    here and not in the compiled function, or the reverse. The body of a scan of more than 16 steps, or of a
    while loop, is compiled, and only iterations whose results are not finite are evaluated by equations: at
    most 64 of one loop that may merely pass on a non-finite value. Branches and while loops that differ
    between shards, and transforms without a rule (a Pallas kernel, a linear solve), are reported as one
    equation. Factors of a derivative that JAX computes in the forward pass count as forward, and the source
    of a backward rule is the line that calls its function. Callbacks run once, but for pure ones in a loop,
    which may run twice.

    Args:
        fn: any function, jitted or not: `jax.value_and_grad(loss)`, a training step, `sowlog.collect(fn)`, a
            linen model (its `apply`) or an nnx model. A jitted function does not donate its arguments here.

    Returns:
        A function with the same arguments that returns a report. The report is true if a result is not
        finite, and its str is for people. Its attributes are `kind`, `origin`, `name` (the primitive, or the
        argument), `source`, `module`, `phase`, `within`, `iterations`, `branches`, `shard`, `operands`,
        `result`, `index`, `results` and `cause`. The state of nnx models after the call counts as a result.

    Raises:
        TypeError: `fn` cannot be called; or (when called) it is inside of a jit or another transform.

    Example:
        >>> import jax, jax.numpy as jnp, sowlog
        >>> def model(x):
        ...     def layer(x, weight):
        ...         with sowlog.scope("norm"):
        ...             return jnp.log(x) * weight, None
        ...     return jax.lax.scan(layer, x, jnp.ones(3))[0]
        >>> report = sowlog.explain_nonfinite(model)(jnp.array([10.0, 2.0]))
        >>> report.kind, report.name, report.module, report.iterations, report.index
        ('nan', 'log', 'norm', (2,), (1,))
        >>> report.operands
        (Operand(shape=(2,), dtype='float32', min=-0.366..., max=0.834..., nans=0, infinities=0),)
        >>> bool(sowlog.explain_nonfinite(model)(jnp.array([100.0, 90.0])))
        False
    """
    function = function_of(fn)
    if not callable(function):
        raise TypeError(
            f"explain_nonfinite was given {type(fn).__name__}, which cannot be called. Write: "
            "sowlog.explain_nonfinite(function)(arguments)."
        )

    @functools.wraps(function, updated=())
    def explain(*args: _Params.args, **kwargs: _Params.kwargs) -> NonfiniteReport:
        call = Call.of(function, args, kwargs)
        # A mode that raises at a NaN would end the search at one that reaches no result.
        with jax.debug_nans(new_val=False), jax.debug_infs(new_val=False), jax.transfer_guard("allow"):
            _check_outside([*call.arrays, jax.numpy.zeros(())])
            return _explain(call)

    return explain


def _check_outside(arrays: list[Any]) -> None:
    if any(isinstance(array, jax.core.Tracer | jax.ShapeDtypeStruct) for array in arrays):
        raise TypeError(
            "explain_nonfinite evaluates a function with concrete arrays, and was called with shapes, or "
            "inside of a jit, grad, vmap or another transform. Call it outside, with the transform inside: "
            "sowlog.explain_nonfinite(jax.jit(fn))(arguments)."
        )


class _Result(NamedTuple):
    name: str
    is_statistic: bool


def _explain(call: Call) -> NonfiniteReport:
    results: list[_Result] = []

    def run(arrays: list[Any]) -> list[Any]:
        fn, args, kwargs = filled = call.filled(arrays)
        with foreign.naming(fn, args, kwargs):
            result = fn(*args, **kwargs)
        named = [*_results(result), *_state(call.state(filled))]
        results[:] = [result for result, _ in named]
        return [array for _, array in named]

    jaxpr = jax.make_jaxpr(run)(call.arrays)
    _check_outside(list(jaxpr.consts))
    arguments = [given(array, ARGUMENT, name) for array, name in zip(call.arrays, call.names, strict=True)]
    values = zip(results, Evaluation().run(jaxpr, arguments), strict=True)
    bad = [(result, value.trail) for result, value in values if value.trail is not None]
    report = first_origin(
        [trail for result, trail in bad if not result.is_statistic],
        [trail for result, trail in bad if result.is_statistic],
    )
    if report is None:
        return NonfiniteReport()
    return dataclasses.replace(report, results=tuple(result.name for result, _ in bad))


def _state(named: list[tuple[str, Any]]) -> Iterator[tuple[_Result, Any]]:
    for name, array in named:
        yield _Result(name, is_statistic=False), array


def _results(tree: Any) -> Iterator[tuple[_Result, Any]]:
    """Yield the arrays and numbers of a function's result; a result may hold functions and names as well."""
    for path, node in tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, State))[0]:
        for inner, leaf in tree_flatten_with_path(node)[0]:
            if isinstance(leaf, jax.Array | np.ndarray | np.generic | float | complex):
                yield _Result(f"result{keystr((*path, *inner))}", is_statistic=isinstance(node, State)), leaf
