"""The common parts of all ways to one number: the rows, their sows, and the form of a way."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import sowlog
from tests.support.oracles import public_reducers

ROWS = 4
LOSS_WEIGHT = 0.5
REDUCERS = public_reducers()
Way = Callable[[jax.Array], dict[str, Any]]
Ways = dict[str, tuple[Way, int]]
"""name -> the way, and how many passes it makes: losses are averaged over them."""


class Framework(NamedTuple):
    """The ways of one framework.

    Attributes:
        name: stands before the names of its ways.
        whole: one call on all rows.
        element: a scan over rematerialized layers, of a single row of any length.
        structures: ways within one pass, by the transforms of the framework.
    """

    name: str
    whole: Way
    element: Way
    structures: Ways


def sow_all(row: jax.Array, *module: Any) -> None:
    """Sow a row under the name of each public reducer, and its sum as a loss, in a module or without one."""
    sow_statistics(row, *module)
    sow_loss(row, *module)


def sow_statistics(row: jax.Array, *module: Any) -> None:
    """Sow a row under the name of each public reducer."""
    for name, reducer in REDUCERS.items():
        sowlog.sow(*module, name, row, reducer)


def sow_loss(row: jax.Array, *module: Any) -> None:
    """Sow the sum of a row as a loss."""
    sowlog.sow_loss(*module, "loss", jnp.sum(row), weight=LOSS_WEIGHT)


def batch_mesh() -> Mesh:
    """Return a mesh with a device for each row."""
    return Mesh(np.array(jax.devices()[:ROWS]), ("batch",))


def shard_map_over(
    function: Callable[..., Any], *, check: bool, mesh: Mesh | None = None
) -> Callable[..., Any]:
    """Map a function over the rows of a batch, one shard per device, and return one replica's result."""
    specs = {"mesh": mesh or batch_mesh(), "in_specs": PartitionSpec("batch"), "out_specs": PartitionSpec()}
    return jax.shard_map(function, check_vma=check, **specs)
