"""Taking part in a run of several processes: their start, the check that all train the same, their end."""

import contextlib
import hashlib
import json
import os
import signal
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from train import data
from train.config import file as config_file
from train.config.errors import COMMAND_LINE, ConfigError, one_line
from train.config.experiment import Config
from train.data import Dataset
from train.data.examples import DataError
from train.parallel.processes import Group
from train.runs.folder import RunFolder, RunFolderError, SharedFolder
from train.system.exits import deadline, end

JOINING = 300.0
"""Seconds that processes wait for each other at the start: a cluster may start them minutes apart."""

LEAVING = 10.0
"""Seconds that a process which found an error waits for the others to find it."""


@contextlib.contextmanager
def joined(group: Group, *, seconds: float = JOINING) -> Generator[None]:
    """Take part in a run while it is entered. Process 0 alone writes to standard output.

    A process that fails ends at once, without a wait for the others: they may hang in a collective without
    it, and learn of its failure by its end.

    Args:
        group: the processes.
        seconds: how long to wait for them.

    Raises:
        ConfigError: There is no such group to join.
    """
    _initialize(group, seconds)
    try:
        with _quiet() if jax.process_index() else contextlib.nullcontext():
            yield
    except (ConfigError, DataError, RunFolderError) as error:
        # Nearly always they all found it, and end together; JAX would wait for minutes for one that did not.
        with deadline(LEAVING, status=2, line=str(error)):
            jax.distributed.shutdown()
        raise
    except KeyboardInterrupt:
        end(128 + signal.SIGINT)
    except BaseException:
        end(1, traceback.format_exc().rstrip())


def check_alike(config: Config, dataset: Dataset) -> None:
    """Raise an error in every process if they do not all train the same on the same data.

    Raises:
        ConfigError: The configurations or the data of two processes differ.
    """
    checks = [
        ("configurations", config_file.dump(config), ""),
        (
            "data",
            data.digest(dataset, config.seed),
            ", with a fixed seed where a function draws or shuffles it",
        ),
    ]
    for noun, text, remedy in checks:
        # Hashed, as all processes must gather arrays of one shape.
        digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
        try:
            multihost_utils.assert_equal(digest)
        except AssertionError:
            raise ConfigError(
                [
                    f"{COMMAND_LINE}: the {noun} of the processes differ; start all with the same arguments, "
                    f"on the same files{remedy}"
                ]
            ) from None


@contextlib.contextmanager
def shared_folder(take: Callable[[], RunFolder]) -> Generator[RunFolder | SharedFolder]:
    """Hold the run folder in process 0 while it is entered, and yield a view of it in the others.

    Raises:
        RunFolderError: Process 0 cannot have the folder; raised in all processes.
    """
    with contextlib.ExitStack() as held:
        own, shared = None, dict[str, Any]()
        if jax.process_index() == 0:
            try:
                own = held.enter_context(take())
                shared = {
                    "path": str(own.path.absolute()),
                    "is_continued": own.is_continued,
                    "decay_steps": own.decay_steps,
                }
            except RunFolderError as error:
                shared = {"error": str(error)}
        shared = json.loads(_broadcast(json.dumps(shared)))
        if "error" in shared:
            raise RunFolderError(shared["error"])
        yield own or SharedFolder(Path(shared["path"]), shared["is_continued"], shared["decay_steps"])


def _broadcast(text: str) -> str:
    """Return the text of process 0 in all of them."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(encoded.size)))
    received = multihost_utils.broadcast_one_to_all(np.resize(encoded, size))
    return np.asarray(received).astype(np.uint8).tobytes().decode()


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _initialize(group: Group, seconds: float) -> None:
    where = f"at {group.coordinator}" if group.coordinator else "of the cluster"
    late = (
        f"{COMMAND_LINE}: the processes {where} did not all meet within {seconds:g} s; "
        "start each, with the same --coordinator and --num-processes, on machines that reach it."
    )
    try:
        # JAX itself ends a process that waited too long with a stack of C++: it is to be second.
        with deadline(seconds, status=1, line=late):
            jax.distributed.initialize(
                group.coordinator, group.count, group.process_id, initialization_timeout=int(seconds) + 60
            )
    except (RuntimeError, ValueError) as error:
        flag = f"--coordinator {group.coordinator}" if group.coordinator else "--cluster"
        raise ConfigError([f"{COMMAND_LINE}: {flag}: {one_line(error)}"]) from None
