"""Descriptions of tags in TensorBoard."""

import errno

import jax
import jax.numpy as jnp
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR

import sowlog
import sowlog.testing
from sowlog._events.appending import AppendedFile
from sowlog.writers import TensorBoard
from tests.support.tensorboard_reading import tensorboard_scalars

DOC = "Largest activation [1]. Ideal: below 10."


def model(x):
    sowlog.sow("described/size", x, sowlog.max, doc=DOC)
    sowlog.sow("described/histogram", x, sowlog.histogram, doc="Activations.")
    return x.sum()


@jax.jit
def step(x):
    y, updates = sowlog.collect(model)(x)
    return sowlog.pack({"y": y, **updates["metrics"]})


def texts_in(folder):
    """The descriptions by tag as TensorBoard's own reader has them, which takes those of the first event."""
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {tag: found.summary_description for tag, found in reader.summary_metadata.items()}


def test_tensorboard_shows_the_description_of_each_sown_tag(tmp_path):
    """Text, reducer and place; the points are those of a run without descriptions."""
    with sowlog.Logger(tmp_path) as log:
        for number in range(5):
            log(number, step(jnp.arange(3.0) + number))
    texts = texts_in(tmp_path)
    assert texts["described/size"].startswith(
        f"{DOC} Reducer: max. Sown in tests/writers/test_descriptions.py:"
    )
    assert texts["described/histogram"].startswith("Activations. Reducer: histogram. Sown in")
    assert "y" not in texts
    scalars = tensorboard_scalars(tmp_path)
    assert scalars["described/size"].values == [2, 3, 4, 5, 6]
    assert sowlog.read(tmp_path).scalars["described/size"].values.tolist() == [2, 3, 4, 5, 6]


def test_only_the_first_event_of_a_tag_has_its_description(tmp_path):
    """Of a tag that is absent at first, the first with a value."""

    @jax.jit
    def often(number, x):
        def late(x):
            sowlog.sow("late/size", x, sowlog.max, doc=DOC, every=2)

        _, updates = sowlog.collect(late, step=number)(x)
        return sowlog.pack({"y": x, **updates["metrics"]})

    with sowlog.Logger(tmp_path) as log:
        for number in range(1, 5):
            log(number, often(number, 1.0))
    # TensorBoard's default server takes a description beside a class of data alone.
    described = [
        (event.step, value.tag, value.metadata.data_class, value.metadata.plugin_data.plugin_name)
        for file in tmp_path.glob("*tfevents*")
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.metadata.summary_description
    ]
    assert described == [(2, "late/size", DATA_CLASS_SCALAR, "scalars")]


def test_a_new_file_in_place_of_a_deleted_one_has_them_again(tmp_path):
    """Nothing of the deleted file is left to be read."""
    writer = TensorBoard(tmp_path)
    with sowlog.Logger(tmp_path, writers=[writer]) as log:
        log(0, step(jnp.ones(3)))
        log.flush()
        writer.path.unlink()
        log(1, step(jnp.ones(3)))
        with pytest.warns(sowlog.LossWarning, match="was deleted during the run"):
            log.flush()
    assert texts_in(tmp_path)["described/size"].startswith(DOC)


def test_a_write_that_fails_keeps_the_description_for_the_next(tmp_path, monkeypatch):
    """The disk is full at the first event of a tag."""
    append = AppendedFile.append

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with sowlog.Logger(tmp_path) as log:
        monkeypatch.setattr(AppendedFile, "append", full)
        log(0, step(jnp.ones(3)))
        with pytest.raises(sowlog.WriterError, match="No space left on device"):
            log.flush()
        monkeypatch.setattr(AppendedFile, "append", append)
        log(1, step(jnp.ones(3)))
    assert texts_in(tmp_path)["described/size"].startswith(DOC)
    assert texts_in(tmp_path)["described/histogram"].startswith("Activations.")


def test_a_record_that_cannot_be_written_costs_the_others_no_description(tmp_path):
    """Of one batch, whose records are then written one by one."""
    memory = sowlog.testing.MemoryWriter()
    with sowlog.Logger("unused", writers=[memory]) as log:
        log(0, step(jnp.arange(3.0)))
    writer = TensorBoard(tmp_path)
    odd = sowlog.writers.Record(1, 1.5, texts={"t": 5})
    with pytest.raises(AttributeError, match="has no attribute 'encode'"):
        writer.write_all([*memory.records, odd])
    writer.write(memory.records[0])
    writer.close()
    assert texts_in(tmp_path)["described/size"].startswith(DOC)
    assert texts_in(tmp_path)["described/histogram"].startswith("Activations.")
