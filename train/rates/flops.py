"""Model FLOPs of a training step, counted on the jaxpr of its objective.

Model FLOPs are those of the forward and backward pass without recomputation, as in PaLM (arXiv 2204.02311,
appendix B): `jax.checkpoint` changes the time of a step, not its model FLOPs. XLA's `cost_analysis` counts
the body of a loop once, and recomputed products again.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Kernels and calls into libraries, whose computation a jaxpr does not show.
_OPAQUE = ("pallas_call", "ffi_call", "pure_callback", "io_callback")


def of_gradient(objective: Callable[..., jax.Array], params: Any, *arguments: Any) -> float:
    """Return the FLOPs of the value and gradient of an objective.

    Only matrix products and convolutions count, at 2 FLOPs a multiplication and addition, padding included.
    The backward pass has one product of the same size for each operand that depends on the parameters: two
    within a network, one for the first layer. The body of a scan counts for each of its steps, of a cond the
    most expensive branch, of a while loop the body once, as its number of steps is unknown (a `fori_loop` of
    static bounds is a scan). Kernels (Pallas) count as 0.

    Args:
        objective: a function of the parameters and other arguments.
        params: the parameters, arrays or `jax.ShapeDtypeStruct`s.
        arguments: the other arguments, through which no gradient flows.
    """
    closed = jax.make_jaxpr(objective)(params, *arguments)
    count = len(jax.tree.leaves(params))
    depends = [index < count for index in range(len(closed.jaxpr.invars))]
    return _count(closed.jaxpr, depends)[0]


def _count(jaxpr: Any, depends: Sequence[bool]) -> tuple[float, list[bool]]:
    """Return the FLOPs of a jaxpr, and which of its outputs depend on the parameters.

    Args:
        jaxpr: the jaxpr, closed or not.
        depends: whether each of its inputs depends on the parameters.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    known = dict(zip(jaxpr.invars, depends, strict=True))
    total = 0.0
    for equation in jaxpr.eqns:
        flops, outputs = _count_equation(equation, [_is_known(known, each) for each in equation.invars])
        total += flops
        # No gradient flows through integers, such as the choice of an expert.
        known.update(
            (each, output and jnp.issubdtype(each.aval.dtype, jnp.inexact))
            for each, output in zip(equation.outvars, outputs, strict=True)
        )
    return total, [_is_known(known, each) for each in jaxpr.outvars]


def _is_known(known: dict[Any, bool], variable: Any) -> bool:
    # A literal has a value and no hash.
    return not hasattr(variable, "val") and known.get(variable, False)


def _count_equation(equation: Any, depends: list[bool]) -> tuple[float, list[bool]]:
    match equation.primitive.name:
        case "dot_general" | "ragged_dot_general" | "conv_general_dilated":
            passes = 1 + sum(depends[:2])
            return passes * _product(equation), [any(depends)]
        case "scan":
            return _count_scan(equation, depends)
        case "while":
            return _count_while(equation, depends)
        case "cond":
            branches = [_count(branch, depends[1:]) for branch in equation.params["branches"]]
            outputs = [any(each) for each in zip(*(outputs for _, outputs in branches), strict=True)]
            return max(flops for flops, _ in branches), outputs
        case name if name in _OPAQUE or name == "stop_gradient":
            return 0, [any(depends) and name in _OPAQUE] * len(equation.outvars)
        case _:
            return _count_call(equation, depends)


def _product(equation: Any) -> float:
    """Return the FLOPs of a matrix product or a convolution."""
    left, right = (each.aval for each in equation.invars[:2])
    outputs = math.prod(equation.outvars[0].aval.shape)
    parameters = equation.params
    if equation.primitive.name == "conv_general_dilated":
        features = right.shape[parameters["dimension_numbers"].rhs_spec[0]]
        # A dilated input, of a transposed convolution, has zeros between its elements.
        return 2 * outputs * right.size / features / math.prod(parameters["lhs_dilation"])
    dimensions = parameters.get("dimension_numbers")
    if dimensions is None:
        dimensions = parameters["ragged_dot_dimension_numbers"].dot_dimension_numbers
    (contracted, _), _ = dimensions
    return 2 * outputs * math.prod(left.shape[axis] for axis in contracted)


def _count_scan(equation: Any, depends: list[bool]) -> tuple[float, list[bool]]:
    parameters = equation.params
    consts, carry = parameters["num_consts"], parameters["num_carry"]
    flops, outputs = _count_loop(parameters["jaxpr"], depends, slice(consts, consts + carry))
    return parameters["length"] * flops, outputs


def _count_while(equation: Any, depends: list[bool]) -> tuple[float, list[bool]]:
    parameters = equation.params
    before, consts = parameters["cond_nconsts"], parameters["body_nconsts"]
    return _count_loop(parameters["body_jaxpr"], depends[before:], slice(consts, None))


def _count_loop(body: Any, depends: list[bool], carry: slice) -> tuple[float, list[bool]]:
    """Count the body of a loop, whose carry may depend on the parameters from a later step on."""
    while True:
        flops, outputs = _count(body, depends)
        before = depends[carry]
        after = [old or new for old, new in zip(before, outputs[: len(before)], strict=True)]
        if after == before:
            return flops, outputs
        depends = [*depends]
        depends[carry] = after


def _count_call(equation: Any, depends: list[bool]) -> tuple[float, list[bool]]:
    """Count a call of other jaxprs: jit, checkpoint, custom derivatives, shard_map; others have none."""
    total, outputs = 0.0, [any(depends)] * len(equation.outvars)
    for inner in _jaxprs(equation.params):
        size = len(getattr(inner, "jaxpr", inner).invars)
        is_whole = size == len(depends)
        flops, found = _count(inner, depends if is_whole else [any(depends)] * size)
        total += flops
        if is_whole and len(found) == len(outputs):
            outputs = found
    if equation.primitive.name == "shard_map":
        # Named manual_axes or newly_manual_axes, by the version of JAX.
        axes = next(axes for name, axes in equation.params.items() if name.endswith("manual_axes"))
        total *= math.prod(equation.params["mesh"].shape[axis] for axis in axes)
    return total, outputs


def _jaxprs(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if hasattr(each, "eqns") or hasattr(getattr(each, "jaxpr", None), "eqns"):
                yield each
