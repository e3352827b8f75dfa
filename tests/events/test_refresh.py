"""A run that is read while it is written."""

import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sowlog
from sowlog._events import framing, reader
from sowlog._events.framing import frame
from tests.support import event_shapes as shapes
from tests.support.event_shapes import VERSION, event, start, write_file
from tests.support.tensorboard_reading import as_series, tensorboard_scalars


def contents(run):
    """Return all that a run has, as plain values."""
    media = (run.histograms, run.images, run.texts, run.tensors)
    kinds = [{tag: list(map(str, points)) for tag, points in kind.items() if len(points)} for kind in media]
    series = {tag: points for tag, points in as_series(run).items() if points.steps}
    return series, kinds, list(map(str, run.damage)), run.hparams


def some_events(seed):
    """Return events of all kinds, with a restart in their middle."""
    return [
        VERSION,
        *(event(step, shapes.plain("x", seed + step), shapes.plain("y", step)) for step in range(5)),
        shapes.as_tensorflow_2(5, is_first=True),
        event(6, shapes.plain("x", seed), shapes.histogram_v1("h", [1, 2], [0.0, 1.0], -1.0, 1.0)),
        start(3),
        *(event(step, shapes.plain("x", 10 * step)) for step in range(3, 6)),
    ]


@given(data=st.data())
def test_a_run_that_is_refreshed_is_the_run_that_is_read_anew(data, tmp_path_factory):
    """Cut at any byte, and with files that appear in any order of their names."""
    folder = tmp_path_factory.mktemp("run")
    names = data.draw(st.permutations(["a.tfevents.1", "b.tfevents.2", "c.tfevents.3"]))
    run = None
    for seed, name in enumerate(names):
        whole = b"".join(frame(one.SerializeToString()) for one in some_events(seed))
        cuts = sorted(data.draw(st.lists(st.integers(1, len(whole)), max_size=3)))
        for cut in [*cuts, len(whole)]:
            (folder / name).write_bytes(whole[:cut])
            run = run or sowlog.read(folder)
            run.refresh()
            assert contents(run) == contents(sowlog.read(folder))
    assert run is not None
    assert not run.refresh()
    assert run.damage == ()


def test_only_new_bytes_are_read(tmp_path, monkeypatch):
    """No payload is read twice, and a run without news costs no read at all."""
    read = []

    def counted(path, *, start=0, record=0):
        for payload in framing.read_payloads(path, start=start, record=record):
            read.append(payload)
            yield payload

    monkeypatch.setattr(reader, "read_payloads", counted)
    with sowlog.Logger(tmp_path) as log:
        log(0, {"x": 0.0})
        log.flush()
        run = sowlog.read(tmp_path)
        before = len(read)
        for step in range(1, 4):
            log(step, {"x": float(step)})
            log.flush()
            assert run.refresh()
            assert not run.refresh()
    assert len(read) == before + 3
    assert run.scalars["x"].values.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_arrays_taken_before_stay(tmp_path):
    """A refresh replaces the mappings and changes no array."""
    path = write_file(tmp_path, [VERSION, event(0, shapes.plain("x", 1.0))])
    run = sowlog.read(tmp_path)
    scalars, steps = run.scalars, run.scalars["x"].steps
    with path.open("ab") as file:
        file.write(frame(event(1, shapes.plain("x", 2.0)).SerializeToString()))
    assert run.refresh()
    assert (steps.tolist(), scalars["x"].steps.tolist()) == ([0], [0])
    assert run.scalars["x"].steps.tolist() == [0, 1]


def test_a_torn_record_is_read_once_it_is_whole(tmp_path):
    """While it is torn, it is damage; the bytes before it are not read again."""
    records = [frame(event(step, shapes.plain("x", step)).SerializeToString()) for step in range(3)]
    path = tmp_path / "events.out.tfevents.1.host"
    path.write_bytes(records[0] + records[1][:-3])
    run = sowlog.read(tmp_path)
    assert [damage.record for damage in run.damage] == [1]
    path.write_bytes(b"".join(records))
    assert run.refresh()
    assert (run.scalars["x"].steps.tolist(), run.damage) == ([0, 1, 2], ())


@pytest.mark.parametrize("change", ["shorter", "replaced", "removed"])
def test_files_that_are_replaced_are_read_anew(tmp_path, change):
    """Such as those of a run that was begun again in its folder."""
    first = write_file(tmp_path, [VERSION, *(event(step, shapes.plain("x", 1.0)) for step in range(9))])
    second = write_file(
        tmp_path, [VERSION, event(9, shapes.plain("x", 2.0))], name="events.out.tfevents.2.host"
    )
    run = sowlog.read(tmp_path)
    if change == "shorter":
        first.write_bytes(frame(VERSION.SerializeToString()))
    elif change == "removed":
        first.unlink()
    else:
        other = write_file(
            tmp_path / "other", [VERSION, *(event(9, shapes.plain("z", 1.0)) for _ in range(20))]
        )
        other.replace(first)
    assert run.refresh()
    assert contents(run) == contents(sowlog.read(tmp_path))
    assert as_series(run) == tensorboard_scalars(tmp_path)
    second.unlink()
    if change != "removed":
        first.unlink()
    with pytest.raises(FileNotFoundError, match="holds no event file"):
        run.refresh()


@pytest.mark.parametrize("count", [3, 9, 30])
def test_a_file_that_is_written_anew_in_place_is_read_anew(tmp_path, count):
    """As by a copy over it, which keeps its inode; shorter, of the same size, and longer."""
    path = write_file(tmp_path, [VERSION, *(event(step, shapes.plain("x", 1.0)) for step in range(9))])
    run = sowlog.read(tmp_path)
    write_file(tmp_path, [VERSION, *(event(step, shapes.plain("x", 2.0)) for step in range(count))])
    os.utime(path, (1, 1))
    assert run.refresh()
    assert run.scalars["x"].values.tolist() == [2.0] * count
    assert run.damage == ()
    assert not run.refresh()


KILLED = """
import os, signal, sys
data = open(sys.argv[1], "rb").read()
file = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for start in range(0, len(data), int(sys.argv[3])):
    os.write(file, data[start : start + int(sys.argv[3])])
os.kill(os.getpid(), signal.SIGKILL)
"""


@settings(max_examples=3)
@given(data=st.data())
def test_a_run_is_read_while_its_writer_is_killed_at_any_byte(data, tmp_path_factory):
    """Each refresh has whole records only, and the last one all of them, of a second writer as well."""
    folder = tmp_path_factory.mktemp("run")
    write_file(folder, [VERSION], name="events.out.tfevents.0.host")
    run = sowlog.read(folder)
    for number in (1, 2):
        events = [VERSION, *(event(step, shapes.plain("x", step)) for step in range(200 * number))]
        events.insert(100, start(0))
        whole = b"".join(frame(one.SerializeToString()) for one in events)
        source = folder / "whole"
        source.write_bytes(whole[: data.draw(st.integers(1, len(whole)))])
        target = folder / f"events.out.tfevents.{number}.host"
        command = [sys.executable, "-S", "-c", KILLED, source, target, str(data.draw(st.integers(1, 99)))]
        with subprocess.Popen(command) as writer:
            while writer.poll() is None:
                run.refresh()
                found = run.scalars.get("x")
                assert found is None or found.values.tolist() == found.steps.tolist()
        assert writer.returncode == -signal.SIGKILL
        run.refresh()
        assert contents(run) == contents(sowlog.read(folder))


def test_values_of_a_file_that_is_gone_or_changed_are_an_error(tmp_path):
    """They stay in the file; scalars are in memory."""
    path = write_file(tmp_path, [VERSION, shapes.as_tensorflow_2(0, is_first=True)])
    run = sowlog.read(tmp_path)
    assert run.texts["note"].values[-1] == "step 0"
    size = path.stat().st_size
    path.write_bytes(bytes(size))
    with pytest.raises(ValueError, match=r"has changed since note was found in it: read the run again\.$"):
        run.texts["note"].values[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"the values of note are read from it where they are used"):
        run.texts["note"].values[0]
    assert run.scalars["loss"].values.tolist() == [1.0]


def test_values_are_a_sequence(tmp_path):
    """With slices, negative indices and an end."""
    write_file(tmp_path, [VERSION, *(shapes.as_tensorflow_2(step, is_first=True) for step in range(4))])
    values = sowlog.read(tmp_path).texts["note"].values
    assert (values[-1], list(values[1:3]), len(values[::2])) == ("step 3", ["step 1", "step 2"], 2)
    assert repr(values) == "<4 values of note>"
    with pytest.raises(IndexError, match="out of bounds"):
        values[4]


def test_a_damaged_run_is_pickled_with_its_damage(tmp_path):
    """As a run is that is still written, or was killed."""
    path = write_file(
        tmp_path, [VERSION, event(0, shapes.plain("loss", 1.0)), event(1, shapes.plain("loss", 2.0))]
    )
    path.write_bytes(path.read_bytes()[:-1])
    run = sowlog.read(tmp_path)
    again = pickle.loads(pickle.dumps(run))
    assert contents(again) == contents(run)
    assert [(d.path, d.offset, d.record, str(d)) for d in again.damage] == [
        (d.path, d.offset, d.record, str(d)) for d in run.damage
    ]
    assert len(run.damage) == 1


def test_a_run_is_pickled_and_refreshed_elsewhere(tmp_path):
    """As to a worker process that draws it."""
    path = write_file(tmp_path, [VERSION, shapes.as_tensorflow_2(0, is_first=True)])
    run = pickle.loads(pickle.dumps(sowlog.read(tmp_path)))
    with path.open("ab") as file:
        file.write(frame(event(1, shapes.plain("loss", 2.0)).SerializeToString()))
    assert run.refresh()
    assert run.scalars["loss"].values.tolist() == [1.0, 2.0]
    np.testing.assert_array_equal(run.tensors["matrix"].values[0], np.zeros((2, 3)))
