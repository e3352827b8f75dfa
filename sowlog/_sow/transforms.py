"""The transforms between a sow and the `apply` that collects it, found on the Python stack.

Flax does not report to a module which lifted transform runs it, so its frames are read, only while tracing.
Errors take names from them, and decisions depend on them: whether a sow belongs to the collected pass,
whether its value is returned, whether a loss is trained on, whether a `setup` is a rehearsal. A frame renamed
upstream would hide an error, so the first `collect` checks that all frames exist: `frames`.
"""

import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

from flax.core import scope as flax_scope

_LIFT = ("flax", "core", "lift.py")
_APPLY = ("flax", "core", "scope.py")
# Functions of flax.linen that run a module's `setup` once more, to inspect it.
_REHEARSALS = {"Module._validate_setup", "_fingerprint_recursive"}
_LINEN = (("flax", "linen", "module.py"), ("flax", "linen", "transforms.py"))
_RNN = ("flax", "linen", "recurrent.py")
_CUSTOM_DERIVATIVES = ("jax", "_src", "custom_derivatives.py")
_PUBLIC_NAMES = {"checkpoint": "remat"}
# Functions of JAX that run a function of the user's under a trace of their own.
_RAW = {
    ("loops.py", "scan"): "jax.lax.scan",
    ("loops.py", "while_loop"): "jax.lax.while_loop",
    ("loops.py", "fori_loop"): "jax.lax.fori_loop",
    ("loops.py", "map"): "jax.lax.map",
    ("conditionals.py", "cond"): "jax.lax.cond",
    ("conditionals.py", "switch"): "jax.lax.switch",
    ("ad_checkpoint.py", "checkpoint"): "jax.checkpoint",
    ("pjit.py", "_cpp_pjit"): "jax.jit",
    ("pjit.py", "_infer_params"): "jax.jit",
    ("api.py", "vmap"): "jax.vmap",
    ("api.py", "grad"): "jax.grad",
    ("api.py", "value_and_grad"): "jax.grad",
    ("api.py", "vjp"): "jax.vjp",
    ("api.py", "jvp"): "jax.jvp",
    ("api.py", "linearize"): "jax.linearize",
    ("api.py", "jacfwd"): "jax.jacfwd",
    ("api.py", "jacrev"): "jax.jacrev",
    ("api.py", "pmap"): "jax.pmap",
    ("custom_derivatives.py", "custom_jvp"): "jax.custom_jvp",
    ("custom_derivatives.py", "custom_vjp"): "jax.custom_vjp",
    ("shard_map.py", "shard_map"): "jax.shard_map",
    ("_shard_map.py", "shard_map"): "jax.shard_map",
}


class Lift(NamedTuple):
    """A lifted transform on the stack.

    Attributes:
        name: its name in flax.linen.
        part: its inner function that runs: `cond_wrapper` of a while_loop, say.
        outgoing: its filters of the collections that come back out; None if they are not known.
    """

    name: str
    part: str
    outgoing: tuple[Any, ...] | None

    def hands_back(self, collection: str) -> bool:
        """Return whether the transform returns a collection, as far as its filters are known."""
        if self.part == "cond_wrapper":
            return False
        return self.outgoing is None or any(
            flax_scope.in_filter(filter, collection) for filter in self.outgoing
        )

    def broadcasts(self, collection: str) -> bool:
        """Return whether a loop hands back one value, though its body runs many times."""
        # The first of nn.scan's filters is variable_broadcast, the second variable_carry.
        is_scan = self.name in ("scan", "RNN")
        return is_scan and bool(self.outgoing) and flax_scope.in_filter(self.outgoing[0], collection)


def enclosing_lifts() -> list[Lift]:
    """Return the lifted transforms around the caller within the innermost `apply`, the innermost first."""
    lifts: list[Lift] = []
    name = part = ""
    for frame in _frames():
        if _is_apply(frame):
            break
        function = frame.f_code.co_qualname
        if lifts and is_rnn_code(frame.f_code):
            lifts[-1] = lifts[-1]._replace(name="RNN")
        if not _is_file(frame.f_code, _LIFT):
            continue
        if function == "pack.<locals>.wrapper":
            outgoing = frame.f_locals.get("out_variable_filters")
            lifts.append(Lift(_PUBLIC_NAMES.get(name, name), part, outgoing))
            name = part = ""
        else:
            name, part = function.partition(".")[0], part or function.rpartition(".")[2]
    return lifts


def innermost() -> str:
    """Return the name of the transform that directly surrounds the caller, as a user writes it."""
    for frame in _frames():
        name = frame.f_code.co_qualname.partition(".")[0]
        if _is_file(frame.f_code, _LIFT) and name not in ("pack", "_partial_pack"):
            return f"nn.{_PUBLIC_NAMES.get(name, name)}"
        parts = frame.f_code.co_filename.replace("\\", "/").split("/")
        name = _RAW.get((parts[-1], frame.f_code.co_qualname.partition(".")[0]))
        if name and "jax" in parts:
            # fori_loop is traced as a scan or while_loop that it calls itself.
            return name if name not in ("jax.lax.scan", "jax.lax.while_loop") else _loop_name(frame, name)
    return "a JAX transform"


def custom_derivative() -> str | None:
    """Return the name of the custom derivative whose function or rule the caller runs in, or None.

    Its rule computes the gradient of the function's result, and knows no value that is sown beside it.
    """
    found = None
    for frame in _frames():
        if _is_apply(frame):
            break
        name = frame.f_code.co_qualname.partition(".")[0]
        if name not in ("custom_jvp", "custom_vjp"):
            continue
        if _is_file(frame.f_code, _LIFT):
            return f"nn.{name}"
        found = found or (f"jax.{name}" if _is_file(frame.f_code, _CUSTOM_DERIVATIVES) else None)
    return found


def is_rehearsal() -> bool:
    """Return whether Flax runs the caller, a `setup`, only to check it, or to compare modules in nn.jit.

    A lifted class runs `setup` inside its transform; the sows of these earlier runs would count twice.
    """
    for frame in _frames():
        if is_rehearsal_code(frame.f_code):
            return True
        if _is_apply(frame):
            break
    return False


def apply_depth() -> int:
    """Return how many calls of Flax's `apply` are on the stack."""
    return sum(_is_apply(frame) for frame in _frames())


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_apply(frame: FrameType) -> bool:
    return frame.f_code.co_qualname.startswith("apply.") and _is_file(frame.f_code, _APPLY)


def is_rnn_code(code: CodeType) -> bool:
    """Return whether code is that of nn.RNN, which scans."""
    return code.co_qualname == "RNN.__call__" and _is_file(code, _RNN)


def is_rehearsal_code(code: CodeType) -> bool:
    """Return whether code runs a module's `setup` once more, to inspect it."""
    return code.co_qualname in _REHEARSALS and any(_is_file(code, file) for file in _LINEN)


def _is_file(code: CodeType, end: tuple[str, ...]) -> bool:
    return code.co_filename.replace("\\", "/").endswith("/".join(end))


def _loop_name(frame: FrameType, name: str) -> str:
    outer = frame.f_back
    while outer is not None and "/jax/" in outer.f_code.co_filename.replace("\\", "/"):
        found = _RAW.get((outer.f_code.co_filename.rpartition("/")[2], outer.f_code.co_qualname))
        name = found or name
        outer = outer.f_back
    return name
