"""A user's own data as an iterable of batches: held-out batches, training batches, and later passes.

One pass is split: its first batches are held out, and all later ones are trained on.
A later pass (the next epoch, or a resumed run) leaves out as many batches in front. Each pass checks that
these are the same again: a loader that shuffles anew would train on held-out examples.
"""

import itertools
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Any

from train.config.data import FunctionData
from train.data import examples
from train.data.examples import DataError, DataWarning, HostBatch
from train.data.thread import OneThread

COMPARED = 4
"""Batches in front of two passes that must be the same: one of a small set may be the same by chance."""


class Batches:
    """Batches of an iterable, in its order.

    A last batch of a pass that has fewer examples than the pass's first is left out of training, with a
    warning: a step has one shape, on all devices.

    Args:
        first: an iterable, or a pair of a training and a held-out one.
        make: returns another of the same, for a pass from the beginning.
        options: the number of batches that are held out.
        needs: the arrays that the task takes from a batch.
        thread: the thread that makes this object, and draws every batch.

    Attributes:
        thread: the same.

    Raises:
        DataError: There is no batch to train or to evaluate on, held-out batches differ in their shapes, or a
            second pass begins with other batches than those that are held out.
    """

    def __init__(
        self,
        first: Any,
        make: Callable[[], Any],
        options: FunctionData,
        needs: tuple[str, ...],
        thread: OneThread,
    ):
        self.thread = thread
        self._make, self._options, self._needs = make, options, needs
        self._where = f"data.name={options.name}"
        self._is_pair = isinstance(first, tuple)
        self._has_warned = self._has_warned_of_smaller = False
        train, held_out = self._open(first)
        self._kept = self._keep_held_out(held_out)
        self._held_out, self._remainder = self._stack(self._kept)
        training = self._train_on(train)
        ahead = list(itertools.islice(training, COMPARED))
        if not ahead:
            raise self._no_batch()
        self._check_second_pass(ahead)
        self._pass: Iterator[HostBatch] = itertools.chain(ahead, training)
        self._position, self._batch = -1, HostBatch()

    def batch(self, seed: int, step: int) -> HostBatch:
        """Return the batch of a step: the next one, or as many further on; a step before begins anew."""
        del seed
        return self.thread.run(lambda: self._draw(step))

    def held_out(self) -> HostBatch:
        """Return the held-out batches, stacked along the first axis."""
        return self._held_out

    def remainder(self) -> HostBatch:
        """Return the last held-out batch as a stack of one if it has fewer examples, else an empty dict."""
        return self._remainder

    def end(self) -> None:
        """Drop the pass that is drawn from, in the thread that calls: a generator is closed there."""
        self._pass = iter(())

    def _draw(self, step: int) -> HostBatch:
        try:
            if step < self._position:
                self._position, self._pass = -1, self._begin()
            while self._position < step:
                self._batch, self._position = self._next(), self._position + 1
        except BaseException:
            # A generator that raised is at its end, which is not the end of an epoch.
            self._position, self._pass = step + 1, iter(())
            raise
        return self._batch

    def _open(self, made: Any) -> tuple[Iterator[Any], Iterator[Any]]:
        """Return a pass's iterators over training and held-out batches: the same one if it is no pair."""
        if self._is_pair:
            return iter(made[0]), iter(made[1])
        both = iter(made)
        return both, both

    def _begin(self) -> Iterator[HostBatch]:
        """Return the training batches of a pass from the beginning."""
        train, held_out = self._open(self._make())
        if not self._is_pair:
            self._check_held_out(held_out)
        return self._train_on(train)

    def _next(self) -> HostBatch:
        drawn = next(self._pass, None)
        if drawn is None:
            self._pass = self._begin()
            drawn = next(self._pass, None)
        if drawn is None:
            raise self._no_batch()
        return drawn

    def _no_batch(self) -> DataError:
        return DataError(
            f"{self._where} has no batch to train on, beside the {len(self._kept)} that are held out: give "
            "more, or lower data.eval_batches."
        )

    def _own(self, given: Any) -> HostBatch:
        return examples.as_batch(given, self._where, self._needs, copy=True)

    def _train_on(self, batches: Iterator[Any]) -> Generator[HostBatch]:
        """Yield batches, without a last one that has fewer examples than the first."""
        own = map(self._own, batches)
        first = None
        for drawn in own:
            batch, first = drawn, first or drawn
            # It is the last if there is no next one, which is drawn early only if a batch is smaller.
            while examples.is_part(batch, first):
                after = next(own, None)
                if after is None:
                    self._warn_of_last(batch, first)
                    return
                self._warn_of_smaller(batch, first)
                yield batch
                batch = after
            yield batch

    def _keep_held_out(self, batches: Iterator[Any]) -> list[HostBatch]:
        kept = [self._own(batch) for batch in itertools.islice(batches, self._options.eval_batches)]
        if not kept:
            raise DataError(f"{self._where} has no batch to evaluate on.")
        is_chosen = "eval_batches" in self._options.model_fields_set
        if self._is_pair and not is_chosen and next(batches, None) is not None:
            self._warn(
                f"has more held-out batches than the {len(kept)} that are evaluated. Write: "
                f"data.eval_batches=N for N of them (data.eval_batches={len(kept)} for these)."
            )
        return kept

    def _stack(self, kept: list[HostBatch]) -> tuple[HostBatch, HostBatch]:
        """Return the whole batches and a smaller last one, each stacked."""
        has_part = len(kept) > 1 and examples.is_part(kept[-1], kept[0])
        whole, rest = (kept[:-1], kept[-1:]) if has_part else (kept, [])
        other = next((batch for batch in whole if examples.shapes(batch) != examples.shapes(whole[0])), None)
        if other is not None:
            raise DataError(
                f"{self._where} has held-out batches of different shapes, {examples.shapes(whole[0])} and "
                f"{examples.shapes(other)}: give batches of one shape, of which only the last may have fewer "
                "examples."
            )
        return examples.stack(whole), examples.stack(rest if rest and examples.length(rest[0]) else [])

    def _check_second_pass(self, ahead: list[HostBatch]) -> None:
        """Draw the first batches of another pass, as of a resumed run, and compare them.

        Raises:
            DataError: The held-out batches are others.
        """
        train, held_out = self._open(self._make())
        if self._is_pair:
            self._check_front("held-out", map(self._own, held_out), self._kept[:COMPARED])
        else:
            self._check_held_out(held_out)
        self._check_front("training", self._train_on(train), ahead)

    def _check_front(self, what: str, batches: Iterator[HostBatch], expected: list[HostBatch]) -> None:
        found = list(itertools.islice(batches, len(expected)))
        if len(found) < len(expected) or not all(map(examples.are_same, found, expected)):
            self._warn(
                f"returns other {what} batches each time it is called, so a run that is stopped and taken up "
                "is not the run that was not stopped, bit for bit. Write: a fixed seed for every shuffle, "
                "draw and augmentation."
            )

    def _check_held_out(self, batches: Iterator[Any]) -> None:
        for number, kept in enumerate(self._kept):
            found = next(batches, None)
            if found is None or not examples.are_same(self._own(found), kept):
                raise DataError(
                    f"{self._where} returns other batches each time it is called (batch {number} differs): "
                    f"the first {len(self._kept)} are held out, and a later pass would train on them. Write: "
                    "return train, held_out (two iterables that share no example), or a fixed seed for the "
                    "order of the batches."
                )

    def _warn_of_smaller(self, batch: HostBatch, first: HostBatch) -> None:
        if not self._has_warned_of_smaller:
            self._has_warned_of_smaller = True
            self._warn(
                f"has a batch of {examples.length(batch)} examples in the middle of a pass, where the first "
                f"has {examples.length(first)}: a step of another shape is compiled for it. Write: batches "
                "of one size, of which only the last of a pass may have fewer examples."
            )

    def _warn_of_last(self, batch: HostBatch, first: HostBatch) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(
                f"ends with a batch of {examples.length(batch)} examples, where the first has "
                f"{examples.length(first)}: it is not trained on, in any pass. Write: batches of one size, "
                "padded and masked or repeated without an end."
            )

    def _warn(self, what: str) -> None:
        warnings.warn(f"{self._where} {what}", DataWarning, stacklevel=3)
