import math
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import sowlog
from sowlog._tree.layout import PresentTags
from sowlog.writers import Csv, DeliveryError, Parquet, Record, StalledError
from sowlog.writers import parquet as private
from tests.support.full_disk import file_size_limit
from tests.support.strict_python import STRICT_PYTHON

PARTS = "metrics.parquet"


def record(step, values, **others):
    """Return a record of a dict of scalars."""
    return Record(step, 1.5, tuple(values), np.array(list(values.values()), np.float32), **others)


def write(path, *records, **options):
    """Write records to a folder, and close it."""
    writer = Parquet(path, **options)
    for each in records:
        writer.write(each)
    writer.close()
    return writer.path


def rows(path):
    """Return the step, tag and value of each row, as pandas reads them."""
    frame = pd.read_parquet(path)
    return list(zip(frame["step"], frame["tag"], frame["value"], strict=True))


def names(path):
    """Return the names of the files in a folder, hidden ones too."""
    return sorted(each.name for each in path.iterdir())


@pytest.fixture
def short_parts(monkeypatch):
    """End a part after four rows."""
    monkeypatch.setattr(private, "_ROWS", 4)


def test_a_folder_has_a_folder_of_its_own_name(tmp_path):
    """A path that ends in .parquet is the folder of the parts; a file there is named."""
    assert write(tmp_path / "run", record(0, {"x": 1})) == tmp_path / "run" / PARTS
    assert write(tmp_path / "mine.parquet", record(0, {"x": 1})) == tmp_path / "mine.parquet"
    (tmp_path / "all.parquet").touch()
    with pytest.raises(NotADirectoryError, match=r"all\.parquet is a file, and Parquet writes a folder"):
        Parquet(tmp_path / "all.parquet")


def test_pandas_and_arrow_read_what_was_logged(tmp_path):
    """With their types, NaN and infinities, and a row for each value that is present."""
    with sowlog.Logger("unused", writers=[Parquet(tmp_path)], on_nonfinite="ignore") as log:
        log(3, {"a": math.nan, "b": math.inf, "c": -math.inf})
        log(2**62, {"a": 0.1, "layers": [1.0, 2.0]})
    frame = pd.read_parquet(tmp_path / PARTS)
    assert frame["tag"].tolist() == ["a", "b", "c", "a", "layers/00", "layers/01"]
    assert frame["step"].tolist() == [3] * 3 + [2**62] * 3
    expected = np.array([np.nan, np.inf, -np.inf, 0.1, 1, 2], np.float32)
    np.testing.assert_array_equal(frame["value"], expected)
    schema = parquet.read_table(tmp_path / PARTS).schema
    text = pa.dictionary(pa.int32(), pa.string())
    expected = [("step", pa.int64()), ("wall_time", pa.float64()), ("tag", text), ("value", pa.float32())]
    assert [(field.name, field.type) for field in schema] == expected


def test_the_table_is_that_of_csv(tmp_path):
    """Column by column, so that a program may read either."""
    records = [record(step, {"x": step / 3, "a,b": -step}) for step in range(5)]
    csv = Csv(tmp_path)
    csv.write_all(records)
    csv.close()
    expected = pd.read_csv(csv.path, dtype={"value": np.float32})
    found = pd.read_parquet(write(tmp_path, *records)).astype({"tag": expected["tag"].dtype})
    pd.testing.assert_frame_equal(found, expected)


def test_odd_tags_come_back(tmp_path):
    """A lone surrogate, which UTF-8 lacks, as its code."""
    tags = ["Größe/損失", "🌱", '"', "\n", "\0", "x" * 10_000, "", "\udc80"]
    path = write(tmp_path, record(0, {tag: i for i, tag in enumerate(tags)}))
    assert rows(path) == [(0, tag, i) for i, tag in enumerate([*tags[:-1], "\\udc80"])]


def test_absent_values_and_records_without_scalars_have_no_row(tmp_path):
    """A table without a row has no part."""
    present = PresentTags.of(("a", "b", "c"), np.array([True, False, True]))
    path = write(tmp_path, Record(3, 1.5, present, np.arange(2, dtype=np.float32)), record(4, {}))
    assert rows(path) == [(3, "a", 0), (3, "c", 1)]
    assert names(write(tmp_path / "empty", record(0, {}, texts={"note": "text"}))) == []


def test_parts_end_after_their_rows_and_one_table_has_all(tmp_path, short_parts):
    """Each with a dictionary of its own; a record is in one part."""
    path = write(tmp_path, *(record(step, {f"tag{step}": step, "x": -step, "y": 0}) for step in range(5)))
    assert names(path) == ["part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
    sizes = [parquet.read_metadata(path / name).num_rows for name in names(path)]
    assert sizes == [6, 6, 3]
    expected = [
        (step, tag, value)
        for step in range(5)
        for tag, value in ((f"tag{step}", step), ("x", -step), ("y", 0))
    ]
    assert rows(path) == expected


def test_a_part_is_written_after_a_while(tmp_path):
    """And again with the rows since, so that a table that grows slowly has few parts."""
    now = 0.0
    writer = Parquet(tmp_path, clock=lambda: now)
    counts = {}
    for step in range(70):
        now = float(step)
        writer.write(record(step, {"x": step}))
        counts[step] = len(rows(writer.path)) if list(writer.path.glob("*.parquet")) else 0
    assert [counts[step] for step in (29, 30, 59, 60, 69)] == [0, 31, 31, 61, 61]
    writer.flush()
    assert len(rows(writer.path)) == 70
    writer.close()
    assert names(writer.path) == ["part-000000.parquet"]


def test_a_resumed_run_drops_the_rows_that_it_writes_again(tmp_path, short_parts):
    """From each part, and a part without a row; the others stay as they are."""
    steps = [0, 1, 2, 3, 4, 5, 6, 7, 3, 2, 8, 9]
    path = write(tmp_path, *(record(step, {"x": i}) for i, step in enumerate(steps)))
    first = (path / "part-000000.parquet").stat()
    write(tmp_path, record(4, {"x": -1}), resume_from=4)
    kept = [(step, "x", i) for i, step in enumerate(steps) if step < 4]
    assert sorted(rows(path)) == sorted([*kept, (4, "x", -1)])
    assert names(path) == ["part-000000.parquet", "part-000002.parquet", "part-000003.parquet"]
    assert (path / "part-000000.parquet").stat() == first
    write(tmp_path, resume_from=-1)
    assert names(path) == []


def test_a_continued_folder_keeps_its_rows(tmp_path):
    """Also in one file that a user has made of the parts, from which a resumed run drops rows as well."""
    for step in range(3):
        path = write(tmp_path, record(step, {"x": step}))
    assert [step for step, *_ in rows(path)] == [0, 1, 2]
    table = parquet.read_table(path)
    for part in path.iterdir():
        part.unlink()
    parquet.write_table(table, path / "all.parquet", write_statistics=False)
    write(tmp_path, record(1, {"x": 10}), resume_from=1)
    assert sorted(rows(path)) == [(0, "x", 0), (1, "x", 10)]


def test_one_writer_at_a_time_has_the_folder(tmp_path):
    """Its lock is no part of the table, and ends with it."""
    writer = Parquet(tmp_path)
    with pytest.raises(BlockingIOError, match=r"open in another writer.* or name another folder"):
        Parquet(tmp_path)
    writer.write(record(0, {"x": 0}))
    writer.flush()
    assert rows(writer.path) == [(0, "x", 0)]
    writer.close()
    Parquet(tmp_path).close()


KILLED = """
import sys
import sowlog
from sowlog.writers import Parquet
log = sowlog.Logger("unused", writers=[Parquet(sys.argv[1])])
step = 0
while True:
    log(step, {f"tag{i}": float(step) for i in range(100)})
    step += 1
    if step % 20 == 0:
        log.flush()
        print("flushed", flush=True)
"""


def test_a_killed_process_leaves_what_was_flushed(tmp_path):
    """A whole table at any moment; the next process continues it, and the remains of a part are no part."""
    child = subprocess.Popen([*STRICT_PYTHON, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    with child:
        for _ in range(5):
            assert child.stdout.readline() == b"flushed\n"
        child.send_signal(signal.SIGKILL)
    path = tmp_path / PARTS
    counts = pd.read_parquet(path).groupby("step")["tag"].count()
    assert counts.index.tolist() == list(range(len(counts)))
    assert len(counts) >= 100
    assert set(counts) == {100}
    (path / ".part").write_bytes(b"PAR1 cut")
    write(tmp_path, record(5, {"x": 5}), resume_from=5)
    assert len(rows(path)) == 501
    assert all(name.startswith("part-") for name in names(path))


def test_a_full_disk_loses_nothing_within_memory(tmp_path, short_parts):
    """The part that did not fit is tried again by the next record, by flush and by close."""
    writer = Parquet(tmp_path)
    wide = {f"tag{i}": i for i in range(100)}
    with file_size_limit(200):
        with pytest.raises(StalledError, match=r"metrics\.parquet cannot be written: .*too large"):
            writer.write(record(0, wide))
        writer.write(record(1, {"x": 1}))
        with pytest.raises(DeliveryError, match=r"1 records are not in .* yet: .*too large") as caught:
            writer.flush()
        assert (caught.value.lost, caught.value.late) == (0, 1)
        assert names(writer.path) == [".lock"]
    writer.write(record(0, wide))
    assert len(rows(writer.path)) == 101
    writer.write(record(2, {"x": 2}))
    with (
        file_size_limit(200),
        pytest.raises(DeliveryError, match=r"1 records are not in .*too large") as caught,
    ):
        writer.close()
    assert (caught.value.lost, caught.value.late) == (1, 0)
    assert names(writer.path) == ["part-000000.parquet"]
    Parquet(tmp_path).close()


def test_after_the_folder_was_deleted_a_new_one_begins(tmp_path):
    """With the rows of the last part, which are in memory; flush reports that the folder is gone."""
    writer = Parquet(tmp_path)
    writer.write(record(0, {"x": 0}))
    writer.flush()
    shutil.rmtree(writer.path)
    with pytest.raises(FileNotFoundError, match="was deleted or moved during the run, with all its rows"):
        writer.flush()
    writer.path.write_text("in the way")
    with pytest.raises(StalledError, match="cannot be written"):
        writer.write(record(1, {"x": 1}))
    writer.path.unlink()
    with pytest.raises(StalledError, match="was deleted or moved during the run; a new folder replaces it"):
        writer.write(record(1, {"x": 1}))
    writer.write(record(1, {"x": 1}))
    writer.close()
    assert rows(writer.path) == [(0, "x", 0), (1, "x", 1)]


def test_a_moved_folder_keeps_its_rows_and_a_new_one_begins(tmp_path):
    """No part is written to the other name."""
    writer = Parquet(tmp_path)
    writer.write(record(0, {"x": 0}))
    writer.flush()
    writer.path.rename(tmp_path / "old.parquet")
    with pytest.raises(StalledError, match="was deleted or moved during the run; a new folder replaces it"):
        writer.write(record(1, {"x": 1}))
    writer.write(record(1, {"x": 1}))
    with pytest.raises(BlockingIOError, match="is open in another writer"):
        Parquet(tmp_path)
    writer.close()
    assert rows(tmp_path / "old.parquet") == [(0, "x", 0)]
    assert rows(writer.path) == [(0, "x", 0), (1, "x", 1)]


def test_after_the_lock_was_deleted_alone_nothing_is_lost(tmp_path):
    """As by a clean-up of hidden files: it is taken again with the next part, if no other writer has it."""
    writer = Parquet(tmp_path)
    writer.write(record(0, {"x": 0}))
    (writer.path / ".lock").unlink()
    writer.write(record(1, {"x": 1}))
    writer.flush()
    with pytest.raises(BlockingIOError, match="is open in another writer"):
        Parquet(tmp_path)
    (writer.path / ".lock").unlink()
    writer.write(record(2, {"x": 2}))
    writer.close()
    assert rows(writer.path) == [(0, "x", 0), (1, "x", 1), (2, "x", 2)]
    assert names(writer.path) == ["part-000000.parquet"]


def test_a_part_of_another_writer_is_not_replaced(tmp_path):
    """Which has the folder, since the lock was deleted."""
    first = Parquet(tmp_path)
    first.write(record(0, {"x": 0}))
    (first.path / ".lock").unlink()
    second = Parquet(tmp_path)
    with pytest.raises(DeliveryError, match=r"1 records are not in .*is open in another writer"):
        first.close()
    second.write(record(1, {"x": 1}))
    second.close()
    assert rows(second.path) == [(1, "x", 1)]


def test_the_close_of_a_deleted_folder_leaves_that_of_another_writer(tmp_path):
    """Which has the same name, and its own lock."""
    first = Parquet(tmp_path)
    shutil.rmtree(first.path)
    second = Parquet(tmp_path)
    with pytest.raises(FileNotFoundError, match="was deleted or moved during the run"):
        first.close()
    assert names(second.path) == [".lock"]
    second.close()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"PAR1 and no more", r"part-000000\.parquet is no file of Parquet, or is damaged: .* Remove it"),
        (
            pa.table({"step": [1], "loss": [0.5]}),
            "has the columns step, loss, where Parquet writes step, wall_time",
        ),
    ],
)
def test_another_table_is_left_alone(tmp_path, table, message):
    """It is found before a record is written; the folder is free."""
    path = tmp_path / PARTS / "part-000000.parquet"
    path.parent.mkdir()
    path.write_bytes(table) if isinstance(table, bytes) else parquet.write_table(table, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        Parquet(tmp_path)
    assert path.read_bytes() == before
    assert names(path.parent) == ["part-000000.parquet"]


def test_without_arrow_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    """As other optional packages do; no folder is made."""
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs pyarrow, .* pip install 'sowlog\[arrow\]'"):
        Parquet(tmp_path / "run")
    assert not (tmp_path / "run").exists()
