import math
import os
import struct

import numpy as np
import pytest

from sowlog._events.framing import read_payloads
from sowlog.testing import read_events
from sowlog.writers import TensorBoard
from sowlog.writers.record import Record
from tests.support.tensorboard_reading import (
    data_server,
    data_server_series,
    local_provider,
    tensorboard_scalars,
)
from tests.support.waiting import wait_until


def record(step, values, wall_time=1.5):
    """Return a record of a dict of values."""
    return Record(step, wall_time, tuple(values), np.array(list(values.values()), np.float32))


def write(logdir, *records, **options):
    """Write records to a new file of the folder, and close it."""
    writer = TensorBoard(logdir, **options)
    for each in records:
        writer.write(each)
    writer.close()
    return writer.path


def test_tensorboard_reads_one_point_per_tag_and_step(tmp_path):
    """Steps, values and wall times come back through TensorBoard's own reader."""
    values = [{"a": step + 0.5, "b/c": -step} for step in range(5)]
    write(tmp_path, *(record(step, values[step], wall_time=1e9 + step) for step in range(5)))
    assert tensorboard_scalars(tmp_path) == {
        "a": ([0, 1, 2, 3, 4], [0.5, 1.5, 2.5, 3.5, 4.5], [1e9 + step for step in range(5)]),
        "b/c": ([0, 1, 2, 3, 4], [0.0, -1.0, -2.0, -3.0, -4.0], [1e9 + step for step in range(5)]),
    }


def test_a_record_is_one_event(tmp_path):
    """All values of a step share one event: the file has a version event and one per record."""
    path = write(tmp_path, record(1, {f"tag{i}": i for i in range(100)}), record(2, {"tag0": 0}))
    assert len(list(read_payloads(path))) == 3


@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.0, 1e-45, -1e-40, 3.4028235e38, 0.0])
def test_every_float32_comes_back_bit_for_bit(tmp_path, value):
    """Infinities, denormals, the largest float and negative zero are written unchanged."""
    write(tmp_path, record(3, {"x": value}))
    (read,) = tensorboard_scalars(tmp_path)["x"].values
    assert struct.pack("<f", read) == np.float32(value).tobytes()


def test_a_nan_is_a_point(tmp_path):
    """A sown NaN is written and shown."""
    write(tmp_path, record(3, {"x": math.nan}))
    series = tensorboard_scalars(tmp_path)["x"]
    assert series.steps == [3]
    assert math.isnan(series.values[0])


TAGS = [
    "a b",
    "a_b",
    "a:b",
    "a/b",
    "/a",
    "a/",
    "Größe/π",
    "損失",
    "🌱",
    "x" * 10_000,
    "\\",
    '"',
    "\n",
    "%s {0}",
]


def test_odd_tags_are_kept_apart_and_as_they_are(tmp_path):
    """No tag is changed: spaces, colons, Unicode and ten thousand characters are kept."""
    write(tmp_path, record(0, {tag: i for i, tag in enumerate(TAGS)}))
    assert {tag: series.values for tag, series in tensorboard_scalars(tmp_path).items()} == {
        tag: [i] for i, tag in enumerate(TAGS)
    }


def test_an_empty_tag_is_a_tag(tmp_path):
    """The writer accepts an empty tag."""
    write(tmp_path, record(0, {"": 1.0}))
    assert [(point.tag, point.value) for point in read_events(tmp_path)] == [("", 1.0)]


@pytest.mark.parametrize("step", [0, -1, -(2**63), 2**31, 2**40, 2**63 - 1])
def test_any_int64_is_a_step(tmp_path, step):
    """Negative steps and those beyond 2^31 come back."""
    write(tmp_path, record(step, {"x": 1.0}))
    assert tensorboard_scalars(tmp_path)["x"].steps == [step]


def test_steps_that_repeat_or_go_back_are_all_written(tmp_path):
    """The file has all points in order, and a reader may choose."""
    write(tmp_path, *(record(step, {"x": i}) for i, step in enumerate([3, 3, 1, 2])))
    assert [(point.step, point.value) for point in read_events(tmp_path)] == [(3, 0), (3, 1), (1, 2), (2, 3)]


def test_a_record_without_values_writes_nothing(tmp_path):
    """A step at which nothing was sown leaves no event."""
    path = write(tmp_path, record(1, {}))
    assert path.stat().st_size == write(tmp_path).stat().st_size


def test_two_writers_in_one_folder_keep_their_own_files(tmp_path):
    """Two writers within one second lose no record."""
    first, second = (TensorBoard(tmp_path, clock=lambda: 1e9) for _ in range(2))
    first.write(record(1, {"first": 1.0}))
    second.write(record(1, {"second": 2.0}))
    first.close()
    second.close()
    assert {tag: series.values for tag, series in tensorboard_scalars(tmp_path).items()} == {
        "first": [1.0],
        "second": [2.0],
    }


@pytest.mark.parametrize("skew", [0, -3600, 3600])
def test_a_resumed_run_reads_as_one_series(tmp_path, skew):
    """Steps that a killed process logged beyond the checkpoint are shown once, with the new values."""
    write(tmp_path, *(record(step, {"x": step}) for step in range(10)), clock=lambda: 1e9)
    resumed = (record(step, {"x": 100 + step}) for step in range(6, 12))
    write(tmp_path, *resumed, resume_from=6, clock=lambda: 1e9 + skew)
    series = tensorboard_scalars(tmp_path)["x"]
    assert series.steps == list(range(12))
    assert series.values == [0, 1, 2, 3, 4, 5, *range(106, 112)]


def test_resuming_from_the_first_step_supersedes_all(tmp_path):
    """resume_from=0 is a valid step."""
    write(tmp_path, record(0, {"x": 1.0}), record(1, {"x": 1.0}))
    write(tmp_path, record(0, {"x": 2.0}), resume_from=0)
    assert tensorboard_scalars(tmp_path)["x"][:2] == ([0], [2.0])


def test_a_written_record_is_readable_before_any_flush(tmp_path):
    """`write` passes the record to the operating system: a reader, or a kill, finds it whole."""
    writer = TensorBoard(tmp_path)
    for step in range(50):
        writer.write(record(step, {"x": step}))
        assert [point.step for point in read_events(tmp_path)] == list(range(step + 1))
    writer.close()


def test_read_events_takes_a_file_or_a_folder(tmp_path):
    """Both return the same points."""
    path = write(tmp_path, record(2, {"x": 0.25}, wall_time=12.5))
    assert read_events(path) == read_events(str(tmp_path)) == [(2, "x", 0.25, 12.5)]


@pytest.mark.parametrize("leave", ["flush", "close"])
def test_flush_and_close_reach_the_disk_itself(tmp_path, monkeypatch, leave):
    """The file is synced after its last record."""
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size) or sync(fd))
    writer = TensorBoard(tmp_path)
    writer.write(record(1, {"x": 1.0}))
    getattr(writer, leave)()
    assert synced[-1] == writer.path.stat().st_size


def test_a_new_files_name_reaches_the_disk(tmp_path, monkeypatch):
    """A power cut loses a synced file whose folder entry is not on disk."""
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino) or sync(fd))
    TensorBoard(tmp_path / "run").close()
    assert (tmp_path / "run").stat().st_ino in synced


@pytest.mark.parametrize("starts", [(0, 6), (0, 6, 4)])
def test_the_python_server_shows_a_resumed_run_as_one_series(tmp_path, starts):
    """That of `tensorboard --load_fast=false` ignores the first START of a folder."""
    for first in starts:
        write(tmp_path, *(record(step, {"x": step}) for step in range(first, 10)), resume_from=first or None)
    (series,) = data_server_series(local_provider(tmp_path), "x").values()
    assert series.steps == list(range(10))


def test_the_data_server_shows_resumed_runs_as_one_series(tmp_path):
    """Killed and resumed three times, with a clock that went back: the Rust server has no gaps or doubles."""
    for session, clock in enumerate([1e9, 1e9, 1e9 - 3600]):
        first = 4 * session
        records = [record(step, {"x": 100 * session + step}) for step in range(first, first + 7)]
        write(tmp_path / "run", *records, resume_from=first or None, clock=lambda clock=clock: clock)
    expected = [0, 1, 2, 3, 104, 105, 106, 107, *range(208, 215)]
    assert tensorboard_scalars(tmp_path / "run")["x"].values == expected
    with data_server(tmp_path) as server:
        wait_until(lambda: "run" in data_server_series(server, "x"))
        wait_until(lambda: len(data_server_series(server, "x")["run"].steps) == len(expected))
        series = data_server_series(server, "x")["run"]
    assert (series.steps, series.values) == (list(range(15)), expected)
