import os
import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

import sowlog.testing
from sowlog import Logger, sum
from sowlog._events import parsing
from sowlog._events.columns import EventLayout
from sowlog._events.file import create_event_file
from sowlog._events.framing import frame
from sowlog._events.reading import read
from sowlog.writers import TensorBoard
from sowlog.writers.record import Record
from tests.support.tensorboard_reading import as_series, tensorboard_scalars


def record(step, tags, seed=0):
    """Return a record with distinct values."""
    values = np.random.default_rng((abs(step), seed)).standard_normal(len(tags)).astype(np.float32)
    return Record(step, 1.5e9 + seed + step / 8, tuple(tags), values)


tag_sets = st.lists(st.text("ab/ö", min_size=1, max_size=4), min_size=1, max_size=4, unique=True)
steps = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300)


@st.composite
def sessions(draw):
    """Draw files of one run: for each the step it resumes from, or None, and its records."""
    layouts = draw(st.lists(tag_sets, min_size=1, max_size=3))
    some = st.sampled_from(layouts).flatmap(
        lambda tags: st.lists(st.sampled_from(tags), unique=True, min_size=1)
    )
    rows = st.lists(st.tuples(steps, st.sampled_from(layouts) | some), max_size=12)
    resumes = st.none() | st.integers(0, 300)
    return [(draw(resumes), draw(rows)) for _ in range(draw(st.integers(1, 3)))]


@given(sessions=sessions())
def test_read_agrees_with_tensorboard(sessions, tmp_path_factory):
    """Both find the same tags, steps, values and times, for any tags and steps, over files and restarts."""
    folder = tmp_path_factory.mktemp("run")
    for seed, (resume_from, rows) in enumerate(sessions):
        writer = TensorBoard(folder, resume_from=resume_from)
        for step, tags in rows:
            writer.write(record(step, tags, seed))
        writer.close()
    run = read(folder)
    assert run.damage == ()
    expected = tensorboard_scalars(folder)
    assert {tag: series for tag, series in as_series(run).items() if series.steps} == {
        tag: series for tag, series in expected.items() if series.steps
    }


def test_values_come_back_bit_for_bit(tmp_path):
    """NaN, infinities, denormals and the negative zero included."""
    bits = [0x7FC00000, 0x7F800000, 0xFF800000, 1, 0x80000000, 0x7F7FFFFF]
    with Logger(tmp_path, on_nonfinite="ignore") as log:
        for step, word in enumerate(bits):
            log(step, {"x": np.array(word, np.uint32).view(np.float32)})
    run = read(tmp_path)
    assert run.scalars["x"].values.view(np.uint32).tolist() == bits
    assert run.scalars["x"].steps.tolist() == list(range(6))


def test_dtypes_are_those_of_the_format(tmp_path):
    """int64 steps, float32 values, float64 times."""
    with Logger(tmp_path) as log:
        log(2**40, {"x": 1.0})
    run = read(tmp_path)
    steps, values = run.scalars["x"]
    assert (steps.dtype, values.dtype, run.wall_times["x"].dtype) == (np.int64, np.float32, np.float64)
    assert run.path == tmp_path


def test_absent_values_leave_gaps(tmp_path):
    """A tag has points at the steps of its sows only."""
    with Logger(tmp_path) as log:
        for step in range(6):
            log(step, {"a": sum.of(1.0), "b": sum.of(2.0) if step % 2 else sum.init_fn()})
    run = read(tmp_path)
    assert run.scalars["a"].steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert run.scalars["b"].steps.tolist() == [1, 3, 5]


def test_sets_of_tags_that_come_once_are_read(tmp_path, monkeypatch):
    """Absent values change at every step, over a restart; protobuf parses only events with other values."""
    generator = np.random.default_rng(0)
    whole = [f"layer_{i}/entropy" for i in range(30)]
    for resume_from in (None, 40):
        writer = TensorBoard(tmp_path, resume_from=resume_from)
        for step in range(resume_from or 0, 60):
            writer.write(record(step, [tag for tag in whole if generator.random() < 0.8]))
        writer.close()
    parsed = []
    parse_event = parsing.parse_event
    monkeypatch.setattr(
        parsing, "parse_event", lambda payload, *args: parsed.append(payload) or parse_event(payload, *args)
    )
    run = read(tmp_path)
    assert parsed == []
    assert as_series(run) == tensorboard_scalars(tmp_path)


def test_one_scalar_per_event_is_read(tmp_path):
    """The add_scalar of tensorboardX is read beside its other kinds."""
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(300):
            for tag in ("loss", "rate", "norm"):
                writer.add_scalar(tag, step * len(tag), step)
            writer.add_text("note", "text", step)
            writer.add_histogram("weights", np.arange(10), step)
    assert as_series(read(tmp_path)) == tensorboard_scalars(tmp_path)


def read_tasks(folder, tasks):
    """Write a step with a loss and a tag of its task for each, and read them as TensorBoard does."""
    writer = TensorBoard(folder)
    for step, task in enumerate(tasks):
        writer.write(record(step, ["loss", f"task{task:02}"]))
    writer.close()
    run = read(folder)
    assert as_series(run) == tensorboard_scalars(folder)
    return run


def test_events_of_the_same_size_are_distinguished(tmp_path):
    """Two layouts may begin alike and have one size; the probable layout of an event is checked."""
    run = read_tasks(tmp_path, [step // 3 % 4 for step in range(40)])
    found = [tags for probes in run._reader._layouts.values() for tags in probes.values()]
    assert [len(layouts) for by_bytes in found for layouts in by_bytes.values()] == [4]


def test_events_that_begin_alike_are_found_by_all_their_tags(tmp_path, monkeypatch):
    """As of many tasks beside one loss: an event is compared with its own layout, not with each."""
    compared = []
    holds = EventLayout.holds
    monkeypatch.setattr(
        EventLayout, "holds", lambda self, payload: compared.append(1) or holds(self, payload)
    )
    read_tasks(tmp_path, [step * 7 % 100 for step in range(2000)])
    assert len(compared) < 2 * 2000


def write_events(folder, *payloads):
    """Write an event file of these payloads."""
    file = create_event_file(folder, b"".join(map(frame, payloads)))
    file.close()
    return file.path


def test_scalars_with_metadata_or_doubled_are_read(tmp_path):
    """Other programs may write these events, and our writer does not."""
    named = Summary.Value(tag="named", simple_value=2.0, metadata=SummaryMetadata(display_name="Name"))
    twice = [Summary.Value(tag="x", simple_value=value) for value in (3.0, 4.0)]
    events = [
        Event(wall_time=1.5, step=step, summary=Summary(value=[named, *twice])).SerializeToString()
        for step in range(3)
    ]
    write_events(tmp_path, Event(file_version="brain.Event:2").SerializeToString(), *events)
    run = read(tmp_path)
    assert run.scalars["named"].values.tolist() == [2.0] * 3
    assert run.scalars["x"].steps.tolist() == [0, 0, 1, 1, 2, 2]
    assert run.scalars["x"].values.tolist() == [3.0, 4.0] * 3


def test_an_event_without_time_is_read(tmp_path):
    """Protobuf leaves a zero out, so its head is shorter."""
    events = [
        Event(step=step, summary=Summary(value=[Summary.Value(tag="x", simple_value=step)]))
        for step in (0, 1, 300, 2**62)
    ]
    write_events(tmp_path, *(event.SerializeToString() for event in events))
    run = read(tmp_path)
    assert run.scalars["x"].steps.tolist() == [0, 1, 300, 2**62]
    assert run.wall_times["x"].tolist() == [0.0] * 4


def test_points_are_in_file_order_across_layouts(tmp_path):
    """Steps that repeat or go back keep the order of writing."""
    writer = TensorBoard(tmp_path)
    written = [(3, ["x"]), (1, ["x", "y"]), (3, ["x"]), (2, ["y", "x"]), (2**40, ["x"]), (0, ["x", "y"])]
    for step, tags in written:
        writer.write(record(step, tags))
    writer.close()
    assert read(tmp_path).scalars["x"].steps.tolist() == [step for step, _ in written]


def test_many_events_are_decoded_as_they_come(tmp_path, monkeypatch):
    """The held bytes are bounded, and the result is the same."""
    with Logger(tmp_path) as log:
        for step in range(500):
            log(step, {"x": float(step)} if step % 5 else {"x": 1.0, "y": 2.0})
    whole = as_series(read(tmp_path))
    held = []
    hold = EventLayout.hold
    monkeypatch.setattr("sowlog._events.reader._HELD", 200)
    monkeypatch.setattr(
        EventLayout, "hold", lambda shape, *args: hold(shape, *args) or held.append(len(shape.held))
    )
    assert as_series(read(tmp_path)) == whole == tensorboard_scalars(tmp_path)
    assert max(held) < 20


def test_a_folder_without_event_files_is_an_error(tmp_path):
    """The error has the expected content."""
    with pytest.raises(FileNotFoundError, match="holds no event file"):
        read(tmp_path)


@pytest.fixture(params=["fifo", "socket", "folder", "dangling", "loop"])
def no_file(request, tmp_path, monkeypatch):
    """Return a path with the name of an event file that is no regular file."""
    path = tmp_path / "events.out.tfevents.1.odd"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "socket":
        monkeypatch.chdir(tmp_path)  # A socket's address is short.
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    elif request.param == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere" if request.param == "dangling" else path.name)
    return path


@pytest.mark.timeout(60)
def test_an_irregular_file_is_skipped_and_named(no_file):
    """Among event files, neither the reader nor the logger waits or fails; alone it is no run."""
    folder = no_file.parent
    with pytest.raises(FileNotFoundError, match=r"holds no event file|is no regular file|does not exist"):
        read(folder)
    with pytest.raises(FileNotFoundError, match=r"holds no event file|is no regular file|does not exist"):
        read(no_file)
    with Logger(folder) as log:
        log(0, {"x": 1.0})
    with Logger(folder, resume_from=1) as log:
        log(1, {"x": 1.0})
    run = read(folder)
    assert run.scalars["x"].steps.tolist() == [0, 1]
    assert [point.step for point in sowlog.testing.read_events(folder)] == [0, 1]
    (damage,) = run.damage
    assert (damage.path, damage.offset, damage.record) == (no_file, 0, 0)
    assert "is skipped, since it cannot be read as a file" in str(damage)


def test_the_repr_of_a_run_has_its_place_and_the_number_of_tags(tmp_path):
    """It has the number of damaged files as well, if there are any."""
    with Logger(tmp_path) as log:
        log(0, {"x": 1.0})
    assert repr(read(tmp_path)) == f"<Run of {tmp_path}, 1 tag>"
    with Logger(tmp_path) as log:
        log(1, {"x": 1.0, "y": 1.0})
    (tmp_path / "events.out.tfevents.1.odd").write_bytes(b"odd")
    assert repr(read(tmp_path)) == f"<Run of {tmp_path}, 2 tags, 1 damaged>"


def test_a_link_to_a_file_is_read(tmp_path):
    """A run may be moved to another disk."""
    with Logger(tmp_path / "there") as log:
        log(0, {"x": 1.0})
    (path,) = (tmp_path / "there").iterdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / path.name).symlink_to(path)
    assert as_series(read(tmp_path / "here")) == as_series(read(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    """The other files are read."""
    with Logger(tmp_path) as log:
        log(0, {"x": 1.0})
    forbidden = tmp_path / "events.out.tfevents.1.forbidden"
    forbidden.touch(mode=0)
    run = read(tmp_path)
    assert run.scalars["x"].steps.tolist() == [0]
    assert "Permission denied" in str(run.damage[0])
