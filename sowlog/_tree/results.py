"""The results of a tree by tag, and the packing of trees outside of the step."""

import functools
from collections.abc import Sequence
from typing import Any, final

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from sowlog._reduce import ambient
from sowlog._reduce.bins import bin_count
from sowlog._reduce.distributions import HistogramValue
from sowlog._reduce.values import narrowed
from sowlog._tree.layout import HISTOGRAM_SCALARS, Packed, check_packed, is_packed
from sowlog._tree.leaves import Row, check_concrete, check_devices, check_leaves, check_tags
from sowlog._tree.naming import name_layout
from sowlog._tree.packing import LossTrees, Unnamed, loss_trees_of, pack, pack_leaves
from sowlog._tree.sites import Description, site_of
from sowlog._tree.tags import flatten, join

# The number of cached programs, each of about 1.5 MB.
_PROGRAMS = 64


def compute(tree: Any) -> dict[str, Any]:
    """Compute the results of a tree of metrics by tag.

    Args:
        tree: as for `pack`, or a packed tree.

    Returns:
        A float32 scalar (or `HistogramValue`) by tag. Results of concrete states are NumPy's, without absent
        ones; results of traced states are traced arrays, NaN where nothing was sown.

    Raises:
        ValueError: As for `pack`, and for a packed tree of several steps.
        TypeError: As for `pack`.

    Example:
        >>> import sowlog
        >>> sowlog.compute({"encoder": {"norm": sowlog.max.of([1.0, 5.0])}})
        {'encoder/norm': np.float32(5.0)}
    """
    tags, leaves = flatten(tree)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(leaves)):
        return _traced_results(pack(tree))
    results: dict[str, Any] = {}
    unpacked: list[tuple[str, Any]] = []
    for tag, leaf in zip(tags, leaves, strict=True):
        if is_packed(leaf):
            check_packed(leaf, "computed", tag)
            _add_results(results, {join(tag, name): value for name, value in _read(leaf).items()})
        else:
            unpacked.append((tag, narrowed(leaf)))
    if unpacked:
        # Concrete leaves are computed now, also while a function is traced.
        with jax.ensure_compile_time_eval():
            _add_results(
                results, _read(pack_now([tag for tag, _ in unpacked], [leaf for _, leaf in unpacked]))
            )
    return results


def describe(tree: Any) -> dict[str, Description]:
    """Describe the values of a tree of metrics by tag: the text and unit of the sow, its reducer and place.

    Args:
        tree: as for `pack`, or a packed tree; its arrays may be shapes, as of `jax.eval_shape`.

    Returns:
        A description for each tag that `compute` has a result for. That of a value that was not sown, or in
        another process, is empty but for the kind.

    Raises:
        ValueError: As for `pack`.
        TypeError: As for `pack`.

    Example:
        >>> import sowlog
        >>> def loss_fn(w):
        ...     sowlog.sow_loss("l2", w**2, weight=0.1, doc="Weight decay.")
        ...     return w
        >>> y, updates = sowlog.collect(loss_fn)(2.0)
        >>> for tag, description in sowlog.describe(updates).items():
        ...     print(tag, description.kind, description.doc)
        losses/l2 loss Weight decay.
        losses/l2/weighted loss Weight decay.
        losses/total scalar
    """
    # A function of its own: JAX would return the layout that it has cached for states with other notes.
    layout = tree.layout if is_packed(tree) else jax.eval_shape(functools.partial(pack), tree).layout
    scalars = {str(tag): _description_of(tag) for tag in layout.scalars}
    histograms = {str(slot.tag): _description_of(slot.tag, is_histogram=True) for slot in layout.histograms}
    return {**scalars, **histograms}


def _description_of(tag: str, *, is_histogram: bool = False) -> Description:
    site = site_of(tag)
    if site is None:
        return Description(kind="histogram" if is_histogram else "scalar")
    return site.description(is_histogram=is_histogram)


def pack_now(
    tags: Sequence[str], leaves: list[Any], verb: str = "computed", *, is_stacked: bool = False
) -> Packed:
    """Return concrete leaves packed, by a compiled program that does not depend on their tags.

    Args:
        tags: a tag for each leaf.
        leaves: states, arrays and numbers, none of them packed.
        verb: the participle of the operation in a message: "logged".
        is_stacked: whether all leaves are stacked along a first axis, of one size, as is the buffer then.

    Raises:
        TypeError: A leaf is not a real number, array or state, or it is traced.
        ValueError: As for `pack`; or leaves are on different devices.
        RuntimeError: A leaf was donated or deleted.
    """
    roots, loss_trees = loss_trees_of(tags, leaves)
    rows = [jax.tree.map(_row_of, leaf) for leaf in leaves] if is_stacked else leaves
    try:
        unnamed = (_stacked_programs if is_stacked else _programs)(leaves, loss_trees)
    except Exception as error:
        refusal = error
    else:
        if isinstance(unnamed.buffer, jax.core.Tracer):
            check_concrete(tags, leaves, verb)
        return Packed(unnamed.buffer, name_layout(unnamed.plan, (*tags, *roots), rows))
    # A compiled program contains no tags, so these checks find the refused leaf.
    check_leaves(tags, rows, verb)
    check_concrete(tags, leaves, verb)
    if "device" in str(refusal):
        check_devices(tags, leaves)
    raise refusal


def _row_of(array: Any) -> Row:
    return Row(array.shape[1:], array.dtype)


@final
class _Programs:
    """A cache of compiled packing programs, by shapes, dtypes and reducers, for trees outside of the step.

    Each new shape compiles a program; the cache is cleared when it has `size` programs.
    """

    def __init__(self, size: int, *, is_stacked: bool = False) -> None:
        self.traced = 0
        self._size = size
        self._run: Any = jax.jit(self._trace_rows if is_stacked else self._trace, static_argnums=1)

    def __call__(self, leaves: list[Any], loss_trees: LossTrees) -> Unnamed:
        if self.traced >= self._size:
            self._run.clear_cache()
            self.traced = 0
        return self._run(leaves, loss_trees)

    def _trace(self, leaves: list[Any], loss_trees: LossTrees) -> Unnamed:
        self.traced += 1
        check_leaves([f"leaf {index}" for index in range(len(leaves))], leaves, "packed")
        return ambient.isolated(pack_leaves, leaves, loss_trees)

    def _trace_rows(self, leaves: list[Any], loss_trees: LossTrees) -> Unnamed:
        return jax.vmap(lambda row: self._trace(row, loss_trees))(leaves)


_programs = _Programs(_PROGRAMS)
_stacked_programs = _Programs(_PROGRAMS, is_stacked=True)


def _read(packed: Packed) -> dict[str, Any]:
    """Return the results by tag, fetched from the device."""
    words = np.asarray(packed.buffer)
    tags, values = packed.layout.decode(words)
    results = {**dict(zip(tags, values, strict=True)), **packed.layout.decode_histograms(words)}
    return {str(tag): result for tag, result in results.items()}


def _traced_results(packed: Packed) -> dict[str, Any]:
    """Return the results by tag, traced: NaN where nothing was sown."""
    values = jax.lax.bitcast_convert_type(packed.buffer, jnp.float32)
    results: dict[str, Any] = {
        str(tag): jax.lax.index_in_dim(values, index, keepdims=False)
        for index, tag in enumerate(packed.layout.scalars)
    }
    start = len(packed.layout.scalars)
    for slot in packed.layout.histograms:
        bins = bin_count(slot.sub_bins)
        counts, residues, rest = jnp.split(values[start : start + slot.words], [bins, 2 * bins])
        scalars = dict(zip(HISTOGRAM_SCALARS, rest, strict=True))
        results[str(slot.tag)] = HistogramValue(counts, residues, sub_bins=slot.sub_bins, **scalars)
        start += slot.words
    return results


def _add_results(results: dict[str, Any], more: dict[str, Any]) -> None:
    check_tags((*results, *more))
    results.update(more)
