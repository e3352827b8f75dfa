from pathlib import Path

import pytest

import sowlog
from sowlog.testing import read_events
from sowlog.writers import TensorBoard, local_folder

REFUSED = [
    ("gs://bucket/run", r"gs: cannot be written to: .* \./gs://bucket/run for a local folder"),
    ("s3://bucket/run", "s3: cannot be written to"),
    (Path("gs://bucket/run"), "gs: cannot be written to"),
    ("hdfs://host:9000/run", "hdfs: cannot be written to"),
    ("s3:/bucket/run", "s3: cannot be written to"),
    ("file:///home/me/run", r"write the path itself, /home/me/run\."),
    ("file://localhost/home/me/run", r"write the path itself, /home/me/run\."),
    ("", r"the path is '', which names no folder: write '\.'"),
    (" ", "names no folder"),
    ("run\0", "null character"),
    ("~no-such-user/run", "home directory is unknown"),
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Change to an empty folder, and return another one as the home directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(("path", "message"), REFUSED)
@pytest.mark.parametrize("use", [local_folder, sowlog.Logger, TensorBoard, sowlog.read, read_events])
def test_a_path_that_is_not_local_is_refused_before_a_file_is_made(use, path, message, home):
    """Each public name that takes a folder refuses it, with the correct path."""
    with pytest.raises(ValueError, match=message):
        use(path)
    assert list(Path().iterdir()) == []


def test_a_home_directory_is_expanded(home):
    """A shell expands its own arguments only, and not the paths inside of a program."""
    with sowlog.Logger("~/runs/x") as log:
        log(0, {"loss": 1.0})
    assert sowlog.read("~/runs/x").path == home / "runs" / "x"
    assert len(read_events("~/runs/x")) == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("path", ["./gs://bucket/run", "run:1", "a:/b", "a~b", "10:30/run", "a b/gs://"])
def test_unusual_names_of_local_folders_are_valid(path, home):
    """Only two letters or more at the start are a scheme."""
    assert local_folder(path) == Path(path)
    with sowlog.Logger(path) as log:
        log(0, {"loss": 1.0})
    assert len(read_events(path)) == 1


def test_own_writers_may_write_anywhere(home):
    """The logger itself then writes to no folder, so any name is valid."""
    memory = sowlog.testing.MemoryWriter()
    with sowlog.Logger("gs://bucket/run", writers=[memory]) as log:
        log(0, {"loss": 1.0})
    assert len(memory.records) == 1
