"""Small runs of the real program, in this process."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp

from sowlog._tree.layout import Packed
from sowlog.writers import Writer
from tests.support.strict_python import STRICT_PYTHON
from tests.support.tensorboard_reading import tensorboard_scalars
from train import arguments, data, loop
from train.config import file as config_file
from train.config.experiment import Config
from train.runs import folder as run_folder
from train.runs import saving
from train.system import signals

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
PROGRAM = (*STRICT_PYTHON, "-m", "train")
"""The command line of the program, to which a warning is an error."""

TINY_DIGITS = ("task.width=2", "data.batch_size=8", "steps=12", "eval.every=5", "checkpoint.every=4")
TINY_MOE = (
    *("task.width=8", "task.heads=2", "task.experts=4", "task.expert_width=8"),
    *("data.length=16", "data.batch_size=4", "data.eval_batches=2", "data.max_bytes=200000"),
    *("steps=7", "eval.every=3", "checkpoint.every=4"),
)
TINY_GRU = (
    "task.width=8",
    *("data.length=16", "data.batch_size=4", "data.eval_batches=2", "data.max_bytes=200000"),
    *("steps=7", "eval.every=3", "checkpoint.every=4"),
)


def digits(*overrides: str) -> Config:
    return config_file.load(CONFIGS / "digits.yaml", [*TINY_DIGITS, *overrides])


def moe(*overrides: str) -> Config:
    return config_file.load(CONFIGS / "moe_lm.yaml", [*TINY_MOE, *overrides])


def one_device() -> dict[str, str]:
    """Return the environment of a program with one device, not the virtual ones of the tests."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return {**os.environ, "XLA_FLAGS": " ".join(flags)}


@contextlib.contextmanager
def after_each_step(act: Callable[[int], None]) -> Iterator[None]:
    """Let the loop call a function with each training step, as soon as its values are logged."""

    class Saver(saving.Saver):
        def log(self, step: int, metrics: Any, *, images: dict[str, jax.Array] | None = None) -> None:
            super().log(step, metrics, images=images)
            if images is None and isinstance(metrics, Packed):  # Neither an evaluation nor the rates.
                act(step)

    with mock.patch.object(loop, "Saver", Saver):
        yield


def run(config: Config, workdir: Path, writers: Sequence[Writer] = (), *, devices: int = 1) -> loop.Outcome:
    """Train as the program does, on so many devices, shown by some writers."""
    dataset, on = data.load(config.data), jax.devices()[:devices]
    with run_folder.RunFolder(workdir, config) as folder, signals.SignalFlag() as stop:
        hparams = arguments.chosen(config, None)
        return loop.train(config, dataset, folder, lambda results: writers, stop, devices=on, hparams=hparams)


def run_until(config: Config, workdir: Path, step: int, *, devices: int = 1) -> loop.Outcome:
    """Train until a signal comes while a step is made."""

    def stop(at: int) -> None:
        if at == step:
            signal.raise_signal(signal.SIGTERM)

    with after_each_step(stop):
        return run(config, workdir, devices=devices)


def is_repeatable(tag: str) -> bool:
    """Return whether the values of a tag are the same in each run of a configuration.

    The others are measured by the clock of the host, or belong to the process.
    """
    return not tag.startswith(("rates/", "memory/"))


def points(workdir: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Return every repeatable point as TensorBoard reads it: step and the value's bits, by tag."""
    return {
        tag: [
            (step, np.float32(value).tobytes())
            for step, value in zip(series.steps, series.values, strict=True)
        ]
        for tag, series in tensorboard_scalars(workdir).items()
        if is_repeatable(tag)
    }


def saved_arrays(workdir: Path, step: int) -> dict[str, bytes]:
    """Return the bits of every array of a checkpoint, by path, as orbax reads it without our types."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        folder = (workdir / "checkpoints" / str(step) / "default").absolute()
        metadata: Any = reader.metadata(folder)
        for part in ("item_metadata", "tree"):  # Orbax has wrapped the tree of shapes since 0.11.0.
            metadata = getattr(metadata, part, metadata)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), metadata)
        state = reader.restore(folder, like)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}
