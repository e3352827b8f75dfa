"""Auxiliary losses: what is logged is what was trained on.

A loss is *summed* over the calls and layers of one forward pass and *averaged* over passes (microbatches,
replicas, steps). So its state counts passes, and has two ways to grow: `add_in_pass` within a pass, and the
merge of all states between passes. Which of them a stacked axis stands for (layers, or passes under jax.vmap)
is said by the reducer: `collect` ends a pass, and turns LOSS_IN_PASS into LOSS.
"""

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeGuard, final

import jax
import jax.numpy as jnp

from sowlog._reduce import compensated, values
from sowlog._reduce.compensated import Pair
from sowlog._reduce.limbs import of_limbs, total_limbs
from sowlog._reduce.reducer import Exchange, Reducer
from sowlog._reduce.state import Parts, State, check_intact
from sowlog._tree.tags import is_state, leaves_by_tag

COLLECTION = "losses"
"""The variable collection that `sow_loss` writes to and `total_loss` reads."""


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Loss(Reducer):
    """The mean over passes of a loss, and of weight * loss: the part that entered the objective.

    Attributes:
        in_pass: whether the pass goes on, so that a stacked axis is one of layers, not of passes.
    """

    in_pass: bool = False
    counts_unseen: ClassVar[bool] = True

    def empty(self) -> Parts:
        return {name: compensated.zero_pair() for name in ("value", "weighted", "passes")}

    def from_value(self, value: jax.Array, weight: jax.Array | None) -> Parts:
        weighted = value if weight is None else value * weight
        return {
            "value": compensated.pair_of(value),
            "weighted": compensated.pair_of(weighted),
            "passes": compensated.count(1),
        }

    def merge(self, a: dict[str, Pair], b: dict[str, Pair]) -> Parts:
        return {name: compensated.add(a[name], b[name]) for name in a}

    def exchange(self, parts: dict[str, Pair], seen: jax.Array, replica: jax.Array) -> Exchange:
        limbs = yield {name: total_limbs(pair) for name, pair in parts.items()}
        yield ()
        yield ()
        return {name: of_limbs(limbs[name]) for name in parts}

    def compute(self, parts: dict[str, Pair]) -> dict[str, jax.Array]:
        passes = parts["passes"].value
        return {"": parts["value"].value / passes, "weighted": parts["weighted"].value / passes}


LOSS = Loss()
LOSS_IN_PASS = Loss(in_pass=True)


def loss_state(value: Any, weight: Any) -> State:
    """Return the state of a loss that one call computed.

    Args:
        value: a real scalar.
        weight: a real scalar, traced or not; 0 keeps the loss visible and out of the objective.

    Raises:
        TypeError: `value` or `weight` is complex or no number.
        ValueError: `value` or `weight` is not a scalar.
    """
    scalars = {"loss": value, "weight of a loss": weight}
    scalars = {what: values.real_array(scalar, what) for what, scalar in scalars.items()}
    for what, array in scalars.items():
        if array.shape:
            raise ValueError(
                f"a {what} must be a scalar, got shape {array.shape}: reduce it where it is computed, "
                "for example `value.mean()`, so that what is trained on is written in the model."
            )
    value, weight = (array.astype(jnp.float32) for array in scalars.values())
    return State(LOSS_IN_PASS.from_value(value, weight), jnp.ones((), jnp.bool_), LOSS_IN_PASS)


def is_loss(leaf: Any) -> TypeGuard[State]:
    """Return whether a node of a tree is the state of a loss."""
    return is_state(leaf) and isinstance(leaf.reducer, Loss)


def add_in_pass(state: State, new: State) -> State:
    """Return the loss after one more call in the same forward pass."""
    merged = state.merge(new)
    a, b = state.parts["passes"], new.parts["passes"]
    passes = Pair(jnp.maximum(a.hi, b.hi), jnp.maximum(a.lo, b.lo))
    return dataclasses.replace(merged, parts={**merged.parts, "passes": passes})


def finish_pass(losses: Any) -> Any:
    """Return the losses as one pass leaves them: summed over stacked layers, and counted as one pass.

    A loss in a branch that was not taken counts too: its part of that pass's objective is 0.
    """
    return jax.tree.map(_finish_pass, losses, is_leaf=is_state)


def total_loss(updates: Mapping[str, Any], *, expect: str | Iterable[str] | None = None) -> jax.Array:
    """Return the sum of weight * value over the losses that a forward pass sowed.

    Add it to the loss that you differentiate: it has the gradient of that sum. Passes that `jax.vmap` or a
    scan stacked are averaged, as merged ones are.

    Args:
        updates: what `sowlog.collect` returned: the losses stand under "losses".
        expect: names (or globs) of losses that must be there, matched against the whole tag
            ("blocks/moe/load_balance") or its last part ("load_balance").

    Returns:
        A float32 scalar; 0 when no loss was sown and none was expected.

    Raises:
        LookupError: an expected loss was not sown, or `updates` does not come from `sowlog.collect`.
        TypeError: something other than `sow_loss` wrote to the collection.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, sowlog
        >>> class Block(nn.Module):
        ...     def __call__(self, x):
        ...         sowlog.sow_loss(self, "l2", jnp.sum(x**2), weight=0.5)
        ...         return x
        >>> y, updates = sowlog.collect(Block().apply)({}, jnp.array([1.0, 3.0]))
        >>> float(sowlog.total_loss(updates, expect="l2"))
        5.0
    """
    if COLLECTION not in updates:
        raise LookupError(
            f'no "{COLLECTION}" among {sorted(updates)}: pass the updates that '
            "`y, updates = sowlog.collect(model.apply)(variables, x)` returns."
        )
    losses = dict(leaves_by_tag(updates[COLLECTION]))
    _check_losses(losses)
    _check_expected(list(losses), [expect] if isinstance(expect, str) else list(expect or []))
    return objective_part(losses.values())


def objective_part(losses: Iterable[State]) -> jax.Array:
    """Return the sum of weight * value over losses: a float32 scalar, the mean over passes."""
    start = jnp.zeros((), jnp.float32)
    return sum((_objective_part(loss) for loss in losses), start=start)


def _objective_part(loss: State) -> jax.Array:
    weighted, passes = loss.parts["weighted"].value, loss.parts["passes"].value
    if loss.reducer == LOSS_IN_PASS:
        return jnp.sum(weighted / jnp.maximum(passes, 1.0))
    return jnp.sum(weighted) / jnp.maximum(jnp.sum(passes), 1.0)


def _finish_pass(state: Any) -> Any:
    if not is_loss(state):
        return state
    parts: dict[str, Pair] = {
        name: compensated.count(1) if name == "passes" else _sum_pair(pair)
        for name, pair in state.parts.items()
    }
    return State(parts, jnp.any(state.seen), LOSS)


def _sum_pair(pair: Pair) -> Pair:
    return Pair(jnp.sum(pair.hi), jnp.sum(pair.lo)) if pair.hi.ndim else pair


def _check_losses(losses: dict[str, Any]) -> None:
    for tag, leaf in losses.items():
        if not is_loss(leaf):
            raise TypeError(
                f'the collection "{COLLECTION}" holds {tag}, which `sow_loss` did not write: its weight in '
                f"the objective is unknown. Write sowlog.sow_loss(self, {tag.rsplit('/')[-1]!r}, value, "
                "weight=...)."
            )
        check_intact(leaf, tag)


def _check_expected(tags: list[str], expected: list[str]) -> None:
    missing = [
        pattern
        for pattern in expected
        if not any(
            fnmatch.fnmatchcase(tag, pattern) or fnmatch.fnmatchcase(tag.rsplit("/", 1)[-1], pattern)
            for tag in tags
        )
    ]
    if missing:
        raise LookupError(
            f"expected the losses {', '.join(missing)}, but this pass sowed {', '.join(tags) or 'none'}: "
            "a module that should sow them was not called, or a transform dropped the collection "
            f'"{COLLECTION}" (nn.scan and nn.vmap need it in variable_axes={{"{COLLECTION}": 0}}).'
        )
