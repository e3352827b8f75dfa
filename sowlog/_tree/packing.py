"""Packing: a tree of states becomes one buffer on the device and a static layout.

Fetching from a device costs by the array, not by the byte. So all results travel in one array of 32-bit
words, and the tag of each word is fixed while tracing. A compiled program contains no names: it identifies a
result by the position of its leaf, and the host assigns the tag.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from sowlog._reduce import ambient
from sowlog._reduce.distributions import HistogramValue
from sowlog._reduce.state import State
from sowlog._reduce.values import narrowed
from sowlog._tree import losses
from sowlog._tree.layout import (
    ABSENT,
    HISTOGRAM_SCALARS,
    Packed,
    is_packed,
)
from sowlog._tree.leaves import check_leaves
from sowlog._tree.naming import Plan, Slot, name_layout
from sowlog._tree.tags import flatten, index_tags, is_state, join

_NAN = np.uint32(0x7FC00000)
# The number of arrays that are joined at once: XLA computes so many in the loop that joins them, and of more
# each in a loop of its own, which takes 0.2 us at each step and 9 ms to compile.
_FAN_IN = 8

LossTrees = tuple[tuple[int, ...], ...]
"""The positions of the losses of each tree of losses, which have a total."""


def pack(tree: Any) -> Packed:
    """Compute every result of a tree of metrics into one buffer. Call it inside the jitted step.

    Args:
        tree: a nested dict of states (`updates["metrics"]`), scalars and small arrays. Losses
            under "losses" get a "losses/total" beside them. The path in the tree is the tag, so all of
            `updates` has "metrics/" or "losses/" in front. A packed tree in it keeps its results, under its
            place in the tree; None holds no metrics.

    Returns:
        A pytree with one array.

    Raises:
        ValueError: A metric has no name, two have one tag, or an array or stack of states has more than 1024
            elements.
        TypeError: A leaf is not a real number, array or state.

    Example:
        >>> import jax, sowlog
        >>> step = jax.jit(lambda x: sowlog.pack({"loss": sowlog.mean.of(x), "lr": 0.5}))
        >>> packed = step(2.0)
        >>> packed
        Packed(2 metrics: loss, lr)
        >>> sowlog.compute(packed)
        {'loss': np.float32(2.0), 'lr': np.float32(0.5)}
    """
    tags, leaves = flatten(tree)
    check_leaves(tags, leaves, "packed")
    roots, loss_trees = loss_trees_of(tags, leaves)
    unnamed = ambient.isolated(pack_leaves, leaves, loss_trees)
    return Packed(unnamed.buffer, name_layout(unnamed.plan, (*tags, *roots), leaves))


@final
@dataclasses.dataclass(frozen=True)
class _Segment:
    """A stretch of the buffer: one result of the states of one kind.

    Attributes:
        slots: one per scalar, or per histogram.
        values: float32, flat; the words themselves (uint32) of a packed tree.
        seen: bool, flat: whether each value is of a state that holds elements; None for a packed tree.
        sub_bins: the bins per power of two of histograms; None for scalars.
    """

    slots: list[Slot]
    values: jax.Array
    seen: jax.Array | None = None
    sub_bins: int | None = None


@final
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Unnamed:
    """A packed buffer and its plan (static)."""

    buffer: jax.Array
    plan: Plan = dataclasses.field(metadata={"static": True})


def pack_leaves(leaves: list[Any], loss_trees: LossTrees) -> Unnamed:
    """Return the results of checked leaves in one buffer, without their names."""
    segments = sorted(_segments(leaves, loss_trees), key=lambda s: (s.sub_bins is not None, s.seen is None))
    scalars = tuple(slot for segment in segments if segment.sub_bins is None for slot in segment.slots)
    histograms = tuple(
        (slot, segment.sub_bins)
        for segment in segments
        if segment.sub_bins is not None
        for slot in segment.slots
    )
    parts = [_words(list(group)) for _, group in itertools.groupby(segments, lambda s: s.seen is None)]
    buffer = concatenate(parts) if parts else jnp.zeros((0,), jnp.uint32)
    return Unnamed(buffer, Plan(scalars, histograms))


def _words(segments: list[_Segment]) -> jax.Array:
    """Return float32 values as words: one word for absence, and one for every other NaN."""
    values = concatenate([segment.values for segment in segments])
    if segments[0].seen is None:
        return values
    seen = concatenate([segment.seen for segment in segments if segment.seen is not None])
    words = jnp.where(jnp.isnan(values), _NAN, jax.lax.bitcast_convert_type(values, jnp.uint32))
    return jnp.where(seen, words, ABSENT)


def _segments(leaves: list[Any], loss_trees: LossTrees) -> Iterator[_Segment]:
    states: dict[Any, list[tuple[int, State]]] = defaultdict(list)
    arrays: dict[tuple[int, ...], list[tuple[int, jax.Array]]] = defaultdict(list)
    for index, leaf in enumerate(leaves):
        if is_state(leaf):
            states[_kind(leaf)].append((index, leaf))
        elif is_packed(leaf):
            yield from _packed_segments(index, leaf)
        else:
            array = jnp.asarray(narrowed(leaf))
            arrays[array.shape].append((index, array))
    for group in states.values():
        yield from _state_segments(group)
    for number, tree in enumerate(loss_trees):
        total = losses.objective_part(leaves[index] for index in tree)
        yield _present([(len(leaves) + number, "total")], total.reshape(1))
    for shape, group in arrays.items():
        slots = [slot for index, _ in group for slot in _slots(index, "", shape)]
        yield _present(slots, concatenate([array.ravel().astype(jnp.float32) for _, array in group]))


def _present(slots: list[Slot], values: jax.Array) -> _Segment:
    return _Segment(slots, values.astype(jnp.float32), jnp.ones(values.shape, jnp.bool))


def _slots(index: int, suffix: str, shape: tuple[int, ...]) -> list[Slot]:
    return [(index, name) for name in index_tags(suffix, shape)]


def _packed_segments(index: int, packed: Packed) -> Iterator[_Segment]:
    """Yield the words of a packed tree unchanged, absences included."""
    buffer = jnp.asarray(packed.buffer)
    start = len(packed.layout.scalars)
    yield _Segment([(index, tag) for tag in packed.layout.scalars], buffer[:start])
    for slot in packed.layout.histograms:
        words = buffer[start : start + slot.words]
        yield _Segment([(index, slot.tag)], words, sub_bins=slot.sub_bins)
        start += slot.words


def _kind(state: State) -> Any:
    """Return a key that is equal for states that can be computed as one array of states."""
    leaves, structure = jax.tree.flatten(dataclasses.replace(state, reducer=state.reducer(axis=None)))
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _state_segments(group: list[tuple[int, State]]) -> Iterator[_Segment]:
    """Yield a segment for each result name of states of one kind, computed in one vectorised pass."""
    first = group[0][1]
    batch = first.seen.shape
    stacked = _stack([dataclasses.replace(state, reducer=first.reducer) for _, state in group])
    seen = stacked.seen.ravel()
    for suffix, result in _named(stacked.compute()).items():
        slots = [slot for index, _ in group for slot in _slots(index, suffix, batch)]
        if isinstance(result, HistogramValue):
            yield from _histogram_segments(slots, seen, result)
        else:
            yield _Segment(slots, result.ravel().astype(jnp.float32), seen)


def _histogram_segments(slots: list[Slot], seen: jax.Array, value: HistogramValue) -> Iterator[_Segment]:
    """Yield the histograms of the slots, and their numbers of nonfinite elements."""
    rows = [array.reshape(len(slots), -1) for array in (value.counts, value.residues)]
    scalars = [getattr(value, name).reshape(len(slots), 1) for name in HISTOGRAM_SCALARS]
    values = jnp.concatenate([*rows, *scalars], axis=1).astype(jnp.float32)
    yield _Segment(slots, values.ravel(), jnp.repeat(seen, values.shape[1]), value.sub_bins)
    left_out = (value.nan + value.positive_inf + value.negative_inf).ravel().astype(jnp.float32)
    yield _Segment(
        [(index, join(name, "nonfinite")) for index, name in slots], left_out, seen & (left_out > 0)
    )


def loss_trees_of(tags: Sequence[str], leaves: Sequence[Any]) -> tuple[tuple[str, ...], LossTrees]:
    """Return the tag of each tree of losses, and the positions of its losses."""
    trees: dict[str, list[int]] = defaultdict(list)
    for index, leaf in enumerate(leaves):
        if losses.is_loss(leaf):
            parts = tags[index].split("/")
            if losses.COLLECTION in parts:
                trees["/".join(parts[: parts.index(losses.COLLECTION) + 1])].append(index)
    return tuple(trees), tuple(map(tuple, trees.values()))


def _named(result: Any) -> dict[str, Any]:
    return result if isinstance(result, dict) else {"": result}


def _stack(states: list[State]) -> State:
    """Stack states of one kind, a few at a time: those few are traced once for all."""
    padded = [*states, *[states[-1]] * (-len(states) % _FAN_IN)]
    blocks = [_stack_some(*padded[i : i + _FAN_IN]) for i in range(0, len(padded), _FAN_IN)]
    return jax.tree.map(lambda *arrays: _join_blocks(arrays)[: len(states)], *blocks)


def _join_blocks(blocks: Sequence[jax.Array]) -> jax.Array:
    """Return blocks of one shape as one array, joined along their first axis.

    In two steps, of which the first stacks: XLA would merge two concatenations into one of all states, whose
    values it then computes each in a loop of its own, and fold no constants across a barrier.
    """
    stacks = [jnp.stack(blocks[i : i + _FAN_IN]) for i in range(0, len(blocks), _FAN_IN)]
    # Not -1: of states without elements, as those of a stacked loop without steps, any length would do.
    return jnp.concatenate([jax.lax.collapse(stack, 0, 2) for stack in stacks])


@jax.jit
def _stack_some(*states: State) -> State:
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *states)


def concatenate(arrays: list[jax.Array]) -> jax.Array:
    """Concatenate arrays a few at a time: XLA needs seconds for a thousand fusible ones at once."""
    while len(arrays) > _FAN_IN:
        joined = [jnp.concatenate(arrays[i : i + _FAN_IN]) for i in range(0, len(arrays), _FAN_IN)]
        # A barrier to XLA's fusion.
        arrays = list(jax.lax.optimization_barrier(joined))
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays)
