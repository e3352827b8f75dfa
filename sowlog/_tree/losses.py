"""Auxiliary losses: the logged value equals the trained value.

A loss is *summed* over the calls and layers of one forward pass and *averaged* over passes (microbatches,
replicas, steps). So its state counts passes and accumulates in two ways: `add_in_pass` within a pass, and the
merge of states between passes. The reducer says whether a stacked axis is one of layers, as Flax's own
collections have them, or of passes under jax.vmap: `collect` ends a pass, and replaces LOSS_IN_PASS by LOSS.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeGuard, final

import jax
import jax.numpy as jnp

from sowlog._reduce import compensated, values
from sowlog._reduce.compensated import Pair
from sowlog._reduce.limbs import of_limbs, total_limbs
from sowlog._reduce.reducer import Exchange, Reducer
from sowlog._reduce.state import Parts, State, check_intact
from sowlog._tree.globs import check_globs, matches
from sowlog._tree.tags import is_state, leaves_by_tag

COLLECTION = "losses"
"""The variable collection that `sow_loss` writes to and `total_loss` reads."""


@final
@dataclasses.dataclass(frozen=True, repr=False)
class Loss(Reducer):
    """The mean over passes of a loss, and of weight * loss: the part that entered the objective.

    Attributes:
        in_pass: whether the pass has not ended, so that a stacked axis is one of layers, not of passes.
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
    """Return the state of a loss from one call.

    Args:
        value: a real scalar.
        weight: a real scalar, traced or not; 0 logs the loss and keeps it out of the objective.

    Raises:
        TypeError: `value` or `weight` is complex or not a number.
        ValueError: `value` or `weight` is not a scalar.
    """
    named = {"loss": value, "weight of a loss": weight}
    scalars = {name: values.real_array(scalar, name) for name, scalar in named.items()}
    for name, array in scalars.items():
        if array.shape:
            raise ValueError(
                f"a {name} must be a scalar, got shape {array.shape}: reduce it where it is computed, "
                "for example `value.mean()`, so that the model defines the trained number."
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


def in_one_pass(state: State) -> State:
    """Return a loss as of one pass, also if no branch that was taken sowed it: it adds 0 to the objective."""
    hi, lo = state.parts["passes"]
    passes = Pair(jnp.ones_like(hi), jnp.zeros_like(lo))
    return dataclasses.replace(state, parts={**state.parts, "passes": passes})


def mean_of_replicas(state: State) -> State:
    """Return a loss that replicas have added up within a pass, one on each, as their mean."""
    passes = jnp.maximum(state.parts["passes"].value, 1.0)
    value, weighted = (state.parts[name].value / passes for name in ("value", "weighted"))
    parts = LOSS_IN_PASS.from_value(value, None)
    return State({**parts, "weighted": compensated.pair_of(weighted)}, state.seen, LOSS_IN_PASS)


def finish_pass(losses: Any) -> Any:
    """Return the losses of a finished pass, each counted as one pass.

    A pass counts for a loss in a branch that was not taken, too: the loss adds 0 to that pass's objective.
    """
    return jax.tree.map(_finish_pass, losses, is_leaf=is_state)


def total_loss(updates: Mapping[str, Any], *, expect: str | Iterable[str] | None = None) -> jax.Array:
    """Return the sum of weight * value over the losses that a forward pass sowed.

    Add it to the differentiated loss: its gradient is the gradient of that sum. Passes stacked by `jax.vmap`
    or a scan are averaged, as merged passes are.

    Args:
        updates: the updates from `sowlog.collect`, with the losses under "losses".
        expect: names or globs of losses that the pass must sow, matched against the whole tag
            ("blocks/*/load_balance", "blocks/**") or its last part ("load_balance").

    Returns:
        A float32 scalar; 0 if no loss was sown and none is expected.

    Raises:
        LookupError: An expected loss was not sown, or `updates` does not come from `sowlog.collect`.
        TypeError: The collection holds a value that `sow_loss` did not write, or `expect` is no text.
        ValueError: A name has an empty part.

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
    _check_expected(list(losses), check_globs("expect of total_loss", () if expect is None else expect))
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
    return dataclasses.replace(state, parts={**state.parts, "passes": compensated.count(1)}, reducer=LOSS)


def _check_losses(losses: dict[str, Any]) -> None:
    for tag, leaf in losses.items():
        if not is_loss(leaf):
            raise TypeError(
                f'the collection "{COLLECTION}" holds {tag}, which `sow_loss` did not write: its weight in '
                f"the objective is unknown. Write sowlog.sow_loss(self, {tag.rsplit('/')[-1]!r}, value, "
                "weight=...)."
            )
        check_intact(leaf, tag)


def _check_expected(tags: list[str], expected: Iterable[str]) -> None:
    missing = [
        pattern
        for pattern in expected
        if not any(matches(pattern, tag) or matches(pattern, tag.rsplit("/", 1)[-1]) for tag in tags)
    ]
    if missing:
        raise LookupError(
            f"expected the losses {', '.join(missing)}, but this pass sowed {', '.join(tags) or 'none'}: "
            "a module that should sow them was not called, or only in an `apply` of its own inside of the "
            "model, whose losses are not those of this pass."
        )
