"""The result of each public reducer in float64 NumPy: the oracle of all laws."""

from collections.abc import Callable
from typing import Any

import numpy as np

import sowlog

Oracle = Callable[[np.ndarray, np.ndarray], float]
"""(flat float64 values, flat float64 weights) -> result."""


def _std(x: np.ndarray, w: np.ndarray) -> float:
    mean = np.average(x, weights=w)
    return float(np.sqrt(np.average((x - mean) ** 2, weights=w)))


ORACLES: dict[str, Oracle] = {
    "sum": lambda x, w: float(np.sum(x * w)),
    "mean": lambda x, w: float(np.average(x, weights=w)),
    "min": lambda x, w: float(np.min(x[w != 0])),
    "max": lambda x, w: float(np.max(x[w != 0])),
    "last": lambda x, w: float(x[w != 0][-1]),
    "std": _std,
    "rms": lambda x, w: float(np.sqrt(np.average(x**2, weights=w))),
    "nonfinite": lambda x, w: float(np.sum(~np.isfinite(x[w != 0]))),
}


DISTRIBUTIONS = frozenset({"histogram", "quantiles"})
"""Reducers with more than a number as their result: their oracles are in test_distributions.py."""


def scalar_reducers() -> dict[str, sowlog.Reducer]:
    """Return the public reducers whose result is one number."""
    return {name: value for name, value in public_reducers().items() if name not in DISTRIBUTIONS}


def public_reducers() -> dict[str, sowlog.Reducer]:
    """Return every reducer of the public interface, found by introspection."""
    return {name: value for name, value in vars(sowlog).items() if isinstance(value, sowlog.Reducer)}


def expected(name: str, values: list[Any], weights: list[Any] | None = None) -> float:
    """Return the oracle's number for values sown one after another."""
    flat = np.concatenate([np.asarray(value, np.float64).ravel() for value in values])
    if weights is None:
        return ORACLES[name](flat, np.ones_like(flat))
    fitted = [
        np.broadcast_to(np.asarray(weight, np.float64), np.shape(value)).ravel()
        for value, weight in zip(values, weights, strict=True)
    ]
    return ORACLES[name](flat, np.concatenate(fitted))


def tolerance(name: str, values: list[Any]) -> float:
    """Return the absolute error allowed: 1e-6 of the sum of absolute addends (of the result, elsewhere)."""
    flat = np.concatenate([np.asarray(value, np.float64).ravel() for value in values])
    scale = np.sum(np.abs(flat)) if name == "sum" else np.max(np.abs(flat))
    return 1e-6 * float(scale) if name in ("sum", "mean") else 0.0
