from pathlib import Path

import grain
import numpy as np

from tests.train.running import digits, points, run
from train import data
from train.config.data import FunctionData

HERE = "tests.train.data.test_grain"
# By default 16 threads read 500 examples ahead.
READING = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


def load(examples: int) -> tuple[grain.IterDataset, grain.MapDataset]:
    """A shuffled, repeated and batched pipeline, and another to hold out."""

    def example(number: int) -> dict[str, np.ndarray]:
        return {"image": np.full((8, 8, 1), number / 64, np.float32), "label": np.int32(number % 10)}

    dataset = grain.MapDataset.range(examples).map(example)
    return dataset.shuffle(seed=1).repeat().batch(4).to_iter_dataset(READING), dataset.batch(8)


def test_the_batches_are_those_of_the_loader() -> None:
    """In its order, beyond one epoch, and again from the beginning for a run that is taken up."""
    dataset = data.load(
        FunctionData(name=f"{HERE}:load", arguments={"examples": 16}), needs=("image", "label")
    )
    wanted = iter(load(16)[0])
    for step in range(10):
        own = dataset.batch(0, step)
        for name, array in next(wanted).items():
            np.testing.assert_array_equal(own[name], array)
    np.testing.assert_array_equal(dataset.batch(0, 0)["label"], next(iter(load(16)[0]))["label"])
    assert dataset.held_out()["image"].shape == (2, 8, 8, 8, 1)


def test_a_run_trains_on_a_loader(tmp_path: Path) -> None:
    """As the README says."""
    config = digits(
        f"data.name={HERE}:load",
        "data.arguments.examples=16",
        "steps=3",
        "eval.every=2",
        "checkpoint.every=2",
    )
    assert run(config, tmp_path).updates == 3
    assert {step for step, *_ in points(tmp_path)["loss"]} == {0, 1, 2}
