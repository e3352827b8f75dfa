"""A user's own data: what his function returns, as batches by step.

Arrays are split, shuffled and drawn from by the same rule as the data that comes with the program, so a batch
is a pure function of seed and step. An iterable is asked for its batches in order: when a run is taken up at
step s the function is called again and the s batches before are drawn and thrown away, so the run is the
same as one that was not stopped exactly if each call gives the same batches, and costs the time to draw them.
A function whose batches end is called again for the next epoch.
"""

import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from train.config import FunctionData

Batch = dict[str, NDArray[np.generic]]


class DataError(Exception):
    """The data cannot be had: one line that says what is wrong and what to do."""


def load(options: FunctionData, needs: tuple[str, ...]) -> "Arrays | Batches":
    """Calls the function that the configuration names.

    Args:
        options: names the function.
        needs: the arrays that the task takes from a batch.

    Raises:
        DataError: there is no such function, or it returns something else than arrays or batches.
    """
    function = _find(options.name)
    _check_arguments(function, options)
    returned = function(**options.arguments)
    train, held_out = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    where = f"data.name={options.name}"
    if isinstance(train, Mapping) and isinstance(held_out, Mapping | None):
        arrays = _arrays(train, where, needs)
        return Arrays(arrays, None if held_out is None else _arrays(held_out, where, needs), options)
    if _has_batches(train) and (held_out is None or _has_batches(held_out)):
        return Batches(returned, lambda: function(**options.arguments), options, needs)
    raise DataError(
        f"{where} returned {_kinds(returned)}: it must be a dict of arrays, an iterable of such dicts "
        "(batches), or a pair of one kind of which the second is held out"
    )


class Arrays:
    """Examples in arrays.

    Args:
        train: arrays by name, the examples on the first axis.
        held_out: the same, to evaluate on; None holds a share of `train` out, by one fixed shuffle.
        options: batch size and share.
    """

    def __init__(self, train: Batch, held_out: Batch | None, options: FunctionData):
        self._size = options.batch_size
        if held_out is None:
            train, held_out = _split(train, options)
        self._train = train
        if min(_length(train), _length(held_out)) < 1 or _length(train) < self._size:
            raise DataError(
                f"data.name={options.name} gives {_length(train)} examples to train on and "
                f"{_length(held_out)} held out, and data.batch_size is {self._size}: lower it, or give more"
            )
        self._held_out = _equal_batches(held_out, self._size)

    def batch(self, seed: int, step: int) -> Batch:
        """Draws examples, none twice in one batch; the same seed and step give the same batch."""
        chosen = np.random.default_rng((seed, step)).permutation(_length(self._train))[: self._size]
        return {name: array[chosen] for name, array in self._train.items()}

    def held_out(self) -> Batch:
        """Gives the held-out examples in equal batches, stacked; a few that are left over are not used."""
        return self._held_out


class Batches:
    """Batches of an iterable, in its order.

    Args:
        first: an iterable, or a pair of a training and a held-out one; what is held out is taken from it.
        make: returns another of the same.
        options: how many batches are held out.
        needs: the arrays that the task takes from a batch.
    """

    def __init__(self, first: Any, make: Callable[[], Any], options: FunctionData, needs: tuple[str, ...]):
        self._make, self._options, self._needs = make, options, needs
        self._where = f"data.name={options.name}"
        self._batches = self._begin()
        self._position, self._batch = -1, Batch()
        self._held_out = self._stack_held_out(first)

    def batch(self, seed: int, step: int) -> Batch:
        """Gives the batch of a step: the next one, or as many further on; a step before begins anew."""
        del seed
        if step < self._position:
            self._position, self._batches = -1, self._begin()
        while self._position < step:
            self._batch, self._position = self._next(), self._position + 1
        return self._batch

    def held_out(self) -> Batch:
        """Gives the held-out batches, stacked along the first axis."""
        return self._held_out

    def _next(self) -> Batch:
        drawn = next(self._batches, None)
        if drawn is None:
            self._batches = self._begin()
            drawn = next(self._batches, None)
        if drawn is None:
            raise DataError(f"{self._where} has no batch to train on, beside those that are held out")
        return _batch(drawn, self._where, self._needs)

    def _begin(self) -> Iterator[Any]:
        made = self._make()
        if isinstance(made, tuple):
            return iter(made[0])
        return itertools.islice(iter(made), self._options.eval_batches, None)

    def _stack_held_out(self, first: Any) -> Batch:
        held_out = first[1] if isinstance(first, tuple) else first
        drawn = itertools.islice(iter(held_out), self._options.eval_batches)
        batches = [_batch(batch, self._where, self._needs) for batch in drawn]
        if not batches:
            raise DataError(f"{self._where} has no batch to evaluate on")
        shapes = [{name: array.shape for name, array in batch.items()} for batch in batches]
        if any(shape != shapes[0] for shape in shapes):
            raise DataError(f"{self._where} has held-out batches of different shapes, {shapes[0]} and others")
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def _find(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    # As `python -m` has it; the command of an installed package has not.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise DataError(
            f"data.name={name}: there is no module {error.name}; it is looked for in the working folder "
            f"{Path.cwd()} and on PYTHONPATH"
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise DataError(f"data.name={name}: the module {module_name} has no function {function_name}")
    return function


def _check_arguments(function: Callable[..., Any], options: FunctionData) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # Some functions written in C have none.
        return
    try:
        signature.bind(**options.arguments)
    except TypeError as error:
        raise DataError(
            f"data.name={options.name} takes {signature}, and data.arguments does not fit: {error}"
        ) from None


def _arrays(arrays: Mapping[str, Any], where: str, needs: tuple[str, ...]) -> Batch:
    """Gives examples as NumPy arrays of one length."""
    batch = _batch(arrays, where, needs)
    lengths = {name: array.shape[0] if array.ndim else None for name, array in batch.items()}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise DataError(f"{where} returned arrays that differ in their number of examples: {lengths}")
    return batch


def _batch(given: Any, where: str, needs: tuple[str, ...]) -> Batch:
    if not isinstance(given, Mapping):
        raise DataError(f"{where} gives {_kinds(given)} where a dict of arrays belongs")
    batch = {name: np.asarray(array) for name, array in cast(Mapping[str, Any], given).items()}
    missing = [name for name in needs if name not in batch]
    if missing:
        there = ", ".join(map(str, batch)) or "none"
        raise DataError(f"{where} gives the arrays {there}; the task also needs {', '.join(missing)}")
    strange = {name: array.dtype for name, array in batch.items() if array.dtype.kind not in "biuf"}
    if strange:
        raise DataError(f"{where} gives arrays that hold no numbers: {strange}")
    return batch


def _split(examples: Batch, options: FunctionData) -> tuple[Batch, Batch]:
    order = np.random.default_rng(0).permutation(_length(examples))
    kept = len(order) - max(1, round(len(order) * options.held_out))
    train = {name: array[order[:kept]] for name, array in examples.items()}
    return train, {name: array[order[kept:]] for name, array in examples.items()}


def _equal_batches(examples: Batch, size: int) -> Batch:
    """Cuts examples into as few batches of one size as do not exceed `size`."""
    count = -(-_length(examples) // size)
    each = _length(examples) // count
    return {
        name: array[: count * each].reshape(count, each, *array.shape[1:]) for name, array in examples.items()
    }


def _length(examples: Batch) -> int:
    return len(next(iter(examples.values()), ()))


def _has_batches(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | tuple | Mapping | np.ndarray)


def _kinds(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(type(part).__name__ for part in cast(tuple[object, ...], value))})"
    return type(value).__name__
