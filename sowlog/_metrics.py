"""The metrics of one `log` call, on the training thread: one packed buffer, and the numbers of the host."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from sowlog import _packing, _tree
from sowlog._layout import Packed
from sowlog._state import State


def prepare(metrics: Any) -> tuple[Packed | None, dict[str, float]]:
    """Splits what `log` was given into one packed buffer and the numbers by tag that are on the host already.

    A tree that was not packed in the step is packed here, by one cached jit.
    """
    if isinstance(metrics, Packed):
        _check_one_step(metrics)
        return metrics, {}
    leaves, structure = jax.tree.flatten(metrics, is_leaf=_is_final)
    nested = [leaf for leaf in leaves if isinstance(leaf, Packed)]
    if nested:
        raise TypeError(
            "a packed tree was logged inside another tree, where its tags would change at every step: "
            "add the other metrics before packing, `sowlog.pack({**metrics, ...})`, or log it by itself."
        )
    on_host = [isinstance(leaf, bool | int | float | np.generic | np.ndarray) for leaf in leaves]
    device = structure.unflatten([None if host else leaf for leaf, host in zip(leaves, on_host, strict=True)])
    host = structure.unflatten([leaf if host else None for leaf, host in zip(leaves, on_host, strict=True)])
    packed = None if all(on_host) else _packing.jitted_pack(device)
    numbers = dict(_host_numbers(host))
    _packing.check_tags((*numbers, *(packed.layout.scalars if packed else ())))
    return packed, numbers


def _check_one_step(packed: Packed) -> None:
    if packed.buffer.ndim != 1:
        raise ValueError(
            f"a packed buffer of shape {packed.buffer.shape} was logged: a scan or vmap has stacked the "
            "results of several steps. Merge their states and pack once, or log each by itself: "
            "`jax.tree.map(lambda leaf: leaf[i], packed)`."
        )


def _is_final(leaf: Any) -> bool:
    return isinstance(leaf, State | Packed)


def _host_numbers(tree: Any) -> Iterator[tuple[str, float]]:
    for tag, leaf in _tree.leaves_by_tag(tree):
        array = np.asarray(leaf)
        _packing.check_real(tag, array)
        yield from zip(
            _tree.index_tags(tag, array.shape), array.astype(np.float64).ravel().tolist(), strict=True
        )
