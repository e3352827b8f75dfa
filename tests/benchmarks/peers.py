"""The peers that people use today and sowlog, each behind `log / flush / close`.

A peer that writes gets its values by one `jax.device_get` of the step's dictionary, the cheapest way in
common use. A peer whose packages are not installed is absent from the tables, and said to be.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import jax
from tensorboardX import FileWriter, SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

import sowlog

Form = Literal["none", "packed", "layers", "tree", "callback"]
"""The metrics that the jitted step returns beside its state (see `steps.make_step`)."""


class Peer:
    """One way of getting a step's metrics out of it.

    Attributes:
        title: its name in the tables.
        needs: the packages without which it is absent.
        form: the form of the step's result.
    """

    title: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    form: ClassVar[Form] = "tree"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def log(self, step: int, metrics: Any) -> None:
        """Take the metrics of one step, as the training loop does."""
        raise NotImplementedError

    def flush(self) -> None:
        """Return when nothing is under way any more, as far as the peer offers that."""

    def close(self) -> None:
        """Release the files and threads."""


class Writing(Peer):
    """A peer that writes numbers which are on the host already."""

    def log(self, step: int, metrics: Any) -> None:
        self.write(step, {tag: float(value) for tag, value in jax.device_get(metrics).items()})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars by tag."""
        raise NotImplementedError


class Sowlog(Peer):
    """sowlog, with the step's metrics packed inside it."""

    title = "sowlog"
    form = "packed"

    def __init__(self, folder: Path) -> None:
        self.log = sowlog.Logger(folder)
        self.flush = self.log.flush
        self.close = self.log.close


class FloatEach(Peer):
    """`float()` of each scalar; nothing is written."""

    title = "float() each"

    def log(self, step: int, metrics: Any) -> None:
        for value in metrics.values():
            float(value)


class DeviceGet(Peer):
    """One `jax.device_get` of the dictionary; nothing is written."""

    title = "jax.device_get"

    def log(self, step: int, metrics: Any) -> None:
        jax.device_get(metrics)


class DebugCallback(Peer):
    """A `jax.debug.callback` for each scalar inside the step, which takes its `float()`."""

    title = "jax.debug.callback each"
    form = "callback"

    def log(self, step: int, metrics: Any) -> None:
        """Do nothing: the step has called back."""

    def flush(self) -> None:
        jax.effects_barrier()


class AddScalar(Writing):
    """tensorboardX's `add_scalar` for each."""

    title = "tensorboardX.add_scalar"

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))
        self.flush, self.close = self._writer.flush, self._writer.close

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)


class PackedEvent(Writing):
    """All scalars of a step in one tensorboardX event."""

    title = "a packed tensorboardX event"

    def __init__(self, folder: Path) -> None:
        self._writer = FileWriter(str(folder))
        self.flush, self.close = self._writer.flush, self._writer.close

    def write(self, step: int, values: Mapping[str, float]) -> None:
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._writer.add_summary(Summary(value=points), step)


class TorchSummary(AddScalar):
    """torch.utils.tensorboard's `add_scalar` for each."""

    title = "torch.utils.tensorboard"
    needs = ("torch", "tensorboard")

    def __init__(self, folder: Path) -> None:
        torch_tensorboard = importlib.import_module("torch.utils.tensorboard")
        self._writer = torch_tensorboard.SummaryWriter(str(folder))
        self.flush, self.close = self._writer.flush, self._writer.close


class Clu(Writing):
    """clu's summary writer behind its asynchronous one."""

    title = "clu AsyncWriter"
    needs = ("clu", "tensorflow")

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        metric_writers = importlib.import_module("clu.metric_writers")
        self._writer = metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(folder)))
        self.flush, self.close = self._writer.flush, self._writer.close

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._writer.write_scalars(step, values)


class JsonLines(Writing):
    """One line of JSON a step."""

    title = "JSON lines"

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "metrics.jsonl").open("w")
        self.flush, self.close = self._file.flush, self._file.close

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")


class WandbOffline(Writing):
    """Weights & Biases in offline mode. Its service is a process of its own, whose CPU is not counted."""

    title = "W&B offline"
    needs = ("wandb",)

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb = importlib.import_module("wandb")
        quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
        self._run = wandb.init(project="benchmark", dir=str(folder), mode="offline", settings=quiet)
        self._teardown = wandb.teardown
        self._next = 0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        # It refuses steps that go back, and each repetition starts at 0.
        self._run.log(dict(values), step=self._next)
        self._next += 1

    def close(self) -> None:
        self._run.finish()
        # Its service writes the end of the file when it is torn down.
        self._teardown()


PEERS: tuple[type[Peer], ...] = (
    FloatEach,
    DeviceGet,
    DebugCallback,
    AddScalar,
    PackedEvent,
    TorchSummary,
    Clu,
    JsonLines,
    WandbOffline,
)
WRITING: tuple[type[Writing], ...] = tuple(peer for peer in PEERS if issubclass(peer, Writing))

Kind = TypeVar("Kind", bound=Peer)


def missing(peer: type[Peer]) -> str:
    """Return the packages that a peer lacks here, an empty text if none."""
    return ", ".join(name for name in peer.needs if importlib.util.find_spec(name) is None)


def installed(peers: tuple[type[Kind], ...]) -> tuple[type[Kind], ...]:
    """Return those of the peers that can run here."""
    return tuple(peer for peer in peers if not missing(peer))


def absent(peers: tuple[type[Kind], ...]) -> tuple[type[Kind], ...]:
    """Return those of the peers that cannot run here."""
    return tuple(peer for peer in peers if missing(peer))
