"""The scalars of runs as one table, in the form of NumPy, pandas or Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sowlog._extras import import_extra


class Curve(NamedTuple):
    """The scalars of a tag.

    Attributes:
        steps: int64, shape [n].
        wall_times: float64, shape [n], seconds since the epoch.
        values: float32, shape [n].
    """

    steps: NDArray[np.int64]
    wall_times: NDArray[np.float64]
    values: NDArray[np.float32]


Curves = Mapping[tuple[str, ...], Curve]
"""Curves by the names of their rows: the tag, behind the run if there are several."""


def as_numpy(names: tuple[str, ...], curves: Curves) -> dict[str, NDArray[Any]]:
    """Return a row for each point.

    Args:
        names: the names of the first columns.
        curves: the curves by the texts of these columns.

    Returns:
        The columns by name: the first ones as object arrays of str, then step, wall_time and value.
    """
    texts = {
        name: np.repeat(_texts([key[place] for key in curves]), _sizes(curves))
        for place, name in enumerate(names)
    }
    return {**texts, **_numbers(curves)}


def as_pandas(names: tuple[str, ...], curves: Curves) -> Any:
    """Return the same as a DataFrame, whose texts are categories.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    pandas = _import("pandas", "to_pandas", "pandas")
    coded = {
        name: pandas.Categorical.from_codes(codes, texts) for name, codes, texts in _coded(names, curves)
    }
    return pandas.DataFrame({**coded, **_numbers(curves)}, copy=False)


def as_arrow(names: tuple[str, ...], curves: Curves) -> Any:
    """Return the same as a Table of Arrow, whose texts are dictionaries.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """
    arrow = _import("pyarrow", "to_arrow", "arrow")
    coded = {
        name: arrow.DictionaryArray.from_arrays(codes, arrow.array(texts, arrow.string()))
        for name, codes, texts in _coded(names, curves)
    }
    return arrow.table({**coded, **_numbers(curves)})


def _coded(names: tuple[str, ...], curves: Curves) -> list[tuple[str, NDArray[np.int32], list[str]]]:
    """Return for each column of texts its name, the index of the text of each row, and the texts."""
    columns: list[tuple[str, NDArray[np.int32], list[str]]] = []
    for place, name in enumerate(names):
        texts = list(dict.fromkeys(key[place] for key in curves))
        codes = {text: code for code, text in enumerate(texts)}
        of_curves = np.array([codes[key[place]] for key in curves], np.int32)
        columns.append((name, np.repeat(of_curves, _sizes(curves)), texts))
    return columns


def _numbers(curves: Curves) -> dict[str, NDArray[Any]]:
    return {
        "step": _joined([curve.steps for curve in curves.values()], np.int64),
        "wall_time": _joined([curve.wall_times for curve in curves.values()], np.float64),
        "value": _joined([curve.values for curve in curves.values()], np.float32),
    }


def _joined(columns: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *columns])


def _sizes(curves: Curves) -> list[int]:
    return [len(curve.steps) for curve in curves.values()]


def _texts(texts: list[str]) -> NDArray[np.object_]:
    column = np.empty(len(texts), object)
    column[:] = texts
    return column


def _import(name: str, method: str, extra: str) -> Any:
    """Import a library where it is first used, which may take a second."""
    need, otherwise = f"{method} makes its table with {name}", "to_numpy needs no other package"
    return import_extra(name, need, extra=extra, otherwise=otherwise)
