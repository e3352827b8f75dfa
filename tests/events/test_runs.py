"""Trees of runs, and their tables."""

import os
import socket
import sys

import numpy as np
import pytest

import sowlog
from tests.support import event_shapes as shapes
from tests.support.event_shapes import VERSION, event, write_file


def write_run(folder, *values, tag="loss"):
    """Write a run with a value for each step."""
    return write_file(
        folder, [VERSION, *(event(step, shapes.plain(tag, v)) for step, v in enumerate(values))]
    )


def test_each_folder_with_event_files_is_a_run(tmp_path):
    """By the path below the tree; the tree itself is ".", and other folders are none."""
    write_run(tmp_path, 1.0)
    write_run(tmp_path / "b", 2.0)
    write_run(tmp_path / "a" / "deep" / "er", 3.0)
    (tmp_path / "empty").mkdir()
    runs = sowlog.read_all(tmp_path)
    assert list(runs) == [".", "a/deep/er", "b"]
    assert runs["a/deep/er"].scalars["loss"].values.tolist() == [3.0]
    assert (len(runs), runs.skipped) == (3, ())
    assert repr(runs) == f"<3 runs under {tmp_path}: ., a/deep/er, b>"
    with pytest.raises(KeyError, match="nowhere"):
        runs["nowhere"]


def test_loops_of_links_end_and_no_run_is_read_twice(tmp_path):
    """A run has the name of its own folder; a link out of the tree is followed."""
    write_run(tmp_path / "tree" / "z", 1.0)
    write_run(tmp_path / "outside", 2.0)
    (tmp_path / "tree" / "a_latest").symlink_to("z")
    (tmp_path / "tree" / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "tree" / "loop").symlink_to("..")
    (tmp_path / "tree" / "z" / "self").symlink_to(".")
    (tmp_path / "tree" / "nowhere").symlink_to("nowhere")
    assert list(sowlog.read_all(tmp_path / "tree")) == ["linked", "z"]


def test_runs_that_wandb_syncs_are_read_once(tmp_path):
    """W&B links the event files into the folder of its run, and the newest run as latest-run."""
    path = write_run(tmp_path / "logs", 1.0, 2.0)
    synced = tmp_path / "wandb" / "run-20260101_000000-abc" / "files"
    synced.mkdir(parents=True)
    (synced / path.name).symlink_to(path)
    (tmp_path / "wandb" / "latest-run").symlink_to(synced.parent.name)
    runs = sowlog.read_all(tmp_path / "wandb")
    assert list(runs) == ["run-20260101_000000-abc/files"]
    assert runs["run-20260101_000000-abc/files"].scalars["loss"].values.tolist() == [1.0, 2.0]


def test_a_deep_tree_needs_no_recursion(tmp_path):
    """Deeper than Python's stack."""
    folder = tmp_path
    for _ in range(300):
        folder /= "d"
    write_run(folder, 1.0)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(250)
    try:
        assert len(sowlog.read_all(tmp_path)) == 1
    finally:
        sys.setrecursionlimit(limit)


def test_odd_things_in_a_tree_are_passed_over(tmp_path, monkeypatch):
    """A FIFO and a socket with the name of an event file, and TensorFlow's empty mark of a profile."""
    write_run(tmp_path / "run", 1.0)
    for name in ("fifo", "socket", "profile"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "fifo" / "events.out.tfevents.1.fifo")
    monkeypatch.chdir(tmp_path / "socket")  # A socket's address is short.
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("events.out.tfevents.1.socket")
    (tmp_path / "profile" / "events.out.tfevents.1.profile-empty").touch()
    assert list(sowlog.read_all(tmp_path)) == ["run"]


def test_new_runs_are_found_and_lost_ones_forgotten(tmp_path):
    """A refresh returns whether anything is new."""
    first = write_run(tmp_path / "first", 1.0)
    runs = sowlog.read_all(tmp_path)
    before = runs["first"]
    assert not runs.refresh()
    write_run(tmp_path / "second", 2.0)
    assert runs.refresh()
    assert (list(runs), runs["first"]) == (["first", "second"], before)
    first.unlink()
    assert runs.refresh()
    assert list(runs) == ["second"]
    (tmp_path / "second" / first.name).unlink()
    with pytest.raises(FileNotFoundError, match=r"and its subfolders hold no event file"):
        runs.refresh()


def test_a_path_without_runs_is_an_error(tmp_path):
    """For one run the error names the runs below, and the function that reads all."""
    with pytest.raises(FileNotFoundError, match=r"and its subfolders hold no event file \(\*tfevents\*\)"):
        sowlog.read_all(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist: pass a folder of runs"):
        sowlog.read_all(tmp_path / "nowhere")
    for name in "abcd":
        write_run(tmp_path / name, 1.0)
    with pytest.raises(FileNotFoundError, match=r"Its subfolders do: .*/a, .*/b, .*/c and 1 more\. Read one"):
        sowlog.read(tmp_path)
    with pytest.raises(ValueError, match="is no local folder"):
        sowlog.read_all("gs://bucket/runs")


def test_an_event_file_is_a_tree_of_one_run(tmp_path):
    """By its name."""
    path = write_run(tmp_path, 1.0, 2.0)
    assert {name: len(run.scalars["loss"].steps) for name, run in sowlog.read_all(path).items()} == {
        path.name: 2
    }


def test_tables_have_a_row_for_each_point(tmp_path):
    """The same in NumPy, pandas and Arrow, of one run and of several."""
    write_run(tmp_path / "a", 1.0, 2.0)
    write_run(tmp_path / "b", 3.0, tag="norm")
    runs = sowlog.read_all(tmp_path)
    expected = {
        "run": ["a", "a", "b"],
        "tag": ["loss", "loss", "norm"],
        "step": [0, 1, 0],
        "wall_time": [0.5, 1.5, 0.5],
        "value": [1.0, 2.0, 3.0],
    }
    table = runs.to_numpy()
    assert {name: column.tolist() for name, column in table.items()} == expected
    assert [table[name].dtype for name in ("run", "step", "wall_time", "value")] == [
        object,
        np.int64,
        np.float64,
        np.float32,
    ]
    frame = runs.to_pandas()
    assert {name: frame[name].tolist() for name in frame} == expected
    assert (frame["tag"].dtype.name, frame["value"].dtype) == ("category", np.float32)
    pytest.importorskip("pyarrow")
    assert runs.to_arrow().to_pydict() == expected
    del expected["run"]
    one = {name: values[:2] for name, values in expected.items()}
    assert {name: column.tolist() for name, column in runs["a"].to_numpy().items()} == one
    assert runs["a"].to_arrow().to_pydict() == one
    assert runs["a"].to_pandas().to_dict("list") == one


def test_a_run_without_scalars_is_an_empty_table(tmp_path):
    """With the dtypes of the others."""
    write_file(tmp_path, [VERSION])
    run = sowlog.read(tmp_path)
    table = run.to_numpy()
    assert [(len(column), column.dtype) for column in table.values()] == [
        (0, object),
        (0, np.int64),
        (0, np.float64),
        (0, np.float32),
    ]
    assert list(run.to_pandas().columns) == ["tag", "step", "wall_time", "value"]


@pytest.mark.parametrize(("package", "method"), [("pandas", "to_pandas"), ("pyarrow", "to_arrow")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package, method):
    """The error is raised where the package would be used."""
    write_run(tmp_path, 1.0)
    monkeypatch.setitem(sys.modules, package, None)
    extra = {"pandas": "pandas", "pyarrow": "arrow"}[package]
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'sowlog\[{extra}\]'"):
        getattr(sowlog.read(tmp_path), method)()
