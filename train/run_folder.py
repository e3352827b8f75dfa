"""The folder of a run: its configuration, what it ran with, event files and checkpoints."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from train import config_file
from train.config import Config

CONFIG, META, LOCK = "config.yaml", "meta.json", ".lock"
PACKAGES = ("sowlog", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorboardX", "numpy")


class RunFolderError(Exception):
    """The folder cannot take this run: one line for each reason."""


class RunWarning(UserWarning):
    """Something of a run is not there or cannot be written, and the run goes on without it."""


@dataclasses.dataclass(frozen=True)
class SharedFolder:
    """A run folder as the processes see it that leave it to process 0 to write there.

    Attributes:
        path: the folder, on a file system that all of them see.
        is_continued: whether a run of this configuration was here before.
    """

    path: Path
    is_continued: bool

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints within."""
        return self.path / "checkpoints"


class RunFolder:
    """A folder that one process at a time trains in.

    Attributes:
        path: the folder.
        checkpoints: the folder of the checkpoints within.
        is_continued: whether a run of this configuration was here before.
    """

    def __init__(self, path: Path, config: Config):
        """Takes the folder, made if it is not there.

        Raises:
            RunFolderError: another process trains there, or it holds another configuration.
        """
        self.path = path
        self.checkpoints = path / "checkpoints"
        with usable(path):
            self._is_new = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as undo:
                self._lock = undo.enter_context((path / LOCK).open("a"))
                _lock(self._lock.fileno(), path)
                self.is_continued = holds(path, config)
                write(path / CONFIG, config_file.dump(config))
                undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._is_begun():
            self._undo()
        self._lock.close()

    def _is_begun(self) -> bool:
        return (self.path / META).exists() or any(self.checkpoints.glob("*"))

    def _undo(self) -> None:
        """Leaves the folder to what was meant; or none, if there was none."""
        (self.path / CONFIG).unlink(missing_ok=True)
        _remove_if_empty(self.checkpoints)
        if self._is_new:
            (self.path / LOCK).unlink()
            _remove_if_empty(self.path)

    def write_meta(self, *, seed: int, argv: Sequence[str], devices: Sequence[str], step: int) -> None:
        """Writes meta.json: what this run is made with, for each time that it was started.

        Args:
            seed: the run's seed.
            argv: the arguments that the program was given.
            devices: what it runs on.
            step: where it begins or goes on.
        """
        started = {
            "step": step,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "argv": ["python", "-m", "train", *argv],
            "git_commit": _git_commit(),
            "devices": list(devices),
            "host": platform.node(),
            "versions": _versions(),
        }
        file = self.path / META
        with usable(self.path):
            before = json.loads(file.read_text())["starts"] if file.exists() else []
            write(file, json.dumps({"seed": seed, "starts": [*before, started]}, indent=2) + "\n")


@contextlib.contextmanager
def usable(path: Path) -> Generator[None]:
    """Raises what the system has against the use of a run folder as a mistake.

    Raises:
        RunFolderError: for every OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"the run folder {path} cannot be used: {error}") from None


def holds(path: Path, config: Config) -> bool:
    """Tells whether a run folder holds this configuration; False if it holds none.

    Raises:
        RunFolderError: it holds another, which is more than a longer run of the same.
    """
    file = path / CONFIG
    if not file.exists():
        return False
    try:
        old = config_file.load(file)
    except config_file.ConfigError as error:
        raise RunFolderError(
            f"the run folder {path} holds a configuration that this version cannot read; "
            f"give another --workdir\n{error}"
        ) from None
    differences = _differences(
        config_file.flatten(old.model_dump()), config_file.flatten(config.model_dump())
    )
    for key in ("profile", "sharding"):  # These look at the run, or lay it out, and do not change it.
        differences.pop(key, None)
    if old.steps <= config.steps:
        differences.pop("steps", None)
    if differences:
        lines = [f"  {key}: {before} there, {now} now" for key, (before, now) in differences.items()]
        raise RunFolderError(
            f"the run folder {path} holds another run; give another --workdir, or the same "
            "configuration (steps may be raised):\n" + "\n".join(lines)
        )
    return True


def is_taken(path: Path) -> bool:
    """Tells whether a process trains in a run folder at this moment."""
    try:
        with (path / LOCK).open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def default_path(name: str) -> Path:
    """Gives a folder under runs/ that is not there yet, named after the configuration and the time."""
    path = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = sum(1 for _ in path.parent.glob(f"{path.name}*"))
    return path.with_name(f"{path.name}-{taken + 1}") if taken else path


def _remove_if_empty(folder: Path) -> None:
    # Whatever the system has against it, such a folder is in nobody's way.
    with contextlib.suppress(OSError):
        folder.rmdir()


def _lock(descriptor: int, path: Path) -> None:
    """Locks the folder for as long as this process lives, however it ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunFolderError(
            f"another process trains in {path}; wait for it, or give another --workdir"
        ) from None


def write(file: Path, text: str) -> None:
    """Writes a file that is either the old one or the new one, never half of it."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.write_text(text)
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    absent = "nothing"
    pairs = {key: (old.get(key, absent), new.get(key, absent)) for key in {**old, **new}}
    return {key: (before, now) for key, (before, now) in pairs.items() if before != now}


def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}


def _version(package: str) -> str | None:
    """Gives what is installed; None for a checkout that is used as it stands."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Gives the commit of the source, "+changes" after it if the tree differs; None outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+changes",
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
