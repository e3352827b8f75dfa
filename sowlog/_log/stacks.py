"""The part of a logger for several steps at once, whose metrics a scan has stacked."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np
from numpy.typing import NDArray

from sowlog._log.calls import Calls
from sowlog._log.entries import Several
from sowlog._log.item import Item, start_copy
from sowlog._log.metrics import as_array, check_names, not_packed_within
from sowlog._reduce.values import check_real
from sowlog._tree.layout import Packed, is_packed, refuse_packed
from sowlog._tree.leaves import not_a_metric, traced
from sowlog._tree.results import pack_now
from sowlog._tree.tags import flatten, index_tags, is_state
from sowlog.writers._arguments import MAX_STEP, check_step

_PACKED = 2  # axes of a stacked buffer: steps and words


class _Rows(NamedTuple):
    """The metrics of several steps.

    Attributes:
        steps: the number of steps.
        packed: the packed tree, its buffer uint32 of shape [steps, words].
        numbers: by tag the numbers on the host, float64 of shape [steps].
    """

    steps: int
    packed: Packed | None
    numbers: dict[str, NDArray[np.float64]]


class Stacks(Calls):
    """Queues the metrics of several steps as one entry."""

    def steps(self, first: int | range, metrics: Any) -> None:
        """Log the metrics of consecutive steps, which a `lax.scan` has stacked: one copy, a record for each.

        On the training thread it costs as much as one `log` call. The records have the wall time of the call.
        Each step counts in `queue_size` and for `every=`; all of them are queued if one has room.

        Args:
            first: the step of the first row, a Python or NumPy integer within int64; or the range of all
                steps, whose length is then checked.
            metrics: the result of `sowlog.pack`, stacked by one scan (or map, or vmap), the buffer of shape
                [steps, words]; or any nested dict of states and arrays with a first axis of steps.

        Raises:
            TypeError: As for `log(step, metrics)`; or a leaf has no first axis.
            ValueError: As for `log(step, metrics)`; or the first axes differ in size, the range has another
                length or is not of consecutive steps, or the packed tree is of one step, or stacked twice.
            WriterError: As for `log(step, metrics)`, as are NonfiniteError, QueueFullError, TimeoutError and
                RuntimeError.

        Example:
            >>> import jax, jax.numpy as jnp, sowlog, sowlog.testing
            >>> def train_step(w, x):
            ...     loss = (w - x) ** 2
            ...     return w - 0.5 * (w - x), sowlog.pack({"loss": loss})
            >>> memory = sowlog.testing.MemoryWriter()
            >>> with sowlog.Logger("unused", writers=[memory]) as log:
            ...     w = 0.0
            ...     for part in range(2):
            ...         w, stacked = jax.lax.scan(train_step, w, jnp.array([1.0, 1.0]))
            ...         log.steps(2 * part, stacked)
            >>> [(record.step, float(record.values[0])) for record in memory.records]
            [(0, 1.0), (1, 0.25), (2, 0.0625), (3, 0.015625)]
        """
        wall_time = time.time()
        count, packed, numbers = _prepare(metrics)
        begin = _first_of(first, count)
        # The first row whose step is a multiple of `every`.
        rows = range(-begin % self._every, count, self._every)
        if not rows:
            self._background.check()
            return
        self._kinds.note_metrics(packed, numbers)
        buffer: Any = packed and packed.buffer
        if isinstance(buffer, jax.Array):
            start_copy(buffer)

        def item(row: int) -> Item:
            scalars = {tag: float(column[row]) for tag, column in numbers.items()}
            return Item(begin + row, wall_time, packed, scalars, row=row)

        self._background.put(Several(item, rows))


def _first_of(first: object, count: int) -> int:
    """Return the first of `count` steps, checked.

    Raises:
        TypeError: It is no integer, and no range.
        ValueError: The range has another length or is not consecutive, or a step is beyond int64.
    """
    if isinstance(first, range):
        if len(first) != count:
            raise ValueError(
                f"{first} has {len(first)} steps, and the metrics are of {count}: the first axis of the "
                "metrics is the number of steps of the scan."
            )
        if first.step != 1 and count > 1:
            raise ValueError(
                f"{first} is not of consecutive steps: log.steps writes the rows of the metrics as steps "
                "one after the other. Write log(step, jax.tree.map(lambda leaf: leaf[i], metrics)) for each."
            )
        first = first.start
    begin = check_step(first)
    if begin + count - 1 > MAX_STEP:
        raise ValueError(
            f"step {begin} is the first of {count}, and the last is beyond int64: an event file holds steps "
            f"up to {MAX_STEP}."
        )
    return begin


def _prepare(metrics: Any) -> _Rows:
    """Split stacked metrics into one packed buffer, on the device, and the numbers on the host."""
    if is_packed(metrics):
        packed = _checked(metrics)
        return _Rows(packed.buffer.shape[0], packed, {})
    tags, leaves = flatten(metrics)
    leaves = list(map(as_array, leaves))
    count = _count_of(tags, leaves)
    numbers: dict[str, NDArray[np.float64]] = {}
    on_device: dict[str, Any] = {}
    for tag, leaf in zip(tags, leaves, strict=True):
        if isinstance(leaf, np.ndarray):
            _add_columns(numbers, tag, leaf)
        else:
            on_device[tag] = leaf
    packed = None
    if on_device:
        packed = pack_now(tuple(on_device), list(on_device.values()), "logged", is_stacked=True)
    check_names(tuple(numbers), packed)
    return _Rows(count, packed, numbers)


def _checked(packed: Packed) -> Packed:
    """Return a stacked packed tree whose buffer cannot change before it is written."""
    buffer: Any = packed.buffer
    if isinstance(buffer, jax.core.Tracer):
        raise TypeError(traced("a packed tree", "logged"))
    words = packed.layout.words
    axes = getattr(buffer, "ndim", _PACKED)
    if axes == 1:
        raise ValueError(
            "a packed tree of one step was logged as several: write log(step, packed), or return it from "
            "the body of a scan, which stacks those of its steps."
        )
    if axes > _PACKED:
        raise ValueError(
            f"a packed buffer of shape {buffer.shape} was logged, stacked {axes - 1} times: of nested scans, "
            "flatten the steps in their order, `jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), "
            "packed)`; of a vmap, log each of its rows under a name of its own."
        )
    if axes == _PACKED and hasattr(buffer, "shape") and buffer.shape[1] != words:
        raise ValueError(
            f"a packed buffer of {buffer.shape[1]} words a step was logged, and its layout has {words}: use "
            "the whole result of `sowlog.pack`."
        )
    is_array = isinstance(buffer, jax.Array | np.ndarray) and buffer.dtype == np.uint32
    if not is_array or (isinstance(buffer, jax.Array) and buffer.is_deleted()):
        refuse_packed(packed, "", "logged")
    if isinstance(buffer, np.ndarray) and buffer.flags.writeable:
        return Packed(buffer.copy(), packed.layout)  # pyright: ignore[reportArgumentType]  # fetched
    return packed


def _count_of(tags: tuple[str, ...], leaves: list[Any]) -> int:
    """Return the number of steps: the size of the first axis of each leaf.

    Raises:
        TypeError: A leaf is not an array or a state, or has no axis.
        ValueError: Two sizes differ, or there is no leaf.
    """
    sizes = {tag: _size_of(tag, leaf) for tag, leaf in zip(tags, leaves, strict=True)}
    if not sizes:
        raise ValueError("the metrics are an empty tree, so the number of their steps is unknown.")
    first, count = next(iter(sizes.items()))
    for tag, size in sizes.items():
        if size != count:
            raise ValueError(
                f"{first or 'the tree'} has {count} steps and {tag} {size}: the first axis of each leaf is "
                "that of the steps. Return all metrics from the body of one scan, or write a call for each."
            )
    return count


def _size_of(tag: str, leaf: Any) -> int:
    if is_packed(leaf):
        raise TypeError(not_packed_within(tag))
    if isinstance(leaf, int | float | np.generic) or (
        isinstance(leaf, jax.Array | np.ndarray) and leaf.ndim == 0
    ):
        raise TypeError(
            f"{tag or 'the tree'} is one number, and has no axis of steps: return it from the body of the "
            "scan as well, or repeat it, np.full(steps, value)."
        )
    if is_state(leaf):
        if not np.shape(leaf.seen):
            raise TypeError(
                f"{tag or 'the tree'} is the state of one step, and has no axis of steps: return it from the "
                "body of the scan, which stacks those of its steps, or write log(step, metrics)."
            )
        return np.shape(leaf.seen)[0]
    if not isinstance(leaf, jax.Array | np.ndarray):
        raise TypeError(not_a_metric(tag, leaf))
    return leaf.shape[0]


def _add_columns(numbers: dict[str, NDArray[np.float64]], tag: str, array: NDArray[Any]) -> None:
    """Add the numbers of an array on the host by tag, a copy, as the caller may write to it."""
    check_real(tag or "the tree", array, "a metric is")
    # An np.matrix keeps two axes, so that its columns have one row.
    columns = np.array(array, np.float64)
    names = index_tags(tag, array.shape[1:])
    for name, column in zip(names, columns.reshape(len(columns), len(names)).T, strict=True):
        if name in numbers:
            raise ValueError(f"two metrics have the tag {name}: rename one of them.")
        numbers[name] = column
