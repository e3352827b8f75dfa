"""The placement of arrays: a mesh of all devices of all processes, and the part of each device.

The step is written for the whole batch, as for one device. XLA cuts it by the shardings made here, and puts
in the collectives; so sown values are reduced over the whole batch too, however many devices there are.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from train.config.errors import ConfigError
from train.data.examples import HostBatch
from train.tasks import Batch

LARGE = 2**14
"""Elements of the smallest array that "fsdp" splits: to gather a smaller one costs more than it saves."""


class Devices:
    """The devices of a run, along one axis over which batches are spread.

    Every process of the run makes the same arrays on the host, and puts the parts on its own devices.

    Args:
        sharding: "replicated", or "fsdp": each large array of the state is split among the devices.
        devices: JAX's devices to run on; by default all devices of all processes.

    Attributes:
        count: the number of devices.
        everywhere: the sharding of an array of which each device holds a copy.
        all: JAX's devices.
        local: those of this process.
    """

    def __init__(
        self,
        sharding: Literal["replicated", "fsdp"] = "replicated",
        devices: Sequence[Any] | None = None,
    ):
        self._mesh = Mesh(np.array(jax.devices() if devices is None else devices), ("data",))
        self._is_split = sharding == "fsdp"
        self.count = self._mesh.size
        self.all: list[Any] = list(self._mesh.devices.flat)
        self.local = [device for device in self.all if device.process_index == jax.process_index()]
        self.everywhere = self._sharding()
        # By the axis that is spread. Made once: to make them at each step cost 10 us.
        self._along = (self._sharding("data"), self._sharding(None, "data"))

    def kinds(self) -> list[str]:
        """Return the name of each device's kind."""
        return [device.device_kind for device in self.all]

    def place_batch(self, batch: HostBatch, *, microbatches: int = 1) -> Batch:
        """Spread a batch over the devices by its examples, or by those of each microbatch.

        Args:
            batch: arrays with the examples on the first axis. A scalar goes to all devices.
            microbatches: the number of parts, as `cut` makes them.

        Raises:
            ConfigError: Devices and microbatches do not divide the size of the batch.
        """
        self._check_size(batch, microbatches)
        axis = int(microbatches > 1)
        return {
            name: self._place(array, self._along[axis] if array.ndim > axis else self.everywhere)
            for name, array in cut(batch, microbatches).items()
        }

    def place_held_out(self, batches: HostBatch) -> Batch:
        """Spread stacked batches over the devices, along their second axis.

        If the devices do not divide their size, as that of a remainder, each device holds all of them: no
        example may be left out or counted twice. A batch's numbers that are of no example go to all devices.
        """
        fits = all(array.shape[1] % self.count == 0 for array in batches.values() if array.ndim > 1)
        return {
            name: self._place(array, self._along[1] if fits and array.ndim > 1 else self.everywhere)
            for name, array in batches.items()
        }

    def place_per_device(self, value: int) -> jax.Array:
        """Place a number on each device of this process; return those of all devices, int32 [count]."""
        return self._place(np.full(self.count, value, np.int32), self._along[0])

    def shardings(self, state: Any) -> Any:
        """Return the sharding of each array of a state.

        Args:
            state: a tree of arrays or of `jax.ShapeDtypeStruct`s.
        """
        return jax.tree.map(lambda leaf: self._sharding(*self._split(leaf.shape)), state)

    def share(self, state: Any) -> int:
        """Return the bytes of a state that one device holds."""
        parts = zip(jax.tree.leaves(state), jax.tree.leaves(self.shardings(state)), strict=True)
        return sum(
            math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in parts
        )

    def _split(self, shape: tuple[int, ...]) -> tuple[str | None, ...]:
        """Name the mesh's axis at the array's largest that the devices divide; nothing to split none."""
        whole = [(size, -axis) for axis, size in enumerate(shape) if size % self.count == 0]
        if not self._is_split or not whole or math.prod(shape) < LARGE:
            return ()
        return (*[None] * -max(whole)[1], "data")

    def _sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(*axes))

    def _place(self, array: NDArray[Any], sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        # Each part by the explicit transfer, which the loop's guard lets pass.
        here = sharding.addressable_devices_indices_map(array.shape)
        parts = [jax.device_put(array[index], device) for device, index in here.items()]
        return jax.make_array_from_single_device_arrays(array.shape, sharding, parts)

    def _check_size(self, batch: HostBatch, microbatches: int) -> None:
        unit = self.count * microbatches
        uneven = [array.shape[0] for array in batch.values() if array.ndim and array.shape[0] % unit]
        if not uneven:
            return
        size = uneven[0]
        over = " and ".join(
            f"{count} {what}"
            for count, what in ((self.count, "devices"), (microbatches, "microbatches"))
            if count > 1
        )
        near = [multiple for multiple in (size // unit * unit, -(-size // unit) * unit) if multiple]
        raise ConfigError(
            [
                f"data.batch_size: {size} examples do not spread evenly over {over}; "
                f"write {' or '.join(f'data.batch_size={multiple}' for multiple in near)}"
            ]
        )


def cut(batch: HostBatch, microbatches: int) -> HostBatch:
    """Cut a batch into microbatches on a new first axis; one microbatch is the batch as it is.

    On the host that is free: on the devices, each microbatch would lie on a few of them.
    """
    if microbatches == 1:
        return batch
    return {
        name: array.reshape(microbatches, -1, *array.shape[1:]) if array.ndim else array.repeat(microbatches)
        for name, array in batch.items()
    }
