"""The rule of each transform, by which sown values leave it: it is bound anew, with states as results.

A rule meets a transform where the user's program binds it, before it is batched or differentiated: vmap and
grad see plain data flow. The jaxprs of a transform hold its own sows only, since the transforms inside were
bound before.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from sowlog._reduce import ambient
from sowlog._sow import cadence, internals, taps, wrapping
from sowlog._sow.collector import (
    collecting,
    emit_all,
    is_collecting,
    is_inside,
    on_host,
    once,
    silent,
    sows_of,
)
from sowlog._sow.derivatives import bind_custom_derivative, bind_linear_solve
from sowlog._sow.errors import LostMetricError
from sowlog._sow.internals import Bind
from sowlog._sow.jaxprs import handed_out, with_sown
from sowlog._sow.labels import Label, Sown
from sowlog._sow.paths import whole_path
from sowlog._tree import losses
from sowlog._tree.replicas import all_reduce
from sowlog._tree.tags import empty_like

_Params = dict[str, Any]


def _starts(sows: list[tuple[Label, Any]], transform: str) -> Sown:
    """Return the empty states of sows, for a loop that may run no step or a branch that is not taken."""
    for label, _ in sows:
        label.within(whole_path()).check_merges(transform)
    return {
        label: ambient.varying_like(empty_like(of_label[0]), of_label)
        for label, of_label in _by_label(sows).items()
    }


def _by_label(sows: list[tuple[Label, Any]]) -> dict[Label, list[Any]]:
    shapes: dict[Label, list[Any]] = {}
    for label, shape in sows:
        shapes.setdefault(label, []).append(shape)
    return shapes


def _joined(totals: Sown, sown: Sown) -> Sown:
    return {label: label.join(total, sown[label]) for label, total in totals.items()}


def _bind_jit(bind: Bind, args: Sequence[Any], params: _Params) -> Any:
    if not internals.holds_sows(params["jaxpr"]):
        return bind(*args, **params)
    outer = handed_out(params["jaxpr"], args)
    numbers = cadence.given_to(outer.names).values()
    results = bind(*numbers, *args, **internals.jit_params(params, outer.jaxpr, len(outer.names), outer.more))
    own = len(results) - outer.more
    emit_all(outer.structure.unflatten(results[own:]))
    return list(results[:own])


def _bind_scan(bind: Bind, args: Sequence[Any], params: _Params) -> Any:
    if not internals.holds_sows(params["jaxpr"]):
        return bind(*args, **params)
    run, (consts, start, arrays) = with_sown(params["jaxpr"]), internals.split_scan(args, params)
    starts = _starts([sow for sow in sows_of(params["jaxpr"]) if not sow[0].stacks], "jax.lax.scan")

    def body(carry: tuple[list[Any], Sown], elements: list[Any]) -> tuple[Any, Any]:
        values, totals = carry
        results, sown = run(*consts, *values, *elements)
        stacked = {label: state for label, state in sown.items() if label.stacks}
        return (results[: len(start)], _joined(totals, sown)), (results[len(start) :], stacked)

    settings = {name: params[name] for name in ("length", "reverse", "unroll")}
    (carry, totals), (results, stacked) = jax.lax.scan(body, (start, starts), arrays, **settings)
    emit_all(totals, dict(label.unstacked(state) for label, state in stacked.items()), is_loop=True)
    return [*carry, *results]


def _bind_while(bind: Bind, args: Sequence[Any], params: _Params) -> Any:
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]
    for label, _ in sows_of(condition):
        tag = label.within(whole_path())
        raise LostMetricError(
            f"{tag} is sown in the cond_fn of a jax.lax.while_loop, which hands back nothing: sow it in "
            "body_fn, or after the loop."
        )
    if not internals.holds_sows(body):
        return bind(*args, **params)
    for label, _ in sows_of(body):
        if label.stacks:
            tag = label.within(whole_path())
            raise LostMetricError(
                f"{tag} is stacked inside a jax.lax.while_loop, whose number of steps is unknown. Use "
                "jax.lax.scan, or sow it outside of sowlog.stacked."
            )
    starts = _starts(sows_of(body), "jax.lax.while_loop")
    of_condition = args[: params["cond_nconsts"]]
    of_body = args[len(of_condition) : len(of_condition) + params["body_nconsts"]]
    start = list(args[len(of_condition) + len(of_body) :])
    run = with_sown(body)

    def step(carry: tuple[list[Any], Sown]) -> tuple[list[Any], Sown]:
        results, sown = run(*of_body, *carry[0])
        return results, _joined(carry[1], sown)

    def goes_on(carry: tuple[list[Any], Sown]) -> Any:
        return internals.evaluate(condition, *of_condition, *carry[0])[0]

    results, totals = jax.lax.while_loop(goes_on, step, (start, starts))
    emit_all(totals)
    return results


def _bind_cond(bind: Bind, args: Sequence[Any], params: _Params) -> Any:
    branches = params["branches"]
    if not any(map(internals.holds_sows, branches)):
        return bind(*args, **params)
    sows = [sows_of(branch) for branch in branches]
    in_all = set.intersection(*({label for label, _ in of_branch} for of_branch in sows))
    in_some = [sow for of_branch in sows for sow in of_branch if sow[0] not in in_all]
    starts = _starts(in_some, "one branch of a cond or switch")
    shapes = _by_label([sow for of_branch in sows for sow in of_branch])

    def with_all(branch: Any) -> Callable[..., tuple[list[Any], Sown]]:
        run_branch = with_sown(branch)

        def run(*args: Any) -> tuple[list[Any], Sown]:
            results, sown = run_branch(*args)
            # All branches must vary over the same axes of a shard_map.
            sown = {label: ambient.varying_like(state, shapes[label]) for label, state in sown.items()}
            return results, {**starts, **sown}

        return run

    results, sown = jax.lax.switch(args[0], [with_all(branch) for branch in branches], *args[1:])
    emit_all(sown)
    return results


def _bind_checkpoint(bind: Bind, args: Sequence[Any], params: _Params) -> Any:
    if not internals.holds_sows(params["jaxpr"]):
        return bind(*args, **params)
    # Raise where a transform without a rule sows: an evaluation would only bind it again.
    sows_of(params["jaxpr"])
    run = jax.checkpoint(with_sown(params["jaxpr"]), **internals.checkpoint_settings(params))
    results, sown = run(*args)
    emit_all(sown)
    return results


def _bind_shard_map(bind: Bind, args: Sequence[Any], params: _Params) -> Any:
    is_sowing, within_place, numbers = is_collecting(), taps.placing(), cadence.all_given()
    structures: list[Any] = []

    def run(function: Callable[[], Any]) -> tuple[Any, list[Any]]:
        if not is_sowing:
            # In silence a collect inside may read the numbers.
            with cadence.given(numbers):
                return function(), []
        with collecting() as collector, within_place(), cadence.given(numbers):
            results = function()
        leaves, structure = jax.tree.flatten(_of_all_devices(collector.sown, internals.manual_axes(params)))
        structures.append(structure)
        return results, leaves

    results = bind(*args, **internals.with_more_results(params, run))
    if not structures or not structures[-1].num_leaves:
        return results
    own, leaves = results.unpack()
    emit_all(structures[-1].unflatten(list(leaves)))
    return own


@dataclasses.dataclass(frozen=True)
class _OnHost:
    """A host callback in which sows are refused; equal for equal callbacks, as in the keys of caches."""

    callback: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        with on_host():
            return self.callback(*args)


def _bind_callback(bind: Bind, args: Sequence[Any], params: _Params) -> Any:
    return bind(*args, **{**params, "callback": _OnHost(params["callback"])})


def _of_all_devices(sown: Sown, axes: frozenset[Any] | None) -> Sown:
    """Merge the states of devices; a value that is known to be equal on all of an axis counts once.

    Args:
        sown: the states of one device.
        axes: the axes, if JAX does not know what varies over them; None if it does.
    """
    groups: dict[tuple[Any, ...], Sown] = {}
    for label, state in sown.items():
        label.within(whole_path()).check_merges("jax.shard_map")
        varying = axes or frozenset[Any]().union(*map(ambient.varying_axes, jax.tree.leaves(state)))
        group = tuple(sorted(varying, key=str))
        own = losses.in_one_pass(state) if label.is_loss else state
        groups.setdefault(group, {})[label] = ambient.varying_like(own, state)
    reduced: Sown = {}
    for group, states in groups.items():
        reduced |= all_reduce(states, group) if group else states
    return {
        label: losses.mean_of_replicas(reduced[label]) if label.is_loss else reduced[label] for label in sown
    }


_RULES: list[tuple[Any, internals.Rule]] = [
    (internals.JIT, _bind_jit),
    (internals.SCAN, _bind_scan),
    (internals.WHILE, _bind_while),
    (internals.COND, _bind_cond),
    (internals.CHECKPOINT, _bind_checkpoint),
    (internals.CUSTOM_JVP, bind_custom_derivative),
    (internals.CUSTOM_VJP, bind_custom_derivative),
    (internals.LINEAR_SOLVE, bind_linear_solve),
    (internals.SHARD_MAP, _bind_shard_map),
    *((primitive, _bind_callback) for primitive in internals.CALLBACKS),
]


def install() -> None:
    """Let JAX bind the transforms by these rules, while a `collect` runs.

    In silence, too, since a `collect` inside of it may read the numbers of a cadence.
    """
    for primitive, rule in _RULES:
        is_derivative = rule is bind_custom_derivative
        wrapping.wrap(primitive, is_inside, rule if is_derivative else taps.placing_once(primitive, rule))
    wrapping.wrap_eager_jit(is_inside)
    wrapping.wrap_forward_mode(is_collecting, once)
    wrapping.wrap_linear_transpose(is_collecting, silent)
