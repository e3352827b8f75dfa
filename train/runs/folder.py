"""The folder of a run: configuration, provenance, event files and checkpoints."""

import contextlib
import dataclasses
import fcntl
import os
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from train.config import file as config_file
from train.config import schedule
from train.config.experiment import Config
from train.runs import provenance
from train.runs.provenance import META
from train.system import files

CONFIG, LOCK, CHECKPOINTS = "config.yaml", ".lock", "checkpoints"
# Settings that a continued run may change, as they do not change its values.
_CHANGEABLE = ("profile", "alerts", "fold", "heat_map_every", "tag_budget", "writers", "rates", "rates.every")


_REMEDY = "Give another --workdir, or put it back, as the run's own command with --print-config prints it."


class RunFolderError(Exception):
    """The folder cannot take this run: one line for each reason."""


class UnreadableFolderError(RunFolderError):
    """The folder's own configuration is absent or cannot be read, so its run is unknown."""


@dataclasses.dataclass(frozen=True)
class SharedFolder:
    """A run folder in which this process does not write: process 0 does, or the run is replayed.

    Attributes:
        path: the folder, on a file system that all of them see.
        is_continued: whether a run of this configuration was here before.
        decay_steps: the step at which the cosine of a continued run ends; None if the configuration has it.
    """

    path: Path
    is_continued: bool
    decay_steps: int | None = None

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints within."""
        return self.path / CHECKPOINTS


class RunFolder:
    """A folder that one process at a time trains in.

    Attributes:
        path: the folder.
        checkpoints: the folder of the checkpoints within.
        is_continued: whether a run of this configuration was here before.
        decay_steps: the step at which the cosine of a continued run ends; None if the configuration has it.
        note: the change of its learning rate's schedule, in a line; empty if there is none.
    """

    def __init__(self, path: Path, config: Config):
        """Take the folder, made if it is not there.

        Raises:
            RunFolderError: Another process trains there, or the folder holds another configuration.
        """
        self.path = path
        self.checkpoints = path / CHECKPOINTS
        self.decay_steps: int | None = None
        self.note = ""
        with usable(path):
            self._is_new = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as undo:
                self._lock = _lock(path)
                undo.callback(os.close, self._lock)
                self.is_continued = self._take(config)
                undo.pop_all()

    def _take(self, config: Config) -> bool:
        """Return whether a run of this configuration was here before, and make it the folder's."""
        old = _check(self.path, config)
        if old is not None:
            trained = _trained(self.path)
            self.decay_steps = schedule.inherited_end(old, config, trained)
            config = schedule.with_end(config, self.decay_steps)
            self.note = schedule.describe_change(old, config, trained)
        files.write(self.path / CONFIG, config_file.dump(config))
        return old is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._is_begun():
            self._undo()
        os.close(self._lock)

    def _is_begun(self) -> bool:
        return (self.path / META).exists() or any(self.checkpoints.glob("*"))

    def _undo(self) -> None:
        """Leave the folder free for another run, or remove a new one."""
        (self.path / CONFIG).unlink(missing_ok=True)
        _remove_if_empty(self.checkpoints)
        if self._is_new and _is_same(self._lock, self.path / LOCK):
            (self.path / LOCK).unlink()
            _remove_if_empty(self.path)

    def write_meta(
        self, *, seed: int, argv: Sequence[str], devices: Sequence[str], step: int, data: str = ""
    ) -> provenance.Start:
        """Add a start to meta.json: libraries, code and data, with a warning of changes; return it.

        Args:
            seed: the run's seed.
            argv: the arguments of the program.
            devices: the kind of each device.
            step: the step at which it begins or continues.
            data: the digest of its data.
        """
        with usable(self.path):
            return provenance.begin(self.path, seed=seed, argv=argv, devices=devices, step=step, data=data)


@contextlib.contextmanager
def usable(path: Path) -> Generator[None]:
    """Raise an OSError over a run folder as an error of the run.

    Raises:
        RunFolderError: The folder raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"the run folder {path} cannot be used: {str(error).rstrip('.')}.") from None


def check_same_config(path: Path, config: Config) -> bool:
    """Return whether a run folder holds this configuration; False if it holds none.

    Raises:
        RunFolderError: The folder's configuration differs in more than the length of the run, or a longer run
            would learn nothing.
    """
    return _check(path, config) is not None


def open_to_read(path: Path, config: Config) -> SharedFolder:
    """Return the folder of a run of this configuration, without a lock and to be read alone.

    Raises:
        RunFolderError: No run was begun in the folder, or it holds another configuration.
    """
    with usable(path):
        old = _check(path, config)
        if old is None:
            raise RunFolderError(f"no run was begun in {path}: give the --workdir of a run.")
        decay_steps = schedule.inherited_end(old, config, _trained(path))
    return SharedFolder(path, is_continued=True, decay_steps=decay_steps)


def read_config(path: Path) -> Config | None:
    """Return the configuration of a run folder; None if no run was begun there.

    Raises:
        UnreadableFolderError: The configuration is absent beside checkpoints, or cannot be read.
    """
    file = path / CONFIG
    if not os.path.lexists(file):
        if not _trained(path):
            return None
        raise UnreadableFolderError(
            f"the run folder {path} holds checkpoints and no {CONFIG}, so whose run they are is not known. "
            f"{_REMEDY}"
        )
    try:
        return config_file.load(file)
    except config_file.ConfigError as error:
        raise UnreadableFolderError(
            f"the run folder {path} holds a configuration that this version cannot read:\n{error}\n{_REMEDY}"
        ) from None


def _check(path: Path, config: Config) -> Config | None:
    old = read_config(path)
    if old is None:
        return None
    differences = _differences(
        config_file.flatten(old.model_dump(mode="json")), config_file.flatten(config.model_dump(mode="json"))
    )
    # "sharding" places arrays alone, and the end of the schedule has a line of its own.
    for key in (*_CHANGEABLE, "sharding", "optimizer.decay_steps"):
        differences.pop(key, None)
    trained = _trained(path)
    # Raised or lowered, as long as no step beyond was made: a wrong length can be corrected.
    if trained <= config.steps:
        differences.pop("steps", None)
    if differences:
        lines = [f"  {key}: {before} there, {now} now" for key, (before, now) in differences.items()]
        raise RunFolderError(
            "\n".join((f"the run folder {path} holds another run:", *lines))
            + "\nGive another --workdir, or the "
            f"same configuration (steps may be any number from the {trained} that were made)."
        )
    settled = schedule.with_end(config, schedule.inherited_end(old, config, trained))
    if reason := schedule.describe_nothing_to_learn(old, settled, trained):
        raise RunFolderError(f"the run folder {path}: {reason}")
    return old


def _trained(path: Path) -> int:
    """Return the step of the newest checkpoint by its name, 0 if there is none."""
    with contextlib.suppress(OSError):
        names = [entry.name for entry in (path / CHECKPOINTS).iterdir()]
        return max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)
    return 0


def is_taken(path: Path) -> bool:
    """Return whether a process trains in a run folder at this moment."""
    try:
        with files.open_regular(path / LOCK, "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # No lock, or something else of its name: a run that begins there reports which.
        return False
    return False


def default_path(name: str) -> Path:
    """Return a folder under runs/ that is not there yet, named after the configuration and the time."""
    path = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = sum(1 for _ in path.parent.glob(f"{path.name}*"))
    return path.with_name(f"{path.name}-{taken + 1}") if taken else path


def _remove_if_empty(folder: Path) -> None:
    # One that cannot be removed, as it holds a file by now, blocks no other run.
    with contextlib.suppress(OSError):
        folder.rmdir()


def _lock(path: Path) -> int:
    """Return the descriptor of the folder's lock, held until it is closed or its process ends."""
    while True:
        # For appending a descriptor may be locked on NFS too, and a link is refused.
        with files.open_regular(path / LOCK, "ab") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(
                    f"another process trains in {path}; wait for it, or give another --workdir."
                ) from None
            # A process that leaves a new folder removes its lock: one that was opened before is void.
            if _is_same(file.fileno(), path / LOCK):
                return os.dup(file.fileno())


def _is_same(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    absent = "nothing"
    pairs = {key: (old.get(key, absent), new.get(key, absent)) for key in {**old, **new}}
    return {key: (before, now) for key, (before, now) in pairs.items() if before != now}
