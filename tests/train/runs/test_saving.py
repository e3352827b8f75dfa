from pathlib import Path

import jax.numpy as jnp
import pytest

import sowlog
from sowlog.testing import MemoryWriter
from sowlog.writers import StalledError
from tests.support.odd_writers import FailingWriter
from tests.support.waiting import wait_until
from train.config.errors import RunWarning
from train.runs.checkpoint import Checkpoints
from train.runs.saving import Saver


class SmallWriter(MemoryWriter):
    """Keep records as long as there is room."""

    room = 1

    def write(self, record) -> None:
        if len(self.records) >= self.room:
            raise StalledError("no room")
        super().write(record)


def train(saver: Saver, steps: int) -> None:
    """Log so many steps, and save."""
    for step in range(steps):
        saver.log(step, {"loss": 1.0})
    saver.save(steps, {"step": jnp.int32(steps)})


def test_no_state_is_saved_before_the_points_that_lead_to_it(tmp_path: Path) -> None:
    """While they wait it would skip them, if the process died; when they are written, it is saved."""
    writer = SmallWriter()
    with Checkpoints(tmp_path, keep=2) as checkpoints, sowlog.Logger(tmp_path, writers=[writer]) as log:
        saver = Saver(log, checkpoints, every=4, steps=8)
        with pytest.warns() as caught:
            train(saver, 3)
        (warning,) = [str(one.message) for one in caught if one.category is RunWarning]
        assert warning.startswith("step 3 is not saved: SmallWriter could not write 2 records yet")
        assert warning.endswith("goes on; there is no checkpoint yet, and the next is tried at step 4.")
        assert (saver.saved(), list(tmp_path.glob("[0-9]*"))) == (0, [])
        writer.room = 10
        saver.save(4, {"step": jnp.int32(4)})
        assert (saver.saved(), len(writer.records)) == (4, 3)
        saver.close("success")
    assert saver.failures == []


def test_a_record_that_is_lost_stops_no_save_and_is_reported_at_the_end(tmp_path: Path) -> None:
    """The next call warns of it, and the run goes on: every other record is there, and the state is saved."""
    writer = FailingWriter(1)
    with Checkpoints(tmp_path, keep=2) as checkpoints, sowlog.Logger(tmp_path, writers=[writer]) as log:
        saver = Saver(log, checkpoints, every=4, steps=4)
        saver.log(0, {"loss": 1.0})
        saver.log(1, {"loss": 1.0})
        wait_until(lambda: bool(log._background._errors))
        with pytest.warns(RunWarning, match="record is lost"):
            saver.log(2, {"loss": 1.0})
        with pytest.warns(RunWarning, match="lost 1 record"):
            saver.save(3, {"step": jnp.int32(3)}, is_last=True)
        saver.close("success")
    assert writer.steps == [0, 2]
    assert saver.saved() == 3
    assert saver.failures
    assert all("no disk at 1" in failure for failure in saver.failures)


def test_images_of_an_evaluation_are_one_picture_each(tmp_path: Path) -> None:
    """A task draws an image, or rows of them."""
    memory = MemoryWriter()
    images = {"image": jnp.zeros((8, 8, 3), jnp.uint8), "rows": jnp.zeros((2, 3, 8, 8, 1), jnp.uint8)}
    with sowlog.Logger("unused", writers=[memory]) as log, Checkpoints(tmp_path, keep=1) as checkpoints:
        Saver(log, checkpoints, every=1, steps=1).log(0, {}, images=images)
    shapes = {tag: image.shape for record in memory.records for tag, image in record.images.items()}
    assert shapes == {"image": (8, 8, 3), "rows": (130, 196, 1)}
