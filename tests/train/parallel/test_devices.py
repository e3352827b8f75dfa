"""Runs over 1, 2 and 4 devices, which are virtual ones of the CPU here."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.support.tensorboard_reading import tensorboard_scalars
from tests.train.running import (
    CONFIGS,
    TINY_DIGITS,
    digits,
    is_repeatable,
    moe,
    run,
    run_until,
    saved_arrays,
)
from train import __main__ as program
from train import data, dry_run, parts
from train.config.errors import ConfigError
from train.config.experiment import Config
from train.parallel.devices import LARGE, Devices
from train.runs import checkpoint
from train.runs import folder as run_folder

pytestmark = pytest.mark.long

# The effect of sums in another order: of a metric a share of it, of an array in the state a share of its
# norm. Over 60 steps on the CPU 6e-7 of a metric was seen, where the last digit of a float32 is 1.2e-7. The
# state differs more, as Adam divides a gradient near 0, which is all rounding, by its own size.
OF_VALUE = 1e-5
OF_NORM = 1e-4
SPLIT = ("task.width=64", "task.expert_width=64", "data.batch_size=16", "microbatches=2", "ema=0.9")
MOE = (*SPLIT, "steps=24", "eval.every=12", "checkpoint.every=24", "optimizer.warmup=4")
DIGITS = (
    *("steps=40", "eval.every=20", "checkpoint.every=20", "data.batch_size=32"),
    *("task.width=4", "optimizer.warmup=4", "optimizer.learning_rate=1e-2"),
)


def assert_same_points(one: Path, other: Path, *, share: float = OF_VALUE) -> None:
    """Every repeatable tag at every step, as TensorBoard reads it."""
    expected, found = (
        {tag: series for tag, series in tensorboard_scalars(run).items() if is_repeatable(tag)}
        for run in (one, other)
    )
    assert set(found) == set(expected)
    for tag, series in expected.items():
        assert found[tag].steps == series.steps, tag
        np.testing.assert_allclose(found[tag].values, series.values, share, 1e-7, err_msg=tag)


def assert_same_state(one: Path, other: Path, step: int) -> None:
    """Every array of a checkpoint: parameters, their average, the optimizer's moments; counts exactly."""
    expected, found = saved_arrays(one, step), saved_arrays(other, step)
    assert set(found) == set(expected)
    assert any("params" in path for path in expected)
    for path, content in expected.items():
        if re.search("step|count|patience", path):
            assert found[path] == content, path
            continue
        array, theirs = (np.frombuffer(bits, np.float32) for bits in (content, found[path]))
        assert np.linalg.norm(theirs - array) <= OF_NORM * np.linalg.norm(array), path


def parts_of(config: Config, workdir: Path, devices: int) -> parts.Parts:
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", keep=1)
    on = Devices(config.sharding, jax.devices()[:devices])
    return parts.assemble(config, data.load(config.data), checkpoints, on)


def compiled(made: parts.Parts) -> str:
    return made.train_step.lower(made.state, made.batch(0)).compile().as_text()


def collectives(text: str) -> set[str]:
    return set(re.findall(r"all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute", text))


def test_digits_are_learned_alike_on_any_number_of_devices(tmp_path: Path) -> None:
    """With BatchNorm over the whole batch and the same dropout; the loss falls by half.

    Two devices end the run that moves, below.
    """
    for count in (1, 4):
        run(digits(*DIGITS), tmp_path / str(count), devices=count)
    loss = tensorboard_scalars(tmp_path / "1")["loss"].values
    assert loss[-1] < loss[0] / 2
    assert_same_points(tmp_path / "1", tmp_path / "4")
    assert_same_state(tmp_path / "1", tmp_path / "4", 40)


def test_text_is_learned_alike_by_a_state_that_is_split(tmp_path: Path) -> None:
    """Experts, microbatches, averaged parameters and auxiliary losses, on four devices as on one."""
    run(moe(*MOE), tmp_path / "one")
    run(moe(*MOE, "sharding=fsdp"), tmp_path / "split", devices=4)
    loss = tensorboard_scalars(tmp_path / "one")["loss"].values
    assert loss[-1] < loss[0] * 0.75
    assert_same_points(tmp_path / "one", tmp_path / "split")
    assert_same_state(tmp_path / "one", tmp_path / "split", 24)


def test_a_run_goes_on_on_other_devices(tmp_path: Path) -> None:
    """Stopped and taken up on 1, 4, 4 with its state split, and 2, it is the run of one device."""
    run(digits(*DIGITS), tmp_path / "one")
    stops = {7: (1, "replicated"), 15: (4, "replicated"), 29: (4, "fsdp")}
    for step, (count, sharding) in stops.items():
        config = digits(*DIGITS, f"sharding={sharding}")
        assert run_until(config, tmp_path / "moved", step, devices=count).step == step + 1
    assert run(digits(*DIGITS), tmp_path / "moved", devices=2).updates == 10
    assert_same_points(tmp_path / "one", tmp_path / "moved")
    assert_same_state(tmp_path / "one", tmp_path / "moved", 40)


def test_a_checkpoint_is_restored_bit_for_bit_where_the_state_is_to_live(tmp_path: Path) -> None:
    """From four devices that split it to one and back, at once as `fsdp` lays it out."""
    split = parts_of(moe(*MOE, "sharding=fsdp"), tmp_path, 4)
    state, _ = split.train_step(split.state, split.batch(0))
    with checkpoint.Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, state)
    for count, sharding in ((1, "replicated"), (4, "replicated"), (4, "fsdp")):
        found = parts_of(moe(*MOE, f"sharding={sharding}"), tmp_path, count)
        assert found.at == 1
        for one, other in zip(jax.tree.leaves(found.state), jax.tree.leaves(state), strict=True):
            assert len(one.sharding.device_set) == count
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert is_split(found.state) == (sharding == "fsdp")


def is_split(state: Any) -> bool:
    return any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state))


def test_large_arrays_are_split_and_stay_so_in_one_compilation(tmp_path: Path) -> None:
    """Parameters, moments and average, a quarter on each device; the step keeps them where they are."""
    made = parts_of(moe(*MOE, "sharding=fsdp"), tmp_path, 4)
    state = made.state
    before = jax.tree.map(lambda leaf: leaf.sharding, state)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in local_parts(state) if leaf.size > 1}
    for at in range(3):
        state, summary = made.train_step(state, made.batch(at))
    assert made.train_step._cache_size() == 1
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(before), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        part = leaf.addressable_shards[0].data.size
        assert part == (leaf.size // 4 if leaf.size >= LARGE else leaf.size)
    for part in ("params", "moments", "average"):
        tree = {"params": state.variables, "moments": state.optimizer}
        assert is_split(tree.get(part, state.average)), part
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(summary))
    kept = {leaf.unsafe_buffer_pointer() for leaf in local_parts(state) if leaf.size > 1}
    assert len(kept & pointers) > len(pointers) / 2, "the old state's memory was not taken over"


def local_parts(state: Any) -> list[jax.Array]:
    return [shard.data for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards]


def test_a_microbatch_lies_on_all_devices(tmp_path: Path) -> None:
    """Two examples of each on each of them, in order, and nothing is moved but sums over the batch."""
    config = digits("microbatches=4", "data.batch_size=32")
    made = parts_of(config, tmp_path, 4)
    whole, batch = data.load(config.data).batch(0, 0)["label"], made.batch(0)["label"]
    np.testing.assert_array_equal(np.asarray(batch).ravel(), whole)
    assert {shard.data.shape for shard in batch.addressable_shards} == {(4, 2)}
    assert collectives(compiled(made)) == {"all-reduce"}
    assert collectives(compiled(parts_of(config, tmp_path, 1))) == set()


@pytest.mark.parametrize(
    ("size", "settings", "line"),
    [
        (
            6,
            (),
            "6 examples do not spread evenly over 4 devices; write data.batch_size=4 or data.batch_size=8",
        ),
        (3, (), "3 examples do not spread evenly over 4 devices; write data.batch_size=4"),
        (
            12,
            ("microbatches=2",),
            "12 examples do not spread evenly over 4 devices and 2 microbatches; write data.batch_size=8 or "
            "data.batch_size=16",
        ),
    ],
)
def test_a_batch_that_the_devices_do_not_divide_is_refused(
    size: int, settings: tuple[str, ...], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error has the line to write; the folder is then free for another run."""
    command = [str(CONFIGS / "digits.yaml"), *TINY_DIGITS, *settings, "--workdir", str(tmp_path)]
    assert program.main([*command, f"data.batch_size={size}"]) == 2
    assert capsys.readouterr().err == f"data.batch_size: {line}.\n"
    with run_folder.RunFolder(tmp_path, digits("data.batch_size=8", *settings)) as folder:
        assert not folder.is_continued


def test_held_out_batches_that_the_devices_do_not_divide_go_to_each() -> None:
    """None of their examples is left out or counted twice; an even batch is spread, but for its numbers."""
    devices = Devices("replicated", jax.devices()[:4])
    for size, part in ((6, 6), (8, 2)):
        batches = {"x": np.zeros((3, size, 5), np.float32), "scale": np.ones(3, np.float32)}
        placed = devices.place_held_out(batches)
        assert {shard.data.shape for shard in placed["x"].addressable_shards} == {(3, part, 5)}
        assert {shard.data.shape for shard in placed["scale"].addressable_shards} == {(3,)}


def test_numbers_of_a_batch_that_are_of_no_example_go_to_each_device() -> None:
    """A user's iterable may hold them; a microbatch has its own copy."""
    devices = Devices("replicated", jax.devices()[:4])
    batch = {"x": np.arange(16), "weight": np.float32(0.5).reshape(())}
    assert devices.place_batch(batch)["weight"].shape == ()
    assert devices.place_batch(batch, microbatches=2)["weight"].shape == (2,)
    with pytest.raises(ConfigError, match="over 3 devices"):
        Devices("replicated", jax.devices()[:3]).place_batch(batch)


def test_a_dry_run_shows_the_bytes_of_each_device() -> None:
    """Its share of the large arrays, and all that is small."""
    config = moe(*MOE, "sharding=fsdp")
    text = dry_run.describe(config, data.load(config.data))
    held, whole = (
        int(re.findall(rf"{line} ([\d,]+) bytes", text)[0].replace(",", ""))
        for line in ("of it, on each of 4 devices:", r"whole state, as in a checkpoint: [\d,]+ numbers,")
    )
    assert 0.25 < held / whole < 0.4
