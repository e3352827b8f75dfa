"""Real data that is already on the machine, scikit-learn's digits and text as bytes, or a user's own.

A batch is a pure function of seed and step, so that a run can be stopped and taken up anywhere without
saving the state of an iterator. Everything here is NumPy: errors are reported before JAX is imported.
"""

from typing import Protocol

from train.config.data import DataOptions, DigitsData, TextData
from train.data import examples, own
from train.data.digits import Digits
from train.data.examples import HostBatch
from train.data.text import Text


class Dataset(Protocol):
    """Training batches by step, and held-out batches, which hold each held-out example once."""

    def batch(self, seed: int, step: int) -> HostBatch:
        """Draw the batch of a step; the same seed and step give the same batch, bit for bit."""
        ...

    def held_out(self) -> HostBatch:
        """Return the held-out batches of one size, stacked along the first axis."""
        ...

    def remainder(self) -> HostBatch:
        """Return the remainder, fewer examples than a batch, as a stack of one; {} if there is none."""
        ...


def load(options: DataOptions, *, needs: tuple[str, ...] = ()) -> Dataset:
    """Read the data that the configuration names.

    Args:
        options: the section `data` of the configuration.
        needs: the arrays that the task takes from a batch, which a user's own data must have.

    Raises:
        DataError: The data is absent, unreadable or too small, or lacks an array that the task needs.
    """
    match options:
        case DigitsData():
            return Digits(options)
        case TextData():
            return Text(options)
        case _:
            return own.load(options, needs)


def digest(dataset: Dataset, seed: int) -> str:
    """Return the digest of the data.

    Of a dataset without a digest of its own, such as a user's iterable, these are its first batch and its
    held-out ones: a change behind them is not seen.
    """
    if (own := getattr(dataset, "digest", None)) is not None:
        return own()
    return examples.digest(dataset.batch(seed, 0), dataset.held_out(), dataset.remainder())
