import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.tensorboard_reading import wait_until
from tests.train.running import digits, points, run, saved_arrays
from train import drawing
from train.stopping import Stop, StopRequestedError

HERE = "tests.train.test_drawing"
TINY = (f"data.name={HERE}:stalling", "data.eval_batches=1", "steps=6", "eval.every=4", "checkpoint.every=4")


class Stall:
    """A loader's wait for data, that a test may end."""

    reached = threading.Event()
    goes_on = threading.Event()


def stalling(at: int = 10**9, number: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batches, before one of which a signal comes, and which then wait for data that does not.

    The first five are drawn before training: one that is held out, and four that two passes are compared by.
    """
    for count in range(10**6):
        if count == at and not Stall.goes_on.is_set():
            os.kill(os.getpid(), number)
            Stall.reached.set()
            Stall.goes_on.wait()
        image = np.random.default_rng(count).random((4, 8, 8, 1), np.float32)
        yield {"image": image, "label": np.arange(4, dtype=np.int32)}


@pytest.fixture(autouse=True)
def _stall() -> Iterator[None]:
    Stall.goes_on.clear()
    Stall.reached.clear()
    yield
    Stall.goes_on.set()


def test_a_run_whose_loader_stalls_is_saved_on_a_signal_and_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    """Bit for bit, in the state and every logged point."""
    config = digits(*TINY, "data.arguments.at=6", f"data.arguments.number={int(signal.SIGUSR1)}")
    stopped = run(config, tmp_path / "stopped")
    assert Stall.reached.is_set()
    assert stopped.stopped_by == signal.SIGUSR1
    assert 1 < stopped.step < 6
    Stall.goes_on.set()
    assert run(config, tmp_path / "stopped").updates == 6 - stopped.step
    run(config, tmp_path / "straight")
    assert points(tmp_path / "stopped") == points(tmp_path / "straight")
    assert saved_arrays(tmp_path / "stopped", 6) == saved_arrays(tmp_path / "straight", 6)


class Broken:
    """A dataset whose own processes end on the signal that its batch is waited with."""

    def batch(self, seed: int, step: int) -> dict[str, np.ndarray]:
        if step:
            os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError(f"a worker was killed at {step}")

    def held_out(self) -> dict[str, np.ndarray]:
        return {}


def test_what_a_signal_did_to_the_loader_first_is_the_signal() -> None:
    """A cluster's reaches its workers as well; without one, the loader's error is told. No thread is left."""
    with Stop() as stop, drawing.Drawing(Broken(), stop, is_alone=lambda: True) as drawn:
        with pytest.raises(RuntimeError, match="killed at 0"):
            drawn.batch(0, 0)
        with pytest.raises(StopRequestedError, match="SIGTERM"):
            drawn.batch(0, 1)
        with pytest.raises(StopRequestedError, match="SIGTERM"):
            drawn.batch(0, 2)
    wait_until(lambda: not any(thread.name == "train data" for thread in threading.enumerate()))
