"""Checkpoints of a run, with orbax.

Each is a folder named after its step, laid out as orbax's CheckpointManager does. The manager itself is not
used: it trusts whatever folder has a number for a name, will not save at a step before it, and reads, with
warnings of its own, checkpoints that a kill left half deleted.
"""

import itertools
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from train.config.errors import RunWarning, one_line
from train.runs import file_list
from train.runs.folder import RunFolderError
from train.runs.provenance import free_name
from train.system import files
from train.system.event_loops import draining
from train.system.exits import abandoned

_ITEM = "default"
# The end of a checkpoint's name until all of its files are on disk.
_PART = "part"
_NONE = -1
_OTHERS_CAUSE = "another process cannot read it"
StateT = TypeVar("StateT")
# Characters of a cause: of a longer one both ends are shown, as TensorStore comes to the point at last.
_LONGEST = 300


class NotSavedError(Exception):
    """A checkpoint could not be written: the cause, in one line."""


class SavedStates:
    """The states in a folder of checkpoints. Nothing is written there.

    All processes of a run call the same methods at the same time. Process 0 alone lists the folder.

    Args:
        folder: the folder of the checkpoints.
    """

    def __init__(self, folder: Path):
        self._folder = folder.absolute()
        self._reader = ocp.StandardCheckpointHandler()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close orbax's reader."""
        self._reader.close()

    def numbered(self) -> list[int]:
        """Return the steps of the complete checkpoints, the newest first."""
        if not self._folder.exists():
            return []
        names = (path.name for path in self._folder.iterdir())
        return sorted((int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)), reverse=True)

    def read(self, like: StateT) -> Iterator[tuple[int, StateT | None, str]]:
        """Yield each step with its state, or with None and the cause for which it cannot be read.

        Args:
            like: a state of the same structure, of `jax.ShapeDtypeStruct`s with the shardings to come.
        """
        for step in self._steps():
            yield step, *self._read(step, like)

    def _steps(self) -> Iterator[int]:
        """Yield the steps that process 0 sees, the newest first, in all processes."""
        seen = self.numbered() if jax.process_index() == 0 else []
        for at in itertools.count():
            step = _of_process_0(seen[at] if at < len(seen) else _NONE)
            if step == _NONE:
                return
            yield step

    def _read(self, step: int, like: StateT) -> tuple[StateT | None, str]:
        """Return a state, or None with the cause; the cause alone if another process has none."""
        state, cause = None, ""
        folder = self._folder / str(step)
        try:
            file_list.check(folder)
            state = self._restore(folder / _ITEM, like)
        except Exception as error:  # Orbax and TensorStore raise every kind over a damaged file.
            cause = _cause(error)
        if _in_all(is_so=not cause):
            return state, ""
        return None, cause or _OTHERS_CAUSE

    def _restore(self, folder: Path, like: StateT) -> StateT:
        # By the handler: a checkpointer waits for all processes at the end, also for one that failed.
        with draining():
            return self._reader.restore(folder, args=ocp.args.StandardRestore(like))  # type: ignore[call-arg]


class Checkpoints:
    """The last few states of a run, each in a folder named after its step.

    All processes of a run call the same methods at the same time. Process 0 alone lists the folder.

    Args:
        folder: their folder; made if it is not there.
        keep: their number; an older one is deleted when a newer one is complete.

    Attributes:
        newest: the step of the newest that was saved or read by this process, None so far.
    """

    def __init__(self, folder: Path, *, keep: int):
        self.newest: int | None = None
        self._folder, self._keep = folder.absolute(), keep
        self._writer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        self._saved = SavedStates(folder)
        if jax.process_index() == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._clear("*")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._saved.close()

    def save(self, step: int, state: Any) -> None:
        """Save the state after `step` updates while the loop waits, unless it is saved already.

        A state is donated to the next step as soon as it is saved.

        Raises:
            NotSavedError: The checkpoint cannot be written; nothing of it is left, and the one before stays.
        """
        if step == self.newest:
            return
        args = ocp.args.Composite(**{_ITEM: ocp.args.StandardSave(state)})  # type: ignore[call-arg]
        part, folder = self._folder / f"{step}.{_PART}", self._folder / str(step)
        try:
            with abandoned(), draining():
                self._writer.save(part, args=args)
            if jax.process_index() == 0:
                file_list.write(part)
                part.rename(folder)
                files.sync_folder(self._folder)
        except (OSError, ValueError) as error:  # ValueError: TensorStore's, whatever the cause.
            self._clear(str(step))
            raise NotSavedError(f"{folder} cannot be written: {_cause(error)}.") from error
        self.newest = step
        if jax.process_index() == 0:
            self._delete_old()

    def restore(self, like: StateT) -> tuple[StateT, int] | None:
        """Read the newest state that can be read, onto whatever devices, however many of them wrote it.

        One that cannot be read is quarantined with a warning as soon as an older one is read.

        Args:
            like: a state of the same structure, of `jax.ShapeDtypeStruct`s with the shardings to come.

        Returns:
            The state and its step; None if there is no checkpoint at all.

        Raises:
            RunFolderError: There are checkpoints, and none can be read.
        """
        unread: dict[int, str] = {}
        for step, state, cause in self._saved.read(like):
            if state is not None:
                self._quarantine(unread, used=step)
                self.newest = step
                return state, step
            unread[step] = cause
        if unread:
            raise RunFolderError(self._describe(unread))
        return None

    def _quarantine(self, unread: dict[int, str], *, used: int) -> None:
        """Rename unreadable checkpoints: taken up later, one would skip the steps that are trained now."""
        if jax.process_index():
            return
        for step, cause in unread.items():
            folder = self._folder / str(step)
            aside = free_name(folder.with_name(f"{step}.unreadable"))
            folder.rename(aside)
            warnings.warn(
                f"the checkpoint {folder} cannot be read: {cause}. It is now {aside.name} there, and the run "
                f"goes on from the checkpoint of step {used}.",
                RunWarning,
                stacklevel=2,
            )

    def _describe(self, unread: dict[int, str]) -> str:
        lines = [f"  {self._folder / str(step)}: {cause}" for step, cause in unread.items()]
        return (
            "no checkpoint of this run can be read, and none was touched:\n" + "\n".join(lines) + "\n"
            "If the model or its optimizer was changed, give another --workdir; to train anew here, delete "
            f"{self._folder}."
        )

    def _delete_old(self) -> None:
        """Delete all but the newest few; one that is half deleted no longer has the name of a checkpoint."""
        for step in self._saved.numbered()[self._keep :]:
            (self._folder / str(step)).rename(self._folder / f"{step}.deleted")
            self._clear(str(step))

    def _clear(self, step: str) -> None:
        """Delete the rest of a save or a deletion that was cut short by a kill or an error."""
        for ending in (f"{_PART}*", "deleted"):
            for left in self._folder.glob(f"{step}.{ending}"):
                # A file that a failing disk does not let go is deleted when the run continues.
                shutil.rmtree(left, ignore_errors=True)


def _cause(error: Exception) -> str:
    """Return the cause in a line, without the pages of settings that TensorStore adds."""
    said = re.split(r" \[\w+=| See full TensorStore details", one_line(error))[0].rstrip(". ")
    if len(said) > _LONGEST:
        said = f"{said[: _LONGEST // 2]} ... {said[-_LONGEST // 2 :]}"
    return f"{type(error).__name__}: {said}"


def _of_process_0(number: int) -> int:
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def _in_all(*, is_so: bool) -> bool:
    if jax.process_count() == 1:
        return is_so
    return bool(np.asarray(multihost_utils.process_allgather(np.bool_(is_so))).all())
