"""Observers: transformations of an optimizer that record statistics of the updates that pass them."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sowlog._reduce import ambient
from sowlog._reduce.basic import mean
from sowlog._reduce.notes import Note, Source
from sowlog._reduce.reducer import Reducer
from sowlog._reduce.state import State
from sowlog._sow import foreign
from sowlog._sow.scopes import parts_of
from sowlog._sow.update_statistics import NORM, RATIO, Layout, Recorded, Statistics
from sowlog._sow.watches import UPDATES
from sowlog._sow.watching import watch_updates
from sowlog._tree.globs import check_globs
from sowlog._tree.tags import is_state, join

_CLIP_FRACTION = "clip_fraction"
# Norms of equal updates may differ by rounding: another fusion sums in another order.
_LOWERED = 1 - 1e-5


@final
@flax.struct.dataclass
class ObserverState:
    """The part of an optimizer's state that an observer keeps.

    Attributes:
        passed: the number of updates that have passed, int32.
        recorded: the states of the last update.
        layout: the modules of the rows of states (static).
        name: the observer's name (static).
        before: the name of the observer to compare with, or None (static).
    """

    passed: jax.Array
    recorded: Recorded
    layout: Layout = flax.struct.field(pytree_node=False)
    name: str = flax.struct.field(pytree_node=False)
    before: str | None = flax.struct.field(pytree_node=False)


def observe(
    name: str,
    reducers: Mapping[str, Reducer] | None = None,
    *,
    depth: int | None = None,
    stacked: str | Sequence[str] = (),
    ratio: bool = False,
    before: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Record statistics of the gradients or updates that pass a place in an `optax.chain`.

    The updates pass unchanged. The optimizer's state holds the statistics of the last update, which
    `observed` returns: the global norm, `<name>/norm`, and that of each module, `<name>/<module path>/norm`.
    The path of a module is that of an array without its last name; an array at the root is a module of its
    own. Norms are in float32, without overflow. Integers, keys, None, masked leaves and arrays without
    elements are left out, and complex numbers enter by their magnitudes.

    Under jit the norm of sharded arrays is that of the whole. Inside of a `shard_map` or `pmap` it is that of
    the arrays of one device: gradients there must be equal on all, as after a pmean.

    Args:
        name: the first part of the tags.
        reducers: further statistics of the elements, by name: `{"histogram": sowlog.histogram}`.
        depth: the number of names of a module's path: 1 joins the modules inside of the outermost ones, 0
            leaves the global statistics only. None keeps all modules.
        stacked: globs of the paths of arrays whose first axis is that of layers, as of parameters under a
            scan: "decoder/blocks/**". Each layer has its own statistics, its index at the end of the tag.
        ratio: whether to record the norm of the updates relative to that of their parameters, `ratio`,
            globally and by module. It is absent where the parameters are all 0.
        before: the name of an earlier observer. `<name>/clip_fraction` is then 1 if the transformations
            between the two, such as a clipping, have lowered the global norm, else 0; merged over steps it
            is the fraction of these.

    Raises:
        TypeError: A name or a glob is no string, or a reducer is none.
        ValueError: A name or a glob has an empty part, or a name is taken; or (in `init`) a glob matches
            nothing or arrays whose layers differ; or (in `update`) the updates have other modules than the
            parameters that `init` was given, or `ratio` has no parameters.

    Example:
        >>> import jax.numpy as jnp, optax, sowlog
        >>> optimizer = optax.chain(
        ...     sowlog.observe("grads"),
        ...     optax.clip_by_global_norm(1.0),
        ...     sowlog.observe("clipped", before="grads", depth=0),
        ...     optax.sgd(0.1),
        ...     sowlog.observe("updates", ratio=True, depth=0),
        ... )
        >>> params = {"dense": {"kernel": jnp.array([3.0, 4.0])}}
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> results = sowlog.compute(sowlog.observed(state))
        >>> for tag, result in sorted(results.items()):
        ...     print(f"{tag} {result:.2f}")
        clipped/clip_fraction 1.00
        clipped/norm 1.00
        grads/dense/norm 5.00
        grads/norm 5.00
        updates/norm 0.10
        updates/ratio 0.02
    """
    parts_of(name, "gradient observer")
    globs = check_globs(f"stacked of observe({name!r})", stacked)
    statistics = Statistics(name, _checked(name, reducers or {}), depth, globs, ratio)

    # Typed as optax types a state, by which it means any tree.
    def init(params: Any) -> Any:
        layout = statistics.layout_of(params)
        return ObserverState(jnp.zeros((), jnp.int32), statistics.empty(layout), layout, name, before)

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, Any]:
        if name == UPDATES:
            watch_updates(updates, globs)
        recorded = statistics.of(state.layout, updates, params)
        return updates, state.replace(passed=state.passed + 1, recorded=recorded)

    return optax.GradientTransformationExtraArgs(init, update)


def _checked(name: str, reducers: Mapping[str, Reducer]) -> dict[str, Reducer]:
    for statistic, reducer in reducers.items():
        parts_of(statistic, "statistic")
        if statistic in (NORM, RATIO, _CLIP_FRACTION):
            raise ValueError(f"observe({name!r}) records {statistic} itself: name the reducer otherwise.")
        if not isinstance(reducer, Reducer):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise TypeError(f"observe({name!r}): {statistic} is {reducer!r}, no sowlog reducer.")
    return dict(reducers)


def observed(optimizer_state: Any, *, previous: Any = None) -> dict[str, Any]:
    """Return the statistics that all observers in an optimizer's state recorded in the last update.

    They are a tree of states for `pack`, `merge` and `compute`, of one structure from `init` on, where
    nothing is sown yet. Between the steps of an `optax.MultiSteps` its observers have no new value, and their
    statistics are absent. Other wrappers that may leave their inner state as it was (`optax.apply_if_finite`,
    `optax.conditionally_transform`) do not record when: `previous` compares.

    Args:
        optimizer_state: the state of an optimizer, or a tree that holds it, such as a TrainState.
        previous: the same before the update: an observer that no update has passed since is then absent.

    Returns:
        The states by the observer's name, and by tag.

    Raises:
        ValueError: Two observers have one name, or none has the name that one is compared with.

    Example:
        >>> import jax.numpy as jnp, optax, sowlog
        >>> optimizer = optax.chain(sowlog.observe("grads"), optax.adam(1e-3))
        >>> params = {"dense": {"kernel": jnp.array([3.0, 4.0])}}
        >>> state = optimizer.init(params)
        >>> sowlog.compute(sowlog.observed(state))
        {}
        >>> updates, state = optimizer.update(params, state, params)
        >>> sowlog.compute(sowlog.observed(state))
        {'grads/dense/norm': np.float32(5.0), 'grads/norm': np.float32(5.0)}
    """
    found = _by_name(optimizer_state)
    earlier = {} if previous is None else _by_name(previous)
    tree: dict[str, dict[str, State]] = {}
    for name, (_, state, is_new) in found.items():
        has_passed = is_new & (state.passed != earlier[name][1].passed) if name in earlier else is_new
        tree[name] = _by_tag(_only_where(has_passed, state.recorded), state.layout, state.passed.ndim)
    for name, (_, state, _) in found.items():
        if state.before is None:
            continue
        if state.before not in tree:
            raise ValueError(
                f"observe({name!r}, before={state.before!r}) is compared with an observer that the "
                f"optimizer's state has not; it has {', '.join(found)}."
            )
        tree[name][_CLIP_FRACTION] = _lowered(tree[state.before][NORM], tree[name][NORM])
    return {name: _noted(name, states) for name, states in tree.items()}


_DOCS = {
    NORM: "Global norm of {}.",
    RATIO: "Norm of {} relative to that of the parameters. Ideal: about 1e-3.",
    _CLIP_FRACTION: "Fraction of steps in which the transformations before lowered the norm of {}.",
}


def _noted(name: str, states: dict[str, State]) -> dict[str, State]:
    """Return the states of an observer with notes."""
    return {tag: state.under(_note_of(name, tag).now()) for tag, state in states.items()}


def _note_of(name: str, tag: str) -> Note:
    module, _, statistic = tag.rpartition("/")
    doc = _DOCS.get(statistic, f"Statistic {statistic} of {{}}.")
    source = Source(
        doc.format(f"{name} of {module}" if module else name),
        tag=join(name, tag),
        phase="update" if name == UPDATES else "gradient",
    )
    return Note(source)


_Found = tuple[str, ObserverState, jax.Array]
"""The place of an observer, its state, and whether the last update passed it, a bool array."""


def _by_name(tree: Any) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for observer in _observers(tree, "", jnp.ones((), jnp.bool_)):
        place, state, _ = observer
        if state.name in found:
            raise ValueError(
                f"two observers have the name {state.name!r}, at {found[state.name][0]} and {place} of the "
                "optimizer's state: rename one."
            )
        found[state.name] = observer
    return found


def _observers(tree: Any, place: str, is_new: jax.Array) -> Iterator[_Found]:
    """Yield the observers of a tree; behind a MultiSteps the update is that of its last whole step."""
    for path, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_own)[0]:
        inside = place + jax.tree_util.keystr(path)
        if isinstance(node, ObserverState):
            yield inside, foreign.without_variables(node), is_new
        elif isinstance(node, optax.MultiStepsState):
            whole = is_new & _is_whole(foreign.without_variables(node))
            yield from _observers(node.inner_opt_state, f"{inside}.inner_opt_state", whole)


def _is_own(node: Any) -> bool:
    return isinstance(node, ObserverState | optax.MultiStepsState)


def _is_whole(state: optax.MultiStepsState) -> Any:
    """Return whether the last microbatch ended a step, and was not skipped by a function of optax."""
    skips: Any = state.skip_state
    is_skipped = skips["should_skip"] if isinstance(skips, dict) and "should_skip" in skips else False
    return (jnp.asarray(state.mini_step) == 0) & ~jnp.asarray(is_skipped)


def _only_where(flag: jax.Array, recorded: Recorded) -> Recorded:
    """Return states that are empty where a flag is False; they may have further axes than the flag."""

    def select(state: State) -> State:
        fitted = flag.reshape(flag.shape + (1,) * (state.seen.ndim - flag.ndim))
        return dataclasses.replace(state, seen=state.seen & fitted)

    return jax.tree.map(select, recorded, is_leaf=is_state)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _by_tag(recorded: Recorded, layout: Layout, axis: int) -> dict[str, State]:
    """Return the states of all modules by path and statistic; `axis` is that of the rows.

    An array at the root of a bare tree, of the path "", has the global statistics alone.
    """
    states = dict(recorded.over_all)
    row = 0
    for path, layers in layout:
        for statistic, rows in recorded.by_module.items() if path else ():
            if layers is None:
                take = functools.partial(jax.lax.index_in_dim, index=row, axis=axis, keepdims=False)
            else:
                take = functools.partial(
                    jax.lax.slice_in_dim, start_index=row, limit_index=row + layers, axis=axis
                )
            states[join(path, statistic)] = jax.tree.map(take, rows)
        row += 1 if layers is None else layers
    return states


def _lowered(before: State, after: State) -> State:
    """Return the fraction of updates whose norm is lower than before: 0 or 1 of a single one."""
    norms = before.compute(), after.compute()
    lowered = norms[1] < _LOWERED * norms[0]
    fraction: Any = mean.of
    for _ in range(after.seen.ndim):
        fraction = jax.vmap(fraction)
    return ambient.isolated(fraction, lowered, before.seen & after.seen)
