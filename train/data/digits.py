"""scikit-learn's handwritten digits, read from its own file."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.config.data import DigitsData
from train.data import examples
from train.data.examples import DataError, HostBatch


class Digits:
    """1797 handwritten digits: `image` float32 [B, 8, 8, 1] in 0 … 1, `label` int32 [B]."""

    def __init__(self, options: DigitsData):
        table = _digits_table()
        # The file is in no particular order of writers; one fixed shuffle splits it.
        table = table[np.random.default_rng(0).permutation(len(table))]
        self._images = (table[:, :-1] / 16).astype(np.float32).reshape(-1, 8, 8, 1)
        self._labels = table[:, -1].astype(np.int32)
        self._size = options.batch_size
        self._split = len(table) * 4 // 5

    def batch(self, seed: int, step: int) -> HostBatch:
        """Draw images of the first four fifths, none twice in one batch."""
        chosen = examples.generator(seed, step).permutation(self._split)[: self._size]
        return {"image": self._images[chosen], "label": self._labels[chosen]}

    def held_out(self) -> HostBatch:
        """Return the last fifth, 360 images, in batches."""
        return self._cut_held_out()[0]

    def remainder(self) -> HostBatch:
        """Return those of the last fifth that fill no batch."""
        return self._cut_held_out()[1]

    def _cut_held_out(self) -> tuple[HostBatch, HostBatch]:
        held_out: HostBatch = {"image": self._images[self._split :], "label": self._labels[self._split :]}
        return examples.cut_held_out(held_out, self._size)


def _digits_table() -> NDArray[np.float64]:
    """Read scikit-learn's own file: 64 pixels in 0 … 16 and the label, one image a row.

    Importing scikit-learn for it would take seconds.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("the digits need scikit-learn, which is not installed: pip install scikit-learn.")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(file, "rt") as rows:
            return np.loadtxt(rows, delimiter=",")
    except OSError as error:
        raise DataError(f"scikit-learn's digits cannot be read: {error}.") from error
