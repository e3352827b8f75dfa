"""A check that Flax and JAX have the frames that `transforms` looks for on the Python stack."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import lift as flax_lift
from flax.core import scope as flax_scope
from flax.linen import transforms as linen_transforms

from sowlog._sow import transforms

_KEPT, _DROPPED = "kept", "dropped"
Look = Callable[[], None]


@functools.cache
def check_frames() -> None:
    """Check, once per process, that each frame is found from inside of a small function.

    Raises:
        RuntimeError: Frames are not found, as after a rename upstream: a sow would not be reported, or a
            dropped value would be lost in silence.
    """
    missing = [frame for frame, is_found in _CHECKS.items() if not is_found()]
    if missing:
        raise RuntimeError(
            f"sowlog reads off Python's stack which transforms surround a sow, and does not find "
            f"{', '.join(missing)} in flax {flax.__version__} with jax {jax.__version__}: a metric could be "
            "lost in silence. Install the versions of flax and jax that this sowlog was released with, or a "
            "newer sowlog."
        )


def _seen_in(transform: Callable[[Any, Look], object], question: Callable[[], Any]) -> list[Any]:
    """Return the answers to a question, asked where a function runs inside of a transform and of `apply`."""
    answers: list[Any] = []

    def run(scope: Any) -> None:
        transform(scope, lambda: answers.append(question()))

    # Scopes call no interceptors of modules, which may be a user's.
    jax.eval_shape(lambda: flax_scope.apply(run, mutable=[_KEPT, _DROPPED])({})[0])
    return answers


def _in_apply(_scope: Any, look: Look) -> None:
    look()


def _in_scan(scope: Any, look: Look) -> None:
    def body(_: Any, carry: Any) -> tuple[Any, tuple[()]]:
        look()
        return carry, ()

    flax_lift.scan(body, variable_axes={_KEPT: 0}, length=1)(scope, ())


def _in_condition(scope: Any, look: Look) -> None:
    def condition(_: Any, carry: jax.Array) -> Any:
        look()
        return carry < 0

    zero = jnp.zeros(())
    flax_lift.while_loop(condition, lambda _, carry: carry, scope, zero, carry_variables=[_KEPT])


def _in_lifted_custom_vjp(scope: Any, look: Look) -> None:
    def function(_: Any, x: jax.Array) -> jax.Array:
        look()
        return x

    def forward(_: Any, x: jax.Array) -> tuple[jax.Array, tuple[()]]:
        return x, ()

    flax_lift.custom_vjp(function, forward, lambda _, y: y)(scope, jnp.zeros(()))


def _in_custom_derivative(_scope: Any, look: Look, *, kind: Any) -> None:
    def function(x: jax.Array) -> jax.Array:
        look()
        return x

    rules = kind(function)
    if kind is jax.custom_vjp:
        rules.defvjp(lambda x: (x, ()), lambda _, y: (y,))
    else:
        rules.defjvps(lambda tangent, *_: tangent)
    rules(jnp.zeros(()))


def _finds_apply() -> bool:
    return _seen_in(_in_apply, transforms.apply_depth) == [transforms.apply_depth() + 1]


def _finds_scan() -> bool:
    lifts = [lift for found in _seen_in(_in_scan, transforms.enclosing_lifts) for lift in found]
    return bool(lifts) and all(
        lift.name == "scan"
        and lift.outgoing is not None
        and lift.hands_back(_KEPT)
        and not lift.hands_back(_DROPPED)
        for lift in lifts
    )


def _finds_condition() -> bool:
    seen = _seen_in(_in_condition, transforms.enclosing_lifts)
    return bool(seen) and all(lifts and not lifts[0].hands_back(_KEPT) for lifts in seen)


def _finds_derivative(transform: Callable[[Any, Look], object], name: str) -> bool:
    seen = _seen_in(transform, transforms.custom_derivative)
    return bool(seen) and set(seen) == {name}


def _is_rehearsal(function: Any) -> bool:
    return function is not None and transforms.is_rehearsal_code(inspect.unwrap(function).__code__)


_CHECKS: dict[str, Callable[[], bool]] = {
    "apply": _finds_apply,
    "nn.scan": _finds_scan,
    "the cond_fn of nn.while_loop": _finds_condition,
    "nn.custom_vjp": lambda: _finds_derivative(_in_lifted_custom_vjp, "nn.custom_vjp"),
    **{
        f"jax.{kind.__name__}": functools.partial(
            _finds_derivative, functools.partial(_in_custom_derivative, kind=kind), f"jax.{kind.__name__}"
        )
        for kind in (jax.custom_jvp, jax.custom_vjp)
    },
    "nn.RNN": lambda: transforms.is_rnn_code(inspect.unwrap(nn.RNN.__call__).__code__),
    "the check of a module's setup": lambda: _is_rehearsal(getattr(nn.Module, "_validate_setup", None)),
    "the fingerprint of a module": lambda: _is_rehearsal(
        getattr(linen_transforms, "_fingerprint_recursive", None)
    ),
}
"""The frames by their names in the error, each with a function that looks for it."""
