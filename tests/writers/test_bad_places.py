"""Places at which no writer of files can begin: an error names each, and nothing stays open."""

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet  # noqa: F401 - it may open files of its own
import pytest

from sowlog.testing import MemoryWriter
from sowlog.writers import Csv, JsonLines, Parquet, Record, Spooled, TensorBoard
from tests.support.full_disk import file_size_limit

MAKERS = {
    "Csv": Csv,
    "JsonLines": JsonLines,
    "Parquet": Parquet,
    "Spooled": lambda folder: Spooled(MemoryWriter(), folder / "a.spool"),
    "TensorBoard": TensorBoard,
}
FILES = {"Csv": "metrics.csv", "JsonLines": "metrics.jsonl", "Spooled": "a.spool"}


@pytest.fixture(autouse=True)
def nothing_stays_open():
    """Compare the descriptors before and after a test."""
    gc.collect()
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208 - the folder has no other use
    yield
    gc.collect()
    assert len(os.listdir("/dev/fd")) <= before  # noqa: PTH208


def works(name, folder):
    """Write a record there."""
    writer = MAKERS[name](folder)
    writer.write(Record(0, 1.5, ("x",), np.ones(1, np.float32)))
    writer.close()


@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_that_cannot_be_made(tmp_path, name):
    """Below a file; the same line works once that is moved away."""
    (tmp_path / "run").touch()
    with pytest.raises(OSError, match="run"):
        MAKERS[name](tmp_path / "run" / "first")
    (tmp_path / "run").unlink()
    works(name, tmp_path / "run" / "first")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is of Linux")
@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_that_may_not_be_written_to(name):
    """For root as well."""
    with pytest.raises(OSError, match=r"/proc"):
        MAKERS[name](Path("/proc/self/sowlog"))


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_the_file(tmp_path, name):
    """The error says what to do."""
    (tmp_path / FILES[name]).mkdir()
    with pytest.raises(OSError, match=r"is not a regular file, .*: move it away, or name another file"):
        MAKERS[name](tmp_path)
    (tmp_path / FILES[name]).rmdir()
    works(name, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_fifo_in_place_of_the_file(tmp_path, name):
    """Its opening would wait for a reader."""
    os.mkfifo(tmp_path / FILES[name])
    with pytest.raises(OSError, match="is not a regular file"):
        MAKERS[name](tmp_path)


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"JsonLines", "Parquet"}))
def test_a_full_disk(tmp_path, name):
    """Of those whose file begins with a header; the same line works once there is space."""
    with file_size_limit(3), pytest.raises(OSError, match="File too large"):
        MAKERS[name](tmp_path / "run")
    works(name, tmp_path / "run")


@pytest.mark.parametrize("name", ["Csv", "JsonLines", "Parquet"])
def test_a_full_disk_as_a_run_continues(tmp_path, name):
    """The rows that would be superseded are kept, for another attempt."""
    make = MAKERS[name]
    for step in (2, 1, 0):
        writer = make(tmp_path / "run")
        writer.write(Record(step, 1.5, ("x",), np.full(1, step, np.float32)))
        writer.write(Record(0, 1.5, ("y",), np.full(1, step, np.float32)))
        writer.close()
    before = contents(tmp_path / "run")
    with file_size_limit(3), pytest.raises(OSError, match="File too large"):
        make(tmp_path / "run", resume_from=1)
    assert contents(tmp_path / "run") == before
    make(tmp_path / "run", resume_from=1).close()
    assert contents(tmp_path / "run") != before


def contents(folder):
    """Return all files below a folder."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_that_was_deleted_does_not_hold_up_the_close(tmp_path, name):
    """The close raises, and names the file."""
    writer = MAKERS[name](tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    if name == "Spooled":  # It has no record that would be lost.
        writer.close()
        return
    with pytest.raises(FileNotFoundError, match=r"was deleted (or moved )?during the run, with all its"):
        writer.close()
