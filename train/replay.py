"""A replay of a diverged run: its first step that is not finite, and the origin of the NaN.

A step depends on the state, the seed and its number alone, so steps from a checkpoint on are those of the
run, by the same compiled step. Evaluations change no step, and are left out.
"""

import dataclasses
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import sowlog
from train import data, optimizer, step
from train.config.errors import RunWarning
from train.config.experiment import Config
from train.config.schedule import with_end
from train.data import Dataset
from train.data.drawing import Alone, interruptible
from train.parallel.devices import Devices
from train.parts import Parts, assemble
from train.runs import provenance, results
from train.runs.checkpoint import SavedStates
from train.runs.folder import SharedFolder
from train.step import TrainState
from train.system.signals import SignalFlag
from train.tasks import Batch, Variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """The result of a replay.

    Attributes:
        first: the step at which the replay began.
        end: the step at which the run ended, or was to end.
        step: the first step that was not finite; None if all were.
        origin: lines on the origin; empty if `step` is None.
        is_found: whether an origin was found.
    """

    first: int
    end: int
    step: int | None = None
    origin: tuple[str, ...] = ()
    is_found: bool = False

    def describe(self) -> str:
        """Return lines for people."""
        if self.step is not None:
            failed = f"step {self.step}: the objective or its gradient is not finite"
            return "\n".join([f"{failed} (replayed from step {self.first})", *self.origin])
        if self.first < self.end:
            finite = f"all steps from {self.first} to the last of the run, {self.end - 1}, are finite"
        else:
            finite = f"no step is left to replay: the run ended with the checkpoint of step {self.first}"
        return f"{finite}.\nEvaluations are not replayed: a NaN or infinity in one is not explained."


class _Moment(NamedTuple):
    """A step with its inputs."""

    step: int
    state: TrainState
    batch: Batch


def explain(
    config: Config,
    dataset: Dataset,
    folder: SharedFolder,
    *,
    trained: Callable[[int, dict[str, jax.Array]], None],
    failed: Callable[[int], None],
) -> Explanation:
    """Replay a run from its newest checkpoint until a step is not finite, and explain that step.

    A run without a checkpoint is replayed from its beginning.

    Args:
        config: the experiment.
        dataset: the training and held-out batches.
        folder: the run folder, which is only read.
        trained: called with each step and its values, for a display.
        failed: called with the step that is not finite, before the search for the origin.

    Raises:
        ConfigError: As `train.parts.assemble`.
    """
    config, on = with_end(config, folder.decay_steps), Devices(config.sharding)
    with SavedStates(folder.checkpoints) as saved, interruptible(dataset, Alone(SignalFlag())) as batches:
        parts = assemble(config, batches, _Sound(saved), on)
        _warn_of_changes(folder, on, data.digest(batches, config.seed))
        end = _end(config, folder)
        moments = _diverge(parts, end, trained)
        if not moments:
            return Explanation(first=parts.at, end=end)
        failed(moments[-1].step)
        is_found, origin = _explain(config, parts, moments)
        return Explanation(
            first=parts.at, end=end, step=moments[-1].step, origin=tuple(origin), is_found=is_found
        )


def _end(config: Config, folder: SharedFolder) -> int:
    """Return the step at which the run ended, early perhaps, or is to end."""
    finished = results.read(folder.path)
    return finished.step if finished is not None and finished.steps == config.steps else config.steps


def _warn_of_changes(folder: SharedFolder, devices: Devices, digest: str) -> None:
    if changes := provenance.changes(folder.path, devices=devices.kinds(), data=digest):
        warnings.warn(
            f"this replay has {', '.join(changes)}: it may differ from the run.", RunWarning, stacklevel=2
        )


def _diverge(
    parts: Parts, end: int, trained: Callable[[int, dict[str, jax.Array]], None]
) -> tuple[_Moment, ...]:
    """Train until a step is not finite; return it, after the one before; nothing if all are finite.

    The step is that of the run, to which the state is donated, so a copy is kept: a step that keeps its
    argument would be another program, which may round otherwise.
    """
    copied = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
    state, moments = parts.state, deque[_Moment](maxlen=2)
    for at in range(parts.at, end):
        batch = parts.batch(at)
        moments.append(_Moment(at, copied(state), batch))
        state, summary = parts.train_step(state, batch)
        trained(at, summary.shown)
        if not jax.device_get(summary.finite).item():
            return tuple(moments)
    return ()


def _explain(config: Config, parts: Parts, moments: tuple[_Moment, ...]) -> tuple[bool, list[str]]:
    """Return whether the origin is found, and lines on it."""
    *before, failed = moments
    checked = step.make_checked(parts.task, config)
    report = sowlog.explain_nonfinite(checked)(failed.state, failed.batch)
    root = report
    while root.cause is not None:
        root = root.cause
    if not (before and root.origin == "argument" and root.name.startswith("state")):
        return bool(report), [str(report)]
    # The objective of the step before was finite, and its update was not.
    (made,) = before
    earlier = sowlog.explain_nonfinite(_make_updated(config, parts))(made.state, made.batch)
    return bool(earlier), [str(report), f"{root.name} is of the update of step {made.step}:", str(earlier)]


def _make_updated(config: Config, parts: Parts) -> Callable[[TrainState, Batch], dict[str, Any]]:
    """Return the function from a state and a batch to the parts of the state that the next step takes."""
    rule, schedule = optimizer.build(config.optimizer, steps=config.steps)
    update = step.make_update(parts.task, rule, schedule, config)

    def updated(state: TrainState, batch: Batch) -> dict[str, Any]:
        after, _ = update(state, batch)
        return {"variables": after.variables}

    return updated


class _Sound:
    """The newest saved state whose variables are no cause of a NaN.

    An update of finite gradients may overflow, and without `stop_on_nan` every state is saved.

    Args:
        saved: the checkpoints of the run.
    """

    def __init__(self, saved: SavedStates):
        self._saved = saved

    def restore(self, like: TrainState) -> tuple[TrainState, int] | None:
        """Return the state and its step; None if the replay begins at the first step."""
        for at, state, cause in self._saved.read(like):
            if state is not None and _is_sound(state.variables):
                return state, at
            reason = f"cannot be read: {cause}" if state is None else "holds a NaN or infinity"
            warnings.warn(
                f"the checkpoint of step {at} {reason}. The replay begins before it.",
                RunWarning,
                stacklevel=2,
            )
        return None


def _is_sound(variables: Variables) -> bool:
    """Return whether all parameters are finite; other variables may have infinities, such as a mask."""
    return all(jax.device_get(list(_flags(variables))))


def _flags(variables: Variables) -> Iterator[jax.Array]:
    for name, tree in variables.items():
        for leaf in jax.tree.leaves(tree):
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                yield jnp.all(jnp.isfinite(leaf) if name == "params" else ~jnp.isnan(leaf))
