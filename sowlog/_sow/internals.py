"""The internals of JAX that sows need: all are in this file, looked up once, and checked.

A sow is an equation of a primitive of our own, which every transform of JAX must carry. JAX has no public
names for these internals: the effect that keeps an equation without results, the traces that a value passes
through, the primitives of the transforms and their parameters. With a JAX that moved one of them, the first
`collect` raises an error that names it.
"""

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.core

Bind = Callable[..., Any]
Context = Callable[[], contextlib.AbstractContextManager[None]]
Rule = Callable[[Bind, Sequence[Any], dict[str, Any]], Any]
"""A function of the original `bind`, the operands and the parameters, which binds a primitive anew."""

_missing: list[str] = []


def _private(*places: str) -> Any:
    """Return a private attribute of JAX, at the first of its places, or None, which `check` reports.

    Args:
        *places: "module:name", for the newest JAX first.
    """
    for place in places:
        module, _, name = place.partition(":")
        with contextlib.suppress(ImportError, AttributeError):
            return functools.reduce(getattr, name.split("."), importlib.import_module(f"jax._src.{module}"))
    _missing.append(f"jax._src.{places[0].replace(':', '.')}")
    return None


Primitive: Any = _private("core:Primitive") or object
set_current_trace: Any = _private("core:set_current_trace")
_Effect: Any = _private("effects:Effect") or object
_trace_context: Any = _private("core:trace_ctx")
_eval_jaxpr: Any = _private("core:eval_jaxpr")
_JVPTrace: Any = _private("interpreters.ad:JVPTrace")
_LinearizeTrace: Any = _private("interpreters.ad:LinearizeTrace")
_BatchTrace: Any = _private("interpreters.batching:BatchTrace")
_JaxprTrace: Any = _private("interpreters.partial_eval:JaxprTrace")
_register_lowering: Any = _private("interpreters.mlir:register_lowering")
_wrap_init: Any = _private("linear_util:wrap_init")
_flatten: Any = _private("flattree:flatten", "tree_util:FlatTree.flatten")
_UNSPECIFIED: Any = _private("sharding_impls:UNSPECIFIED")
EAGER_JIT, FORWARD_MODE, TRANSPOSE = "pjit:_pjit_call_impl_python", "api:_jvp", "api:linear_transpose"
for _place in (EAGER_JIT, FORWARD_MODE, TRANSPOSE, "tree_util:tree_map"):
    _private(_place)

JIT: Any = _private("pjit:jit_p")
SCAN: Any = _private("lax.control_flow.loops:scan_p")
WHILE: Any = _private("lax.control_flow.loops:while_p")
COND: Any = _private("lax.control_flow.conditionals:cond_p")
CHECKPOINT: Any = _private("ad_checkpoint:remat_p")
CUSTOM_JVP: Any = _private("custom_derivatives:custom_jvp_call_p")
CUSTOM_VJP: Any = _private("custom_derivatives:custom_vjp_call_p")
LINEAR_SOLVE: Any = _private("lax.control_flow.solves:linear_solve_p")
SHARD_MAP: Any = _private("shard_map:shard_map_p")
TREE_UTIL: list[Any] = [jax.tree_util, sys.modules.get("jax._src.tree_util", jax.tree_util)]
"""The modules that `jax.tree_util.tree_map` and `jax.tree.map` take their function from."""
CALLBACKS: list[Any] = [
    _private("callback:pure_callback_p"),
    _private("callback:io_callback_p"),
    _private("debugging:debug_callback_p"),
]


class _Sow(_Effect):
    """The effect of a sow: JAX drops an equation that has neither results nor effects."""

    def __str__(self) -> str:
        return "Sow"


_EFFECT = _Sow()
_PREFIXES = "lowerable control_flow_allowed remat_allowed custom_derivatives_allowed partial_eval_kept"
for _prefix in _PREFIXES.split():
    _effects = _private(f"effects:{_prefix}_effects")
    if _effects is not None:
        _effects.add_type(_Sow)

if hasattr(jax, "make_user_context"):
    _is_collecting: Any = jax.make_user_context(default_value=False)
    # JAX traces functions apart for other watches, and for other names of numbers that cadences read.
    traced_for: Any = jax.make_user_context(default_value=())
    traced_with: Any = jax.make_user_context(default_value=())
else:
    traced_for = traced_with = contextlib.nullcontext
    _missing.append("jax.make_user_context")


@functools.cache
def check() -> None:
    """Raise RuntimeError if this JAX lacks an internal that sows need; the message names it."""
    if _missing:
        raise RuntimeError(
            f"sowlog carries sown values through transforms by internals, and jax {jax.__version__} has no "
            f"{', '.join(_missing)}. Install the jax that this sowlog was released with, or a newer sowlog."
        )


def cache_key(*, collects: bool, names: bool = False) -> contextlib.AbstractContextManager[None]:
    """Return a context whose traces JAX caches apart: those of another one have no sows, or no names."""
    return _is_collecting((collects, "names") if names else collects)


def set_rules(primitive: Any, refuse: Callable[..., Any], result: Callable[..., Any] | None = None) -> None:
    """Set the effect of a sow, and the type of a result, if any; `refuse` raises where it is run."""
    if _missing:
        return
    primitive.multiple_results = result is None
    primitive.def_impl(refuse)
    primitive.def_effectful_abstract_eval(lambda *_, **p: ([] if result is None else result(**p), {_EFFECT}))
    _register_lowering(primitive, lambda _, *args, **params: refuse(*args, **params))


def holds_sows(jaxpr: Any) -> bool:
    """Return whether a jaxpr, or an equation, sows."""
    return bool(jaxpr.effects) and any(isinstance(effect, _Sow) for effect in jaxpr.effects)


def equations(jaxpr: Any) -> Sequence[Any]:
    """Return the equations of a jaxpr, closed or not."""
    return getattr(jaxpr, "jaxpr", jaxpr).eqns


def evaluate(jaxpr: Any, *args: Any) -> list[Any]:
    """Evaluate a jaxpr, closed or not: the parameters of transforms hold both."""
    return _eval_jaxpr(getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ()), *args)


def is_complete() -> bool:
    """Return whether this JAX has all the internals."""
    return not _missing


def current_traces(trace: Any = None) -> Iterator[Any]:
    """Return a trace, or the one that runs, and those around it, whose values are its constants."""
    trace = trace or (_trace_context.trace if is_complete() else None)
    while trace is not None:
        yield trace
        trace = getattr(trace, "parent_trace", None)


def level(trace: Any = None) -> Any:
    """Return the nearest trace that neither differentiates nor maps: a sow passes through those that do."""
    passing = (_JVPTrace, _LinearizeTrace, _BatchTrace, _JaxprTrace)
    return next((trace for trace in current_traces(trace) if not isinstance(trace, passing)), None)


def gradient() -> Any:
    """Return the nearest trace that differentiates at the level of the caller, or None."""
    traces, own = current_traces(), level()
    return next((t for t in traces if t is own or isinstance(t, (_JVPTrace, _LinearizeTrace))), own)


def evaluated(trace: Any, values: Sequence[Any]) -> tuple[Any, list[Any] | None] | None:
    """Return the trace below one that differentiates, and the primal values there; None for another trace.

    There are no values if they depend on a tangent, which only the backward pass computes.
    """
    if isinstance(trace, (_JVPTrace, _LinearizeTrace)):
        return trace.parent_trace, [trace.to_primal_tangent_pair(value)[0] for value in values]
    if not isinstance(trace, _JaxprTrace):
        return None
    partial = [trace.to_jaxpr_tracer(value).pval for value in values]
    known = all(value.is_known() for value in partial)
    return trace.parent_trace, [value.get_known() for value in partial] if known else None


def undifferentiated(tree: Any) -> tuple[Any, Any]:
    """Return the trace below those that differentiate now, and a tree with the primal values there."""
    trace = _trace_context.trace
    leaves, structure = jax.tree.flatten(tree)
    while isinstance(trace, (_JVPTrace, _LinearizeTrace)):
        tracers = [isinstance(leaf, jax.core.Tracer) for leaf in leaves]
        leaves = [
            trace.to_primal_tangent_pair(leaf)[0] if is_tracer else leaf
            for leaf, is_tracer in zip(leaves, tracers, strict=True)
        ]
        trace = trace.parent_trace
    return trace, structure.unflatten(leaves)


def mapped(trace: Any, values: Sequence[Any]) -> tuple[Any, int, list[tuple[Any, int | None]]] | None:
    """Return the trace below a vmap, its size, and values with their mapped axes; None for another trace."""
    if not isinstance(trace, _BatchTrace):
        return None
    return trace.parent_trace, trace.axis_data.size, [trace.to_batch_info(value) for value in values]


def jit_params(params: dict[str, Any], jaxpr: Any, first: int, more: int) -> dict[str, Any]:
    """Return the parameters of a jit with another jaxpr: more operands come first, more results last."""
    of_operands = {"donated_invars": False, "in_shardings": _UNSPECIFIED, "in_layouts": None}
    return {
        **params,
        "jaxpr": jaxpr,
        **{name: (*[value] * first, *params[name]) for name, value in of_operands.items()},
        "out_shardings": (*params["out_shardings"], *[_UNSPECIFIED] * more),
        "out_layouts": (*params["out_layouts"], *[None] * more),
    }


def split_scan(args: Sequence[Any], params: dict[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the constants, the start of the carry, and the scanned arrays of a scan."""
    if "ft_in" in params:
        consts, carry = (len(list(part)) for part in params["ft_in"].unpack()[:2])
    else:
        consts, carry = params["num_consts"], params["num_carry"]
    return list(args[:consts]), list(args[consts : consts + carry]), list(args[consts + carry :])


def checkpoint_settings(params: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint as `jax.checkpoint` takes them."""
    prevent = params["prevent_cse"]
    prevent = any(prevent) if isinstance(prevent, tuple) else prevent
    return {"prevent_cse": prevent, "policy": params["policy"]}


def custom_function(params: dict[str, Any]) -> Callable[..., Any]:
    """Return the function of a custom derivative, to be traced on its own."""
    function = params["subfuns"][0]

    def run(*args: Any) -> Any:
        try:
            return function.call_wrapped(*args)
        finally:
            _empty_stores(function)

    return run


def _empty_stores(function: Any) -> None:
    """Let a function run again: JAX expects one run, and reads the structure of its results from stores."""
    for store in function.stores:
        if store is not None:
            store.reset()


def is_of_jax(params: dict[str, Any]) -> bool:
    """Return whether a custom derivative is JAX's own, such as that of jax.nn.relu: it sows nothing."""
    return (params["subfuns"][0].debug_info.func_filename or "").startswith(_SOURCES)


_SOURCES = tuple(str(Path(jax.__file__).parent / "_src" / folder) for folder in ("nn", "numpy", "scipy"))


def within(params: dict[str, Any], *contexts: Context) -> dict[str, Any]:
    """Return the parameters of a custom derivative whose functions and rules run in contexts."""

    def wrapped(context: Context, function: Any) -> Any:
        def run(*args: Any) -> Any:
            _empty_stores(function)
            with context():
                return function.call_wrapped(*args)

        return _wrap_init(run, debug_info=function.debug_info)

    # That of a custom_jvp has no backward rule.
    return {**params, "subfuns": tuple(map(wrapped, contexts, params["subfuns"]))}


def manual_axes(params: dict[str, Any]) -> frozenset[Any] | None:
    """Return the mesh axes that a shard_map maps over; None if it checks what varies over them."""
    if params["check_vma"]:
        return None
    return frozenset(params["newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"])


def with_more_results(
    params: dict[str, Any], run: Callable[[Callable[[], Any]], tuple[Any, list[Any]]]
) -> dict[str, Any]:
    """Return the parameters of a shard_map whose function has some more results, equal on all devices.

    `run` calls its argument, the function on one shard, and returns its results and the further ones. Without
    these the results stay as they are: JAX hides data in those of a function that it has mapped.
    """
    (function,) = params["subfuns"]

    def with_more(*args: Any) -> Any:
        results, more = run(lambda: function(*args))
        if not more:
            return results
        values, specs = results.unpack_aux()
        tree = _flatten((values.unflatten(), more))
        return tree.with_aux((*specs, *[jax.sharding.PartitionSpec()] * len(more)))

    return {**params, "subfuns": (with_more,)}
