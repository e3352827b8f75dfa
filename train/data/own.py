"""A user's own data: the arrays or batches of a function, as batches by step.

Arrays are split, shuffled and drawn from by the same rule as the built-in data, so a batch is a pure function
of seed and step. The batches of an iterable are drawn in order (`batches.py`): a run that resumes at step s
calls the function again, and drops the s batches before, which costs the time to draw them. So a resumed run
equals an uninterrupted one if each call returns the same batches; the first ones are checked. A function
whose batches end is called again for the next epoch.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from train.config import errors
from train.config.data import FunctionData
from train.config.own import find
from train.data import examples
from train.data.batches import Batches
from train.data.examples import DataError, HostBatch
from train.data.thread import OneThread
from train.system import exits


def load(options: FunctionData, needs: tuple[str, ...]) -> "Arrays | Batches":
    """Call the function that the configuration names, in the thread that draws the batches later.

    Args:
        options: names the function.
        needs: the arrays that the task takes from a batch.

    Raises:
        DataError: There is no such function, it returns neither arrays nor batches, or it needs
            the main thread.
    """
    function = _find(options.name)
    _check_arguments(function, options)
    # The threads of a loader may wait for ever after the last draw.
    exits.bound()
    thread = OneThread()
    try:
        loaded = thread.run(lambda: _call(function, options, needs, thread))
    except BaseException as error:
        thread.close()
        if isinstance(error, ValueError | RuntimeError) and "main thread" in str(error):
            raise DataError(
                f"data.name={options.name} needs the main thread, and a loader runs in a thread of its own "
                f"({errors.one_line(error)}). Write: that code at the top of the module, which is "
                "imported in the main thread."
            ) from error
        raise
    if isinstance(loaded, Arrays):
        thread.close()
    return loaded


class Arrays:
    """Examples in arrays.

    Args:
        train: arrays by name, the examples on the first axis.
        held_out: the same, to evaluate on; None holds a share of `train` out, by one fixed shuffle.
        options: batch size and share.
    """

    def __init__(self, train: HostBatch, held_out: HostBatch | None, options: FunctionData):
        self._size = options.batch_size
        if held_out is None:
            train, held_out = _split(train, options)
        self._train = train
        counts = examples.length(train), examples.length(held_out)
        if min(counts) < 1 or counts[0] < self._size:
            raise DataError(
                f"data.name={options.name} has {counts[0]} examples to train on and {counts[1]} held out, "
                f"and data.batch_size is {self._size}: lower it, or give more."
            )
        self._held_out, self._remainder = examples.cut_held_out(held_out, self._size)

    def batch(self, seed: int, step: int) -> HostBatch:
        """Draw examples, none twice in one batch; the same seed and step give the same batch."""
        chosen = np.random.default_rng((seed, step)).permutation(examples.length(self._train))[: self._size]
        return {name: array[chosen] for name, array in self._train.items()}

    def digest(self) -> str:
        """Return the digest of all the examples."""
        return examples.digest(self._train, self._held_out, self._remainder)

    def held_out(self) -> HostBatch:
        """Return the held-out batches of `batch_size` examples, stacked along the first axis."""
        return self._held_out

    def remainder(self) -> HostBatch:
        """Return the held-out examples that are left over as a stack of one batch, or an empty dict."""
        return self._remainder


def _find(name: str) -> Callable[..., Any]:
    try:
        return find(name, "function")
    except LookupError as error:
        raise DataError(errors.sentence(f"data.name={name}: {error}")) from None


def _check_arguments(function: Callable[..., Any], options: FunctionData) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # Some functions written in C have none.
        return
    try:
        signature.bind(**options.arguments)
    except TypeError as error:
        raise DataError(
            f"data.name={options.name} takes {signature}, and data.arguments does not fit: {error}."
        ) from None


def _call(
    function: Callable[..., Any], options: FunctionData, needs: tuple[str, ...], thread: OneThread
) -> "Arrays | Batches":
    returned = function(**options.arguments)
    train, held_out = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    where = f"data.name={options.name}"
    if isinstance(train, Mapping) and isinstance(held_out, Mapping | None):
        arrays = _arrays(train, where, needs)
        return Arrays(arrays, None if held_out is None else _arrays(held_out, where, needs), options)
    if _has_batches(train) and (held_out is None or _has_batches(held_out)):
        return Batches(returned, lambda: function(**options.arguments), options, needs, thread)
    raise DataError(
        f"{where} returned {examples.kinds(returned)}: it must be a dict of arrays, an iterable of such "
        "dicts (batches), or a pair of one kind of which the second is held out."
    )


def _arrays(arrays: Mapping[str, Any], where: str, needs: tuple[str, ...]) -> HostBatch:
    """Return examples as NumPy arrays of one length."""
    batch = examples.as_batch(arrays, where, needs)
    lengths = {name: array.shape[0] if array.ndim else None for name, array in batch.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise DataError(f"{where} returned arrays that differ in their number of examples: {lengths}.")
    return batch


def _split(whole: HostBatch, options: FunctionData) -> tuple[HostBatch, HostBatch]:
    order = np.random.default_rng(0).permutation(examples.length(whole))
    kept = len(order) - max(1, round(len(order) * options.held_out))
    train = {name: array[order[:kept]] for name, array in whole.items()}
    return train, {name: array[order[kept:]] for name, array in whole.items()}


def _has_batches(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | tuple | Mapping | np.ndarray)
