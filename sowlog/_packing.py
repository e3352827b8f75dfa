"""Packing: a tree of states becomes one buffer on the device and a static layout.

What it costs to fetch numbers from a device goes by the array, not by the byte. So all results travel in one
array of 32-bit words; which word is which tag is fixed while tracing.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, final

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from sowlog import _losses, _tree, _values
from sowlog._distributions import HistogramValue, bin_count
from sowlog._layout import ABSENT, HISTOGRAM_SCALARS, HistogramSlot, Layout, Packed, intern
from sowlog._state import State, check_intact

_NAN = np.uint32(0x7FC00000)
_MAX_ELEMENTS = 1024
_FAN_IN = 8


def pack(tree: Any) -> Packed:
    """Computes every result of a tree of metrics into one buffer. Call it inside the jitted step.

    Args:
        tree: a nested dict of states (`updates["metrics"]`), scalars and small arrays. Losses that stand
            under "losses" get a "losses/total" beside them.

    Returns:
        A pytree with one array.

    Raises:
        ValueError: a metric without a name, two with one tag, or an array with more than 1024 elements.
        TypeError: a leaf is no real number, array or state.

    Example:
        >>> import jax, sowlog
        >>> packed = jax.jit(lambda x: sowlog.pack({"loss": sowlog.mean.of(x), "lr": 0.1}))(2.0)
        >>> packed.layout.scalars, packed.buffer.shape
        (('loss', 'lr'), (2,))
    """
    segments = sorted(_segments(tree), key=lambda segment: segment.sub_bins is not None)
    scalars = tuple(tag for segment in segments if segment.sub_bins is None for tag in segment.tags)
    histograms = tuple(
        HistogramSlot(tag, segment.sub_bins)
        for segment in segments
        if segment.sub_bins is not None
        for tag in segment.tags
    )
    check_tags((*scalars, *(slot.tag for slot in histograms)))
    words = [segment.words for segment in segments]
    return Packed(_concatenate(words) if words else jnp.zeros((0,), jnp.uint32), intern(scalars, histograms))


def compute(tree: Any) -> dict[str, Any]:
    """Computes the results of a tree of metrics by tag.

    Args:
        tree: as for `pack`.

    Returns:
        A float32 scalar (or `HistogramValue`) by tag: NumPy's for concrete states, and then without those
        that were not sown; traced arrays for traced states, NaN where nothing was sown.

    Example:
        >>> import sowlog
        >>> sowlog.compute({"encoder": {"norm": sowlog.max.of([1.0, 5.0])}})
        {'encoder/norm': np.float32(5.0)}
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
        packed = pack(tree)
        values = jax.lax.bitcast_convert_type(packed.buffer, jnp.float32)
        computed = {tag: values[index] for index, tag in enumerate(packed.layout.scalars)}
        return {**computed, **_traced_histograms(packed.layout, values)}
    # What is concrete is computed now, also while something else is traced.
    with jax.ensure_compile_time_eval():
        packed = jitted_pack(jax.tree.map(_values.narrowed, tree))
    words = np.asarray(packed.buffer)
    tags, values = packed.layout.decode(words)
    return {**dict(zip(tags, values, strict=True)), **packed.layout.decode_histograms(words)}


@final
@dataclasses.dataclass(frozen=True)
class _Segment:
    """A stretch of the buffer: the words of one result of one kind of state.

    Attributes:
        tags: one per scalar, or per histogram.
        words: uint32, flat.
        sub_bins: None for scalars; of histograms their bins per power of two.
    """

    tags: list[str]
    words: jax.Array
    sub_bins: int | None = None


@jax.jit
def jitted_pack(tree: Any) -> Packed:
    return pack(tree)


def _segments(tree: Any) -> Iterator[_Segment]:
    states: dict[Any, list[tuple[str, State]]] = defaultdict(list)
    arrays: dict[tuple[int, ...], list[tuple[str, jax.Array]]] = defaultdict(list)
    for tag, leaf in _tree.leaves_by_tag(tree):
        if _tree.is_state(leaf):
            check_intact(leaf, tag)
            states[_kind(leaf)].append((tag, leaf))
        else:
            array = _real_array(tag, leaf)
            arrays[array.shape].append((tag, array))
    for group in states.values():
        yield from _state_segments(group)
    yield from _loss_totals(tagged for group in states.values() for tagged in group)
    for shape, group in arrays.items():
        tags = [element for tag, _ in group for element in _tree.index_tags(tag, shape)]
        yield _Segment(tags, _words(_concatenate([array.ravel() for _, array in group])))


def _kind(state: State) -> Any:
    """Returns what two states must share to be computed as one array of states."""
    leaves, structure = jax.tree.flatten(dataclasses.replace(state, reducer=state.reducer(axis=None)))
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _state_segments(group: list[tuple[str, State]]) -> Iterator[_Segment]:
    """Yields a segment per result name of states of one kind, computed in one vectorised pass."""
    first = group[0][1]
    batch = first.seen.shape
    stacked = jax.tree.map(_stack, *(dataclasses.replace(state, reducer=first.reducer) for _, state in group))
    seen = stacked.seen.ravel()
    for suffix, result in _named(stacked.compute()).items():
        tags = [
            element
            for tag, _ in group
            for element in _tree.index_tags("/".join(filter(None, (tag, suffix))), batch)
        ]
        if isinstance(result, HistogramValue):
            yield from _histogram_segments(tags, seen, result)
        else:
            yield _Segment(tags, jnp.where(seen, _words(result.ravel()), ABSENT))


def _histogram_segments(tags: list[str], seen: jax.Array, value: HistogramValue) -> Iterator[_Segment]:
    """Yields the words of as many histograms as there are tags, and how many elements they left out."""
    rows = [array.reshape(len(tags), -1) for array in (value.counts, value.residues)]
    scalars = [getattr(value, name).reshape(len(tags), 1) for name in HISTOGRAM_SCALARS]
    words = _words(jnp.concatenate([*rows, *scalars], axis=1))
    yield _Segment(tags, jnp.where(seen[:, None], words, ABSENT).ravel(), value.sub_bins)
    left_out = (value.nan + value.positive_inf + value.negative_inf).ravel()
    yield _Segment(
        [f"{tag}/nonfinite" for tag in tags], jnp.where(seen & (left_out > 0), _words(left_out), ABSENT)
    )


def _traced_histograms(layout: Layout, values: jax.Array) -> dict[str, HistogramValue]:
    start, found = len(layout.scalars), dict[str, HistogramValue]()
    for slot in layout.histograms:
        bins = bin_count(slot.sub_bins)
        counts, residues, rest = jnp.split(values[start : start + slot.words], [bins, 2 * bins])
        scalars = dict(zip(HISTOGRAM_SCALARS, rest, strict=True))
        found[slot.tag] = HistogramValue(counts, residues, sub_bins=slot.sub_bins, **scalars)
        start += slot.words
    return found


def _loss_totals(tagged: Iterable[tuple[str, State]]) -> Iterator[_Segment]:
    """Yields `losses/total`, the sum of what entered the objective, for each tree of losses."""
    trees: dict[str, list[State]] = defaultdict(list)
    for tag, state in tagged:
        parts = tag.split("/")
        if _losses.is_loss(state) and _losses.COLLECTION in parts:
            root = "/".join(parts[: parts.index(_losses.COLLECTION) + 1])
            trees[root].append(state)
    for root, states in trees.items():
        yield _Segment([f"{root}/total"], _words(_losses.objective_part(states).reshape(1)))


def _named(result: Any) -> dict[str, Any]:
    return result if isinstance(result, dict) else {"": result}


def _words(values: jax.Array) -> jax.Array:
    """Returns float32 values as words, with every NaN made the same, so that none reads as absent."""
    values = values.astype(jnp.float32)
    return jnp.where(jnp.isnan(values), _NAN, jax.lax.bitcast_convert_type(values, jnp.uint32))


def _stack(*leaves: jax.Array) -> jax.Array:
    shape = leaves[0].shape
    return _concatenate([leaf.ravel() for leaf in leaves]).reshape(len(leaves), *shape)


def _concatenate(vectors: list[jax.Array]) -> jax.Array:
    """Concatenates vectors a few at a time: XLA needs seconds for a thousand fusible ones at once."""
    while len(vectors) > _FAN_IN:
        joined = [jnp.concatenate(vectors[i : i + _FAN_IN]) for i in range(0, len(vectors), _FAN_IN)]
        vectors = list(jax.lax.optimization_barrier(joined))
    return vectors[0] if len(vectors) == 1 else jnp.concatenate(vectors)


def _real_array(tag: str, leaf: Any) -> jax.Array:
    try:
        array = jnp.asarray(_values.narrowed(leaf))
    except TypeError as error:
        raise TypeError(
            f"{tag or 'the tree'} is {type(leaf).__name__}: a metric is a real number, a small array or a "
            "state such as sowlog.mean.of(value)."
        ) from error
    check_real(tag, array)
    return array


def check_real(tag: str, array: jax.Array | np.ndarray) -> None:
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == np.bool_) or np.iscomplexobj(array):
        raise TypeError(f"{tag or 'the tree'} has dtype {array.dtype}: a metric is a real number.")
    if array.size > _MAX_ELEMENTS:
        raise ValueError(
            f"{tag or 'the tree'} has shape {array.shape}: each element would be a tag of its own, and more "
            f"than {_MAX_ELEMENTS} are surely not meant. Reduce it: sowlog.mean.of(value) ..."
        )


def check_tags(tags: Iterable[str]) -> None:
    seen: set[str] = set()
    for tag in tags:
        if not tag:
            raise ValueError('a metric has no name: log a dict, {"loss": value}.')
        if tag in seen:
            raise ValueError(f"two metrics have the tag {tag}: rename one of them.")
        seen.add(tag)
