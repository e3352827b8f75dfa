"""Checkpoints of a run, with orbax."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from train.step import TrainState


class Checkpoints:
    """The last few states of a run, each in a folder named after its step.

    Args:
        folder: where they are kept; made if it is not there.
        keep: how many; an older one is deleted when a newer one is complete.
    """

    def __init__(self, folder: Path, *, keep: int):
        # Saved while the loop waits: a state is donated to the next step as soon as it is saved.
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Saves the state after `step` updates, unless it is saved already."""
        if step != self.latest():
            self._manager.save(step, args=ocp.args.StandardSave(state))  # type: ignore[call-arg]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Reads a state back, onto whatever devices, however many of them wrote it.

        Args:
            step: what `latest` returned.
            like: a state of the same structure, of `jax.ShapeDtypeStruct`s with the shardings to come.
        """
        lent: Any = self._manager.restore(step, args=ocp.args.StandardRestore(like))  # type: ignore[call-arg]
        return _own(lent, jax.tree.map(lambda leaf: leaf.sharding, like))


def _own(state: TrainState, shardings: TrainState) -> TrainState:
    """Copies a state, as the step takes it over.

    On jax 0.5.0 with orbax 0.11.0 a run that donated the restored arrays themselves crashed on the CPU; one
    that donated copies made under jit did not. Why was not traced.
    """
    return jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=shardings)(state)
