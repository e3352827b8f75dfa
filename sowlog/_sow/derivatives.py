"""The rules of custom derivatives and linear solves, whose gradient is that of a user's or JAX's own rule."""

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

import jax

from sowlog._sow import cadence, internals
from sowlog._sow.collector import emit_all, is_collecting, replaying, silent, sows_of
from sowlog._sow.errors import LostMetricError
from sowlog._sow.internals import Bind
from sowlog._sow.jaxprs import handed_out, with_sown, without_sows
from sowlog._sow.paths import whole_path


def bind_custom_derivative(bind: Bind, args: Sequence[Any], params: dict[str, Any]) -> Any:
    """Bind a custom derivative without its sows, and evaluate its function once more for their states.

    Under a gradient JAX runs a rule in place of the function, and a rule cannot return further results.
    """
    if internals.is_of_jax(params):
        return bind(*args, **params)
    if not is_collecting():
        # A later gradient may run the functions when the context of this silence has ended.
        return bind(*args, **internals.within(params, silent, silent, replaying))
    jaxpr = jax.make_jaxpr(internals.custom_function(params))(*args)
    if not internals.holds_sows(jaxpr):
        return bind(*args, **params)
    _check_losses(jaxpr, "a custom derivative (custom_vjp, custom_jvp)")
    _, sown = with_sown(jaxpr)(*map(jax.lax.stop_gradient, args))
    results = bind(*args, **internals.within(params, _silent_with_numbers(), silent, replaying))
    emit_all(jax.tree.map(jax.lax.stop_gradient, sown))
    return results


def _silent_with_numbers() -> internals.Context:
    """Return the context of a silent function; a `collect` in it reads the numbers of the level outside."""
    numbers, level = cadence.all_given(), internals.level()

    @contextlib.contextmanager
    def silent_with_numbers() -> Generator[None]:
        with silent(), contextlib.nullcontext() if internals.level() is level else cadence.given(numbers):
            yield

    return silent_with_numbers


def _check_losses(jaxpr: Any, transform: str) -> None:
    """Raise if a loss is sown where JAX takes the gradient by a rule."""
    for label, _ in sows_of(jaxpr):
        if label.is_loss:
            tag = label.within(whole_path())
            raise LostMetricError(
                f"{tag} is a loss sown inside {transform}, whose rule takes the gradient of the function's "
                "result alone: it would be logged and not trained on. Return the value and sow it outside: "
                f'y, {label.name} = f(...), then sowlog.sow_loss("{label.name}", {label.name}).'
            )


def bind_linear_solve(bind: Bind, args: Sequence[Any], params: dict[str, Any]) -> Any:
    """Return the states from the solver of a custom_linear_solve, which may return more than the solution.

    JAX runs the other functions in derivatives only, so their sows are dropped. The transposed solver must
    return as many arrays as the solver: zeros stand for the states.
    """
    functions = params["jaxprs"]._asdict()
    if not any(internals.holds_sows(jaxpr) for jaxpr in functions.values() if jaxpr is not None):
        return bind(*args, **params)
    _check_losses(functions["solve"], "jax.lax.custom_linear_solve")
    solve = handed_out(functions["solve"], functions["solve"].in_avals)
    states = solve.jaxpr.out_avals[len(solve.jaxpr.out_avals) - solve.more :]
    silenced = {
        name: without_sows(jaxpr, states if name == "transpose_solve" else [])
        for name, jaxpr in functions.items()
        if jaxpr is not None
    }
    # The constants of the solver follow those of the two functions before it.
    lengths = params["const_lengths"]
    start = lengths.matvec + lengths.vecmat
    numbers = cadence.given_to(solve.names).values()
    lengths = lengths._replace(solve=lengths.solve + len(solve.names))
    jaxprs = params["jaxprs"]._replace(**{**silenced, "solve": solve.jaxpr})
    operands = (*args[:start], *numbers, *args[start:])
    results = bind(*operands, **{**params, "const_lengths": lengths, "jaxprs": jaxprs})
    own = len(results) - solve.more
    emit_all(solve.structure.unflatten(results[own:]))
    return list(results[:own])
