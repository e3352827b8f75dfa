import contextlib
import gc
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.waiting import wait_until
from tests.train.running import digits, points, run, saved_arrays
from train import data
from train.config.data import FunctionData
from train.data import drawing
from train.data.examples import DataError
from train.system.signals import SignalFlag, StopRequestedError

HERE = "tests.train.data.test_drawing"
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
    """A cluster's reaches its workers too; without one, the loader's error is raised. No thread is left."""
    before = threads()
    with SignalFlag() as stop, drawing.Drawing(Broken(), drawing.Alone(stop)) as drawn:
        with pytest.raises(RuntimeError, match="killed at 0"):
            drawn.batch(0, 0)
        with pytest.raises(StopRequestedError, match="SIGTERM"):
            drawn.batch(0, 1)
        with pytest.raises(StopRequestedError, match="SIGTERM"):
            drawn.batch(0, 2)
    wait_until(lambda: threads() <= before)


def threads() -> set[threading.Thread]:
    """The threads that draw, of other tests as well."""
    return {thread for thread in threading.enumerate() if thread.name == "train data"}


def in_one_thread() -> Iterator[dict[str, np.ndarray]]:
    """Batches of a database, which SQLite opens to one thread alone."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("create table numbers(number int)")
        database.executemany("insert into numbers values (?)", [(number,) for number in range(9)])
        for (number,) in database.execute("select number from numbers"):
            yield {"label": np.full(4, number, np.int32)}


def opened_at_once() -> Iterator[dict[str, np.ndarray]]:
    """The same of a function that is no generator: its call opens the database."""
    database = sqlite3.connect(":memory:")
    rows = database.execute("select value from json_each('[0, 1, 2, 3, 4, 5, 6, 7, 8]')")
    return ({"label": np.full(4, number, np.int32)} for (number,) in rows)


@pytest.mark.parametrize("function", [in_one_thread, opened_at_once])
def test_a_loader_works_in_one_thread_from_its_call_to_its_last_pass(function: Callable[[], object]) -> None:
    """Before a run, where the main thread asks for batches, and in the run, whose end is the thread's."""
    before = threads()
    dataset = data.load(
        FunctionData.model_validate({"name": f"{HERE}:{function.__name__}", "eval_batches": 1})
    )
    assert dataset.batch(0, 0)["label"].tolist() == [1] * 4
    with SignalFlag() as stop, drawing.interruptible(dataset, drawing.Alone(stop)) as drawn:
        labels = [int(drawn.batch(0, step)["label"][0]) for step in (*range(12), 2)]
    assert labels == [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 3]
    wait_until(lambda: threads() <= before)
    gc.collect()  # A database that was not closed in its thread is a warning.
    with pytest.raises(RuntimeError, match=r"has ended with its run: load the data again\."):
        dataset.batch(0, 0)


def test_data_that_is_no_longer_referred_to_leaves_no_thread() -> None:
    """As of a program that loads it, and trains nothing."""
    before = threads()
    dataset = data.load(FunctionData.model_validate({"name": f"{HERE}:stalling", "eval_batches": 1}))
    assert len(threads() - before) == 1
    del dataset
    gc.collect()
    wait_until(lambda: threads() <= before)


def of_the_main_thread() -> Iterator[dict[str, np.ndarray]]:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    yield from in_one_thread()


def test_a_loader_that_needs_the_main_thread_is_refused() -> None:
    """The error names a place for the code that needs it."""
    before = threads()
    with pytest.raises(DataError, match=r"needs the main thread.*signal only works.*top of the module"):
        data.load(FunctionData.model_validate({"name": f"{HERE}:of_the_main_thread", "eval_batches": 1}))
    wait_until(lambda: threads() <= before)
