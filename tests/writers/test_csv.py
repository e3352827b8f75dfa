import csv
import math
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import pytest

import sowlog
from sowlog._tree.layout import PresentTags
from sowlog.writers import Csv, Record, StalledError, _csv_rows
from tests.support.full_disk import file_size_limit
from tests.support.strict_python import STRICT_PYTHON

HEADER = "step,wall_time,tag,value\n"


def record(step, values, **others):
    """Return a record of a dict of scalars."""
    return Record(step, 1.5, tuple(values), np.array(list(values.values()), np.float32), **others)


def write(path, *records, **options):
    """Write records to a file, and close it."""
    writer = Csv(path, **options)
    for each in records:
        writer.write(each)
    writer.close()
    return writer.path


def rows(path):
    """Return the step, tag and value of each row, as Python's csv reads them."""
    with path.open(newline="", encoding="utf-8") as file:
        return [(int(row["step"]), row["tag"], float(row["value"])) for row in csv.DictReader(file)]


def test_a_folder_has_a_file_of_its_own_name_and_a_file_is_taken_as_it_is(tmp_path):
    """A path that ends in .csv is the file."""
    assert write(tmp_path / "run", record(0, {"x": 1})) == tmp_path / "run" / "metrics.csv"
    assert write(tmp_path / "run" / "mine.csv", record(0, {"x": 1})) == tmp_path / "run" / "mine.csv"
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"neither a folder nor the name of one: .* ends in \.csv"):
        Csv(tmp_path / "file")


def test_pandas_reads_what_was_logged(tmp_path):
    """With NaN and infinities, and a row for each value that is present."""
    with sowlog.Logger("unused", writers=[Csv(tmp_path)], on_nonfinite="ignore") as log:
        log(3, {"a": math.nan, "b": math.inf, "c": -math.inf})
        log(2**62, {"a": 0.1, "layers": [1.0, 2.0]})
    frame = pd.read_csv(tmp_path / "metrics.csv")
    assert list(frame.columns) == ["step", "wall_time", "tag", "value"]
    assert [frame[name].dtype for name in ("step", "wall_time", "value")] == [np.int64, float, float]
    assert frame["tag"].tolist() == ["a", "b", "c", "a", "layers/00", "layers/01"]
    assert frame["step"].tolist() == [3] * 3 + [2**62] * 3
    expected = np.array([np.nan, np.inf, -np.inf, 0.1, 1, 2], np.float32)
    np.testing.assert_array_equal(frame["value"].astype(np.float32), expected)
    wide = frame.pivot(index="step", columns="tag", values="value")
    assert wide.loc[2**62, "layers/01"] == 2
    assert np.all(abs(frame["wall_time"] - time.time()) < 600)


def test_every_float32_comes_back_bit_for_bit(tmp_path):
    """Of every size: each number of 32 bits is as likely as another one; and the ends of the range."""
    values = np.random.default_rng(0).integers(0, 2**32, 10_000, np.uint32).view(np.float32)
    values = np.append(
        values[np.isfinite(values)], np.float32([-0.0, 1e-45, -1e-40, 3.4028235e38, 0.1, 1e16])
    )
    path = write(tmp_path, Record(0, 1.5, tuple(f"tag{i}" for i in range(len(values))), values))
    read_back = np.array([value for *_, value in rows(path)])
    assert read_back.astype(np.float32).tobytes() == values.tobytes()


TAGS = [
    *("a b", "Größe/損失", "🌱", "a,b", '"', 'a""', "\n", "\r", 'a\r\n,"b', "%s {0} %r %%", "\u2028\x85"),
    *("x" * 10_000, "", "\udc80"),
]


def test_odd_tags_come_back(tmp_path):
    """As Python's csv and pandas read them; a lone surrogate, which UTF-8 lacks, as its code."""
    path = write(tmp_path, record(0, {tag: i for i, tag in enumerate(TAGS)}))
    expected = [*TAGS[:-1], "\\udc80"]
    assert [tag for _, tag, _ in rows(path)] == expected
    frame = pd.read_csv(path, keep_default_na=False)
    assert frame["tag"].tolist() == expected
    assert frame["value"].tolist() == list(range(len(TAGS)))


def test_absent_values_have_no_row(tmp_path):
    """A step with absences keeps the text of the layout, whatever is absent."""
    whole = ("a", "b", "c")
    masks = [[True, False, True], [False, False, True], [True, True, True]]
    records = [
        Record(step, 1.5, PresentTags.of(whole, np.array(mask)), np.arange(sum(mask), dtype=np.float32))
        for step, mask in enumerate(masks)
    ]
    expected = [(0, "a", 0), (0, "c", 1), (1, "c", 0), (2, "a", 0), (2, "b", 1), (2, "c", 2)]
    assert rows(write(tmp_path, *records)) == expected


def test_a_record_without_scalars_has_no_row(tmp_path):
    """Texts have no place in the table."""
    path = write(tmp_path, record(0, {}), record(1, {}, texts={"note": "text"}))
    assert path.read_text() == HEADER


def test_a_resumed_run_drops_the_rows_that_it_writes_again(tmp_path):
    """Those before it stay as they are, byte for byte."""
    path = write(tmp_path, *(record(step, {"x": step, "a,\nb": -step}) for step in range(6)))
    before = path.read_bytes()
    write(tmp_path, record(3, {"x": 30}), resume_from=3)
    assert before.startswith(path.read_bytes().removesuffix(b"3,1.5,x,30\n"))
    assert [row for row in rows(path) if row[1] == "x"] == [
        (0, "x", 0),
        (1, "x", 1),
        (2, "x", 2),
        (3, "x", 30),
    ]
    write(tmp_path, resume_from=10)
    assert len(rows(path)) == 7
    write(tmp_path, resume_from=-5)
    assert path.read_text() == HEADER


def test_rows_of_earlier_steps_behind_the_dropped_ones_are_kept(tmp_path, monkeypatch):
    """A file of many blocks takes the place of the other; it has the lock, and no other file is left."""
    monkeypatch.setattr(_csv_rows, "_BLOCK", 64)
    steps = np.random.default_rng(0).integers(0, 100, 300).tolist()
    path = write(tmp_path, *(record(step, {'x,"\n': i}) for i, step in enumerate(steps)))
    writer = Csv(tmp_path, resume_from=40)
    with pytest.raises(BlockingIOError, match="is open in another writer"):
        Csv(tmp_path)
    writer.write(record(40, {"x": -1}))
    writer.close()
    kept = [(step, 'x,"\n', float(i)) for i, step in enumerate(steps) if step < 40]
    assert rows(path) == [*kept, (40, "x", -1)]
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_link_leads_to_the_resumed_file(tmp_path):
    """As from a folder of runs to a larger disk: the rows are replaced there, and the link stays."""
    path = write(tmp_path / "disk", *(record(step, {"x": step}) for step in (0, 1, 2, 0)))
    link = tmp_path / "metrics.csv"
    link.symlink_to(path)
    write(tmp_path, record(1, {"x": 10}), resume_from=1)
    assert link.is_symlink()
    assert rows(path) == rows(link) == [(0, "x", 0), (0, "x", 0), (1, "x", 10)]
    assert [each.name for each in path.parent.iterdir()] == ["metrics.csv"]


def test_rows_that_cannot_be_copied_stay_as_they_are(tmp_path):
    """On a full disk: the resumed run does not begin, and the file is free for another attempt."""
    path = write(tmp_path, *(record(step, {"x": step}) for step in [*range(50, 100), *range(50)]))
    before = path.read_bytes()
    with file_size_limit(200), pytest.raises(OSError, match="File too large"):
        Csv(tmp_path, resume_from=50)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.csv"]
    write(tmp_path, resume_from=50)
    assert [step for step, *_ in rows(path)] == list(range(50))


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_a_cut_row_is_removed_wherever_it_was_cut(tmp_path, block, monkeypatch):
    """Also within the header, and within a tag with quotes and a line end of its own."""
    monkeypatch.setattr(_csv_rows, "_BLOCK", block)
    records = [record(0, {"x": 0.5}), record(1, {'a"\n,b': 1, "c": 2})]
    path = write(tmp_path, *records)
    whole = path.read_bytes()
    tails = [whole.index(b"1,1.5,c"), whole.index(b'1,1.5,"a'), whole.index(b"0,1.5"), 0]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        write(tmp_path, record(9, {"y": 9}))
        kept = next(tail for tail in tails if tail <= size)
        assert path.read_bytes() == (whole[:kept] or HEADER.encode()) + b"9,1.5,y,9\n"


KILLED = """
import sys
import sowlog
from sowlog.writers import Csv
log = sowlog.Logger("unused", writers=[Csv(sys.argv[1])])
step = 0
while True:
    log(step, {f"tag{i}": float(step) for i in range(100)})
    step += 1
    if step == 20:
        log.flush()
        print("flushed", flush=True)
"""


def test_a_killed_process_leaves_whole_records(tmp_path):
    """All that were flushed, and the next process continues the file."""
    child = subprocess.Popen([*STRICT_PYTHON, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    with child:
        assert child.stdout.readline() == b"flushed\n"
        child.send_signal(signal.SIGKILL)
    write(tmp_path)
    frame = pd.read_csv(tmp_path / "metrics.csv")
    counts = frame.groupby("step")["tag"].count()
    assert counts.index.tolist() == list(range(len(counts)))
    assert len(counts) >= 20
    assert set(counts[:-1]) == {100}


def test_a_full_disk_leaves_whole_records_and_is_a_stall(tmp_path):
    """The rows that did not fit are removed, and written once there is space."""
    writer = Csv(tmp_path)
    writer.write(record(0, {"x": 0}))
    wide = record(1, {f"tag{i}": i for i in range(100)})
    with (
        file_size_limit(200),
        pytest.raises(StalledError, match=r"cannot be written: .*too large"),
    ):
        writer.write(wide)
    assert rows(writer.path) == [(0, "x", 0)]
    writer.write(wide)
    writer.close()
    assert len(rows(writer.path)) == 101


def test_a_full_disk_at_the_start_is_an_error(tmp_path):
    """A run that cannot log raises before it trains, and the file is free."""
    with file_size_limit(5), pytest.raises(OSError, match="File too large"):
        Csv(tmp_path)
    assert write(tmp_path).read_text() == HEADER


def test_after_the_file_was_deleted_a_new_one_begins(tmp_path):
    """With a header of its own; flush reports the rows that are gone."""
    writer = Csv(tmp_path)
    writer.write(record(0, {"x": 0}))
    writer.path.unlink()
    with pytest.raises(FileNotFoundError, match="was deleted during the run, with all its records"):
        writer.flush()
    with pytest.raises(StalledError, match="was deleted during the run; a new file replaces it"):
        writer.write(record(1, {"x": 1}))
    writer.write(record(1, {"x": 1}))
    writer.close()
    assert rows(writer.path) == [(1, "x", 1)]


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "step,loss\n", "step,wall_time,tag,value,run\n", "\n"])
def test_a_file_of_another_program_is_left_alone(tmp_path, content):
    """Nothing is removed from it or appended to it."""
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match="does not begin as a file of Csv does, step,wall"):
        Csv(tmp_path, resume_from=0)
    assert path.read_text() == content


def test_a_row_without_a_step_is_named(tmp_path):
    """Of a file that was changed by hand; the file stays as it is, and is free."""
    path = write(tmp_path, record(0, {"x": 0}))
    with path.open("a") as file:
        file.write("later,1.5,x,2\n")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"has the row b'later,1.5,x,2\\n', which does not begin"):
        Csv(tmp_path, resume_from=1)
    assert path.read_bytes() == before
    write(tmp_path, record(1, {"x": 1}))
