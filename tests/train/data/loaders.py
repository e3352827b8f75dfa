"""Data of users: functions that a configuration names, good and odd.

The processes that tests start import this module, so it imports little.
"""

import itertools
import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train import data
from train.config.data import FunctionData

HERE = "tests.train.data.loaders"


def arrays(examples: int = 40, *, shift: int = 0) -> dict[str, np.ndarray]:
    """Examples of which image and label hold the number."""
    numbers = np.arange(shift, shift + examples)
    return {
        "image": np.broadcast_to(numbers[:, None, None, None] / 64, (examples, 8, 8, 1)),
        "label": numbers % 10,
    }


def pair(held_out: int = 20) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return arrays(40), arrays(held_out, shift=100)


def batches(count: int = 1000) -> Iterator[dict[str, np.ndarray]]:
    for number in range(count):
        yield {name: array[None, number] for name, array in arrays(number + 1).items()}


def pair_of_batches(count: int = 1000) -> tuple[Iterator[dict], list[dict]]:
    return batches(count), [arrays(4, shift=200), arrays(4, shift=204)]


def one_changed(at: int = -1) -> dict[str, np.ndarray]:
    """The arrays above, of which one label is another."""
    examples = arrays(40)
    examples["label"] = np.where(np.arange(40) == at, 11, examples["label"])
    return examples


def unequal() -> dict[str, np.ndarray]:
    return {"image": np.zeros((3, 8, 8, 1)), "label": np.zeros(4)}


def scalars() -> dict[str, float]:
    return {"image": 1.0, "label": 2.0}


def words() -> dict[str, np.ndarray]:
    return {"image": np.array(["a"]), "label": np.array(["b"])}


def others() -> dict[str, np.ndarray]:
    return {"x": np.zeros(3)}


def growing() -> Iterator[dict[str, np.ndarray]]:
    return (arrays(size) for size in itertools.count(1))


def number() -> int:
    return 3


def mixed() -> tuple[dict, list]:
    return arrays(), [arrays()]


def few() -> list[dict]:
    return [arrays(2)] * 3


def sized(train: list[int], held_out: list[int]) -> tuple[list[dict], list[dict]]:
    """Batches of so many examples, numbered through; those held out from 100 on."""
    starts = (itertools.accumulate(sizes, initial=0) for sizes in (train, held_out))
    return tuple(
        [arrays(size, shift=base + start) for size, start in zip(sizes, begun, strict=False)]
        for sizes, begun, base in zip((train, held_out), starts, (0, 100), strict=True)
    )


SHUFFLE = np.random.default_rng(0)


def shuffled(fixed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batches in another order at each call, but for some in front."""
    for number in [*range(fixed), *(fixed + SHUFFLE.permutation(40 - fixed))]:
        yield {name: array[None, number] for name, array in arrays(40).items()}


def shuffled_arrays() -> dict[str, np.ndarray]:
    """The arrays above, in another order at each call."""
    order = SHUFFLE.permutation(40)
    return {name: array[order] for name, array in arrays(40).items()}


def shuffled_pair() -> tuple[Iterator[dict], list[dict]]:
    return shuffled(), [arrays(4, shift=200)]


def shuffled_held_out() -> tuple[Iterator[dict], Iterator[dict]]:
    return batches(4), shuffled()


CALLS = itertools.count()


def shuffled_later() -> Iterator[dict[str, np.ndarray]]:
    """Twice the same batches, and at the third call others."""
    yield from itertools.islice(batches(), 4 if next(CALLS) % 3 == 2 else 0, 10)


def refilled() -> Iterator[dict[str, np.ndarray]]:
    """The batches of `batches`, all in the same two arrays."""
    held = arrays(1)
    held = {name: np.array(array) for name, array in held.items()}
    for batch in batches():
        for name, array in batch.items():
            held[name][...] = array
        yield held


def load(function: str, **options: object) -> data.Dataset:
    section = FunctionData.model_validate({"name": f"{HERE}:{function}", **options})
    return data.load(section, needs=("image", "label"))


def numbers(batch: dict[str, np.ndarray]) -> list[int]:
    return [round(64 * float(image[0, 0, 0])) for image in batch["image"].reshape(-1, 8, 8, 1)]


def held_out_parts(dataset: data.Dataset) -> list[dict[str, np.ndarray]]:
    return [part for part in (dataset.held_out(), dataset.remainder()) if part]


def until(at: int, file: str) -> Iterator[dict[str, np.ndarray]]:
    """Batches, of which one cannot be had as long as there is no file."""
    for number, batch in enumerate(batches()):
        if number == at and not Path(file).exists():
            raise FileNotFoundError(f"{file} is away")
        yield batch


def stalling(folder: str) -> Iterator[dict[str, np.ndarray]]:
    """Batches, of which the ninth never comes: one is held out, and seven are trained on."""
    for number in range(8):
        image = np.random.default_rng(number).random((4, 8, 8, 1), np.float32)
        yield {"image": image, "label": np.arange(4, dtype=np.int32)}
    (Path(folder) / f"stalled-{os.getpid()}").touch()
    threading.Event().wait()


def drawn() -> dict[str, np.ndarray]:
    """Examples without a seed."""
    generator = np.random.default_rng()
    return {"image": generator.random((40, 8, 8, 1), np.float32), "label": np.arange(40) % 10}


def producer(fails_at: int = -1) -> Iterator[dict[str, np.ndarray]]:
    """Batches of a thread that is no daemon, and waits for ever once its bounded queue is full."""
    queued: queue.Queue[dict[str, np.ndarray]] = queue.Queue(2)

    def produce() -> None:
        for number in itertools.count():
            image = np.full((4, 8, 8, 1), number % 8 / 8, np.float32)
            queued.put({"image": image, "label": np.arange(4, dtype=np.int32)})

    threading.Thread(target=produce).start()
    for number in itertools.count():
        if number == fails_at:
            raise ValueError("a broken record")
        yield queued.get()


def mended(number: int, mended: str = "") -> dict[str, np.ndarray]:
    """Examples that fail for one number, and keep another waiting, until there is a file."""
    if number == 2 and not Path(mended).exists():
        raise RuntimeError(f"no data for {number}")
    if number == 3:
        print("waits for its data", flush=True)
        deadline = time.monotonic() + 300
        while not Path(mended).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    images = np.random.default_rng(number).random((40, 8, 8, 1), np.float32)
    return {"image": images, "label": np.arange(40, dtype=np.int32) % 10}
