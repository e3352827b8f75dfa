import json
import math
import os
import struct
import subprocess

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import sowlog
from sowlog._log.delivery import Delivery
from sowlog._tree.layout import PresentTags
from sowlog.writers import HParams, JsonLines, Record, StalledError
from tests.log.delivering import deliver
from tests.support.full_disk import file_size_limit
from tests.support.strict_python import STRICT_PYTHON


def record(step, values, **others):
    """Return a record of a dict of scalars."""
    return Record(step, 1.5, tuple(values), np.array(list(values.values()), np.float32), **others)


def write(path, *records, **options):
    """Write records to a file, and close it."""
    writer = JsonLines(path, **options)
    for each in records:
        writer.write(each)
    writer.close()
    return writer.path


def no_constant(name):
    """Refuse the NaN and Infinity that Python reads and JSON lacks."""
    raise AssertionError(name)


def read(path):
    """Return the lines of a file as strict JSON."""
    with path.open(encoding="ascii", newline="\n") as lines:
        return [json.loads(line, parse_constant=no_constant) for line in lines]


def shown(path):
    """Return the lines that no resumed run supersedes, as the docstring of the module says."""
    found = []
    for line in read(path):
        if line.get("resumed"):
            found = [other for other in found if other["step"] < line["step"]]
        else:
            found.append(line)
    return found


def test_a_folder_has_a_file_of_its_own_name_and_a_file_is_taken_as_it_is(tmp_path):
    """A path that ends in .jsonl is the file."""
    assert write(tmp_path / "run", record(0, {"x": 1})) == tmp_path / "run" / "metrics.jsonl"
    assert write(tmp_path / "run" / "mine.jsonl", record(0, {"x": 1})) == tmp_path / "run" / "mine.jsonl"
    (tmp_path / "v1.json").mkdir()
    assert write(tmp_path / "v1.json").parent == tmp_path / "v1.json"


@pytest.mark.parametrize("value", [-0.0, 1e-45, -1e-40, 3.4028235e38, 0.1, 1e16, 123456789.0, 0.0])
def test_every_float32_comes_back_bit_for_bit(tmp_path, value):
    """Denormals, the largest float and negative zero; all as numbers with a fraction or an exponent."""
    (line,) = read(write(tmp_path, record(3, {"x": value})))
    read_back = line["scalars"]["x"]
    assert isinstance(read_back, float)
    assert struct.pack("<f", read_back) == np.float32(value).tobytes()
    assert "nonfinite" not in line


def test_random_float32s_come_back_bit_for_bit(tmp_path):
    """Of every size: each number of 32 bits is as likely as another one."""
    values = np.random.default_rng(0).integers(0, 2**32, 10_000, np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    tags = tuple(f"tag{i}" for i in range(len(values)))
    (line,) = read(write(tmp_path, Record(0, 1.5, tags, values)))
    assert np.array([*line["scalars"].values()]).astype(np.float32).tobytes() == values.tobytes()


def test_what_json_lacks_is_null_and_named_beside_it(tmp_path):
    """So that each column has one type, and nothing is lost."""
    values = {"a": math.nan, "b": 1.0, "c": math.inf, "d": -math.inf}
    (line,) = read(write(tmp_path, record(3, values)))
    assert line["scalars"] == {"a": None, "b": 1.0, "c": None, "d": None}
    assert line["nonfinite"] == {"a": "NaN", "c": "Infinity", "d": "-Infinity"}
    named = {tag: float(name) for tag, name in line["nonfinite"].items()}
    assert np.isnan(named["a"])
    assert (named["c"], named["d"]) == (math.inf, -math.inf)


def test_pandas_reads_columns_of_numbers(tmp_path):
    """A typed reader gets floats, and NaN for null and for absent values."""
    records = [record(step, {"x": value}) for step, value in enumerate([0.5, math.nan, 2.0])]
    frame = pd.read_json(write(tmp_path, *records), lines=True)
    column = pd.json_normalize(list(frame["scalars"]))["x"]
    assert column.dtype == np.float64
    np.testing.assert_array_equal(column, [0.5, np.nan, 2.0])
    assert frame["step"].tolist() == [0, 1, 2]


TAGS = ["a b", "Größe/損失", "🌱", "\\", '"', "\n", "%s {0} %r %%", "\u2028\x85", "x" * 10_000, "", "\udc80"]


def test_odd_tags_come_back_and_break_no_line(tmp_path):
    """A line is ASCII without line ends of any kind, whatever the tag; of a lone surrogate as well."""
    path = write(tmp_path, record(0, {tag: i for i, tag in enumerate(TAGS)}))
    assert len(path.read_text("ascii").splitlines()) == 1
    assert read(path)[0]["scalars"] == {tag: float(i) for i, tag in enumerate(TAGS)}


@pytest.mark.parametrize("step", [0, -1, -(2**63), 2**63 - 1])
def test_any_int64_is_a_step(tmp_path, step):
    """As an integer."""
    assert read(write(tmp_path, record(step, {"x": 1.0})))[0]["step"] == step


def test_absent_values_have_no_key(tmp_path):
    """A step with absences keeps the text of the layout, whatever is absent."""
    whole = ("a", "b", "c")
    masks = [[True, False, True], [False, False, True], [True, True, True]]
    records = [
        Record(step, 1.5, PresentTags.of(whole, np.array(mask)), np.arange(sum(mask), dtype=np.float32))
        for step, mask in enumerate(masks)
    ]
    lines = read(write(tmp_path, *records))
    assert [line["scalars"] for line in lines] == [
        {"a": 0.0, "c": 1.0},
        {"c": 0.0},
        {"a": 0.0, "b": 1.0, "c": 2.0},
    ]


def test_more_layouts_than_are_cached(tmp_path):
    """Each record has its own tuple of tags."""
    records = [record(step, {f"tag{step}": step}) for step in range(200)]
    assert [line["scalars"] for line in read(write(tmp_path, *records))] == [
        {f"tag{step}": float(step)} for step in range(200)
    ]


def test_a_record_without_values_is_no_line(tmp_path):
    """A step at which nothing was sown."""
    assert read(write(tmp_path, record(1, {}))) == []


def test_a_histogram_has_finite_edges_and_exact_counts(tmp_path):
    """Of its finite elements; NaN and infinity are counted apart."""
    elements = np.array([0.5, 0.5, 2.0, -1.0, np.nan, np.inf], np.float32)
    with sowlog.Logger(tmp_path, writers=[JsonLines(tmp_path)], on_nonfinite="ignore") as log:
        log(4, {"h": sowlog.histogram.of(elements), "none": sowlog.histogram.of(elements[4:])})
    line = read(tmp_path / "metrics.jsonl")[0]
    found = line["histograms"]["h"]
    assert len(found["edges"]) == len(found["counts"]) + 1
    assert (found["edges"][0], found["edges"][-1]) == (found["min"], found["max"]) == (-1.0, 2.0)
    assert found["edges"] == sorted(found["edges"])
    assert sum(found["counts"]) == 4
    assert (found["sum"], found["sum_squares"]) == (2.0, 5.5)
    assert (found["nan"], found["positive_inf"], found["negative_inf"]) == (1.0, 1.0, 0.0)
    empty = line["histograms"]["none"]
    assert (empty["edges"], empty["counts"], empty["min"], empty["max"]) == ([], [], None, None)


def test_an_image_is_a_png_beside_the_lines(tmp_path):
    """The reference is relative to the folder; an equal image is one file, and another step another one."""
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    images = {"samples/../a b": pixels, "gray": pixels[..., :1]}
    path = write(tmp_path, record(7, {}, images=images), record(7, {}, images=images))
    first, second = read(path)
    assert first["images"] == second["images"]
    assert set(first["images"]) == set(images)
    for tag, image in images.items():
        reference = first["images"][tag]
        assert reference["shape"] == list(image.shape)
        assert (tmp_path / reference["file"]).resolve().parent == tmp_path / "metrics.images"
        with Image.open(tmp_path / reference["file"]) as opened:
            np.testing.assert_array_equal(np.asarray(opened).reshape(image.shape), image)
    assert len(list((tmp_path / "metrics.images").iterdir())) == 2


def test_everything_else_of_a_run(tmp_path):
    """Texts, hyperparameters, charts, a PR curve and the ending."""
    with sowlog.Logger(tmp_path, writers=[JsonLines(tmp_path)]) as log:
        log.hparams({"lr": 0.1, "layers": 2, "name": "wide", "flag": True}, metrics=["loss"])
        log.layout({"loss": {"both": ["loss", "eval/*"]}})
        log.text(3, "samples", "a **b**\n")
        log.pr_curve(3, "curve", np.array([0, 1, 1]), np.array([0.25, 0.5, 0.75], np.float32))
    lines = {key: line for line in read(tmp_path / "metrics.jsonl") for key in line}
    assert lines["hparams"]["hparams"] == {
        "values": {"lr": 0.1, "layers": 2, "name": "wide", "flag": True},
        "metrics": ["loss"],
    }
    assert list(lines["layout"]["layout"]["loss"]) == ["both"]
    assert lines["texts"]["texts"] == {"samples": "a **b**\n"}
    assert lines["pr_curves"]["step"] == 3
    curve = lines["pr_curves"]["pr_curves"]["curve"]
    assert curve["true_positives"][0] == 2.0
    assert {len(values) for values in curve.values()} == {len(curve["recall"])}
    assert lines["ending"]["ending"] == "success"


def test_a_resumed_run_supersedes_later_steps(tmp_path):
    """All lines stay in the file, and one of them marks those that count no longer."""
    write(tmp_path, *(record(step, {"x": step}) for step in range(6)))
    path = write(tmp_path, record(4, {"x": 40}), resume_from=4, clock=lambda: 2.5)
    assert read(path)[6] == {"step": 4, "time": 2.5, "resumed": True}
    assert [(line["step"], line["scalars"]["x"]) for line in shown(path)] == [
        (0, 0.0),
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 40.0),
    ]


def test_a_new_file_has_no_note_of_a_resumed_run(tmp_path):
    """There is nothing that it could supersede."""
    assert read(write(tmp_path, resume_from=4)) == []


@pytest.mark.parametrize("cut", [1, 5, 30, 10_000])
def test_a_cut_line_is_removed_when_the_file_is_opened_again(tmp_path, cut):
    """As a kill leaves it, in a file of any length; a line that lacks only its end is kept."""
    tags = {f"tag{i}": float(i) for i in range(10_000)}
    path = write(tmp_path, *(record(step, tags) for step in range(3)))
    path.write_bytes(path.read_bytes()[:-cut])
    write(tmp_path, record(3, {"x": 3}))
    assert [line["step"] for line in read(path)] == ([0, 1, 2, 3] if cut == 1 else [0, 1, 3])


@pytest.mark.parametrize("size", range(1, 9))
def test_a_file_of_one_cut_line_begins_anew(tmp_path, size):
    """However early the kill came."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":3,'[:size])
    write(tmp_path, record(3, {"x": 3}))
    assert [line["step"] for line in read(path)] == [3]


def test_zeros_behind_the_last_line_are_removed(tmp_path):
    """Some file systems leave them after a loss of power."""
    path = write(tmp_path, record(0, {"x": 0}))
    with path.open("ab") as file:
        file.write(bytes(5000))
    write(tmp_path, record(1, {"x": 1}))
    assert [line["step"] for line in read(path)] == [0, 1]


def test_the_file_of_another_program_is_not_touched(tmp_path):
    """A path that was mistaken costs nothing."""
    path = tmp_path / "notes.json"
    path.write_text('{"notes": [1, 2')
    with pytest.raises(ValueError, match="does not begin as a file of JsonLines does"):
        JsonLines(path)
    assert path.read_text() == '{"notes": [1, 2'
    path = tmp_path / "train.py"
    path.write_text("x = 1")
    with pytest.raises(NotADirectoryError, match=r"train\.py is a file, and neither a folder nor"):
        JsonLines(path)


def test_a_path_elsewhere_is_refused():
    """An object store has no append."""
    with pytest.raises(ValueError, match="gs://bucket/run is no local folder"):
        JsonLines("gs://bucket/run")
    with pytest.raises(TypeError, match="resume_from is '3', a str"):
        JsonLines("unused", resume_from="3")


def test_a_fifo_is_refused_at_once(tmp_path):
    """Its opening would wait for a reader."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(OSError, match="is not a regular file"):
        JsonLines(tmp_path / "pipe.jsonl")


def test_a_file_has_one_writer_at_a_time(tmp_path):
    """In one process or several; the lock ends with the writer."""
    first = JsonLines(tmp_path)
    with pytest.raises(BlockingIOError, match=r"is open in another writer, .* close that one first"):
        JsonLines(tmp_path)
    first.close()
    JsonLines(tmp_path).close()


def test_a_full_disk_leaves_whole_lines_and_loses_none(tmp_path):
    """The logger tries again once there is space, and the other writers go on."""
    writer = JsonLines(tmp_path)
    delivery = Delivery([writer], max_pending=100)
    deliver(delivery, *range(10))
    with file_size_limit(writer.path.stat().st_size + 30):
        (warning,) = deliver(delivery, *range(10, 20))
        assert "JsonLines stalls at step 10" in str(warning)
        assert [line["step"] for line in read(writer.path)] == list(range(10))
    deliver(delivery, 20)
    delivery.flush()
    delivery.close()
    assert [line["step"] for line in read(writer.path)] == list(range(21))


def test_a_deleted_file_is_replaced_and_reported(tmp_path):
    """The lines that were in it are lost, and the record in hand is not."""
    writer = JsonLines(tmp_path)
    writer.write(record(0, {"x": 0}))
    writer.path.unlink()
    with pytest.raises(FileNotFoundError, match="was deleted during the run, with all its records"):
        writer.flush()
    with pytest.raises(StalledError, match="was deleted during the run; a new file replaces it"):
        writer.write(record(1, {"x": 1}))
    writer.write(record(1, {"x": 1}))
    writer.close()
    assert [line["step"] for line in read(writer.path)] == [1]


KILLED = """
import itertools, os, signal, sys
import numpy as np
from sowlog.writers import JsonLines, Record
tags = tuple(f"tag{i}" for i in range(300))
for run in range(8):
    reader, written = os.pipe()
    child = os.fork()
    if child == 0:
        writer = JsonLines(f"{sys.argv[1]}/{run}")
        if os.fork() == 0:  # As a data loader's worker, which outlives the run.
            for descriptor in (0, 1, 2, reader, written):
                os.close(descriptor)
            signal.alarm(30)
            signal.pause()
        for step in itertools.count():
            writer.write(Record(step, 1.5, tags, np.full(300, step, np.float32)))
            os.write(written, b".")
    os.close(written)
    count = len(os.read(reader, 1))
    os.kill(child, signal.SIGKILL)
    while more := len(os.read(reader, 1 << 16)):
        count += more
    os.waitpid(child, 0)
    print(count)
"""


def test_a_killed_writer_loses_no_written_line(tmp_path):
    """The next writer removes the rest of a cut line; a forked child of the killed one holds no lock."""
    command = [*STRICT_PYTHON, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for run, count in enumerate(map(int, done.stdout.split())):
        steps = [line["step"] for line in read(write(tmp_path / str(run), record(-1, {"x": 1})))]
        assert steps == [*range(len(steps) - 1), -1]
        assert count <= len(steps) - 1 <= count + 1


def test_hparams_of_a_record_alone(tmp_path):
    """A record made by hand, as a program does that replays runs."""
    path = write(tmp_path, Record(0, 1.5, hparams=HParams({"lr": 0.5}, ())))
    assert read(path) == [{"step": 0, "time": 1.5, "hparams": {"values": {"lr": 0.5}, "metrics": []}}]
