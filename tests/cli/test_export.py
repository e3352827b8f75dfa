"""`sowlog export`."""

import csv
import json
import math
import os
import re
import sys

import numpy as np
import pytest

import sowlog
from tests.cli.writing import write_run
from tests.support import event_shapes as shapes
from tests.support.event_shapes import VERSION, event, write_file


def rows_of(path):
    """Return the rows of an exported file as other programs read them."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [{**row, "step": int(row["step"]), **_floats(row)} for row in rows]
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    rows = [
        row
        for line in path.read_text().splitlines()
        for row in _rows(**json.loads(line, parse_constant=pytest.fail))
    ]
    return sorted(rows, key=lambda row: (row.get("run"), row["tag"]))


def _rows(*, step, time, scalars, nonfinite=None, **run):
    for tag, value in scalars.items():
        number = float(nonfinite[tag]) if value is None else value
        yield {**run, "tag": tag, "step": step, "wall_time": time, "value": number}


def _floats(row):
    return {name: float(row[name]) for name in ("wall_time", "value")}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "ndjson", "parquet", "CSV"])
@pytest.mark.parametrize("tag", ['a,"b"\nö', "a\nb", "a\rb"])
def test_every_point_comes_back(tmp_path, json_of, suffix, tag):
    """The same float32, NaN and infinities included, and tags with quotes, commas and line ends."""
    values = [0.1, math.nan, math.inf, -math.inf, 1e-45, 3.4e38, -0.0]
    events = [event(step, shapes.plain(tag, value)) for step, value in enumerate(values)]
    write_file(tmp_path / "run", [VERSION, *events])
    path = tmp_path / f"out.{suffix}"
    status, data = json_of("export", tmp_path / "run", "-o", path)
    assert (status, data) == (
        0,
        {"file": str(path), "rows": 7, "runs": 1, "tags": 1, "left_out": []},
    )
    rows = rows_of(path.rename(path.with_suffix(path.suffix.lower())))
    assert [list(row) for row in rows] == [["tag", "step", "wall_time", "value"]] * 7
    assert [(row["tag"], row["step"], row["wall_time"]) for row in rows] == [
        (tag, s, s + 0.5) for s in range(7)
    ]
    found, expected = (np.array(each, np.float32) for each in ([row["value"] for row in rows], values))
    assert np.isnan(found).tolist() == np.isnan(expected).tolist()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_halves_of_surrogate_pairs_are_written_as_their_codes(tmp_path, sowlog_command, suffix):
    """Of a path with bytes that are no UTF-8, and of lines of JSON: any program can read the file."""
    names = [os.fsdecode(b"run\xff"), "b"]
    line = {"step": 3, "time": 1.5, "scalars": {"x\ud800": 0.5}, "texts": {"t\udc80": "\ud800"}}
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    path = tmp_path / f"out.{suffix}"
    assert sowlog_command("export", *(tmp_path / name for name in names), "-o", path)[0] == 0
    found = [(row["run"], row["tag"], row["value"]) for row in rows_of(path)]
    assert found == [(str(tmp_path / name), r"x\ud800", 0.5) for name in (r"run\udcff", "b")]
    assert sowlog_command("export", tmp_path / "b", "--kind", "texts", "-o", path)[0] == 0
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(path) if suffix == "csv" else pandas.read_parquet(path)
    assert table[["tag", "text"]].to_numpy().tolist() == [[r"t\udc80", r"\ud800"]]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_several_runs_have_a_column_of_their_names(tmp_path, sowlog_command, suffix):
    """And only the chosen tags."""
    for name in "ab":
        write_run(tmp_path / "runs" / name, loss=[1.0, 2.0], norm=[3.0])
    path = tmp_path / f"out.{suffix}"
    status, output, _ = sowlog_command("export", tmp_path / "runs", "-o", path, "--tag", "loss")
    assert (status, output) == (0, f"{path}: 4 rows, 1 tag of 2 runs\n")
    assert [(row["run"], row["tag"], row["step"]) for row in rows_of(path)] == [
        (str(tmp_path / "runs" / name), "loss", step) for name in "ab" for step in range(2)
    ]


def test_an_unknown_suffix_is_refused_before_anything_is_read(tmp_path, sowlog_command):
    """The error lists the formats."""
    status, _, errors = sowlog_command("export", tmp_path / "nowhere", "-o", "out.xlsx")
    assert status == 2
    assert "has no suffix of a format: one of .csv, .parquet, .jsonl, .ndjson." in errors


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, sowlog_command, monkeypatch):
    """Neither a part of a file, nor a change of the one that is there."""
    write_run(tmp_path / "run", loss=[1.0])
    status, _, errors = sowlog_command("export", tmp_path / "run", "-o", tmp_path / "nowhere" / "x.csv")
    assert (status, "cannot be written: No such file or directory." in errors) == (2, True)
    (tmp_path / "x.parquet").write_text("before")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, errors = sowlog_command("export", tmp_path / "run", "-o", tmp_path / "x.parquet")
    assert (status, "pip install 'sowlog[arrow]'" in errors) == (2, True)
    assert (tmp_path / "x.parquet").read_text() == "before"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run", "x.parquet"]


def test_json_lines_are_read_back_as_the_run(tmp_path, sowlog_command):
    """Tags of other steps and times, doubled steps, steps that go back, and times that do."""
    events = [
        event(0, shapes.plain("a%d", 0.1), shapes.plain("b", math.nan)),
        event(1, shapes.plain("a%d", 1e-45)),
        event(1, shapes.plain("a%d", 2.0), shapes.plain("c", -math.inf)),
        event(1, shapes.plain("b", 3.0)),
        event(7, shapes.plain("a%d", 4.0)),
    ]
    for each, time in zip(events, (5.0, 6.5, 6.5, 6.5, 1.0), strict=True):
        each.wall_time = time
    write_file(tmp_path / "run", [VERSION, *events])
    path = tmp_path / "out.jsonl"
    status, output, _ = sowlog_command("export", tmp_path / "run", "-o", path)
    assert (status, output) == (0, f"{path}: 7 rows, 3 tags of 1 run\n")
    run, found = sowlog.read(tmp_path / "run"), sowlog.read(path)
    assert found.damage == ()
    assert list(found.scalars) == list(run.scalars) == ["a%d", "b", "c"]
    for tag, series in run.scalars.items():
        np.testing.assert_array_equal(found.scalars[tag].steps, series.steps)
        np.testing.assert_array_equal(found.scalars[tag].values, series.values)
        np.testing.assert_array_equal(found.wall_times[tag], run.wall_times[tag])
    again = tmp_path / "again.jsonl"
    assert sowlog_command("export", path, "-o", again)[0] == 0
    assert again.read_bytes() == path.read_bytes()


def test_json_lines_are_those_of_the_writer(tmp_path, sowlog_command):
    """To the byte, of the scalars."""
    writer = sowlog.writers.JsonLines(tmp_path / "run")
    for step, value in enumerate((0.1, math.nan, 3e38)):
        values = np.array([value, -0.0], np.float32)
        writer.write(sowlog.writers.Record(step, step + 0.1, ("a%d", "ö"), values))
    writer.close()
    assert sowlog_command("export", tmp_path / "run", "-o", tmp_path / "x.jsonl")[0] == 0
    assert (tmp_path / "x.jsonl").read_bytes() == writer.path.read_bytes()


def test_json_lines_of_several_runs_are_no_run(tmp_path, sowlog_command):
    """The first run is read, and the damage says why the second is not."""
    for name in "ab":
        write_run(tmp_path / "runs" / name, loss=[1.0, 2.0])
    path = tmp_path / "out.jsonl"
    assert sowlog_command("export", tmp_path / "runs", "-o", path)[0] == 0
    run = sowlog.read(path)
    assert run.scalars["loss"].steps.tolist() == [0, 1]
    with pytest.raises(
        sowlog.CorruptEventFile, match=r"line 3, .* is of run .*/b' and the line before it is of"
    ):
        raise run.damage[0]


STATISTICS = ("min", "max", "sum", "sum_squares")


@pytest.fixture
def rich_run(tmp_path):
    """Return a run of event files with a value of each kind."""
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with sowlog.Logger(tmp_path / "run", on_nonfinite="ignore") as log:
        log.hparams({"rate": 0.5, "name": "a,b", "flag": True})
        for step in range(3):
            values = sowlog.histogram().of(np.arange(5.0) * step)
            log(step, {"loss": 1.0 / (step + 1), "activations": values})
        log.text(1, "note", 'half, "way"\nö')
        log.image(1, "picture", image)
        log.pr_curve(2, "curve", np.array([0, 1, 1]), np.array([0.1, 0.4, 0.8], np.float32))
    return tmp_path / "run"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_histograms_have_a_row_for_each_bucket(rich_run, tmp_path, json_of, suffix):
    """With the edges that a read of the run has, to the last digit."""
    path = tmp_path / f"out.{suffix}"
    status, data = json_of("export", rich_run, "-o", path, "--kind", "histograms")
    points = sowlog.read(rich_run).histograms["activations"]
    expected = [
        ("activations", step, time, left, right, count)
        for (step, value), time in zip(points, points.wall_times.tolist(), strict=True)
        for left, right, count in zip(value.lefts, value.rights, value.counts, strict=True)
    ]
    assert (status, data["rows"], data["tags"]) == (0, len(expected), 1)
    if suffix == "csv":
        heads, *rows = csv.reader(path.read_text().splitlines())
        found = [(row[0], int(row[1]), *map(float, row[2:])) for row in rows]
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        heads, found = table.column_names, [tuple(row.values()) for row in table.to_pylist()]
    assert heads == ["tag", "step", "wall_time", "left", "right", "count"]
    assert found == expected


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_texts_and_settings_have_columns_of_their_own(rich_run, tmp_path, json_of, suffix):
    """Of one run, and of several."""
    path = tmp_path / f"out.{suffix}"

    def rows():
        if suffix == "csv":
            with path.open(newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()

    assert json_of("export", rich_run, "-o", path, "--kind", "texts")[1]["rows"] == 1
    (row,) = rows()
    assert (row["tag"], int(row["step"]), row["text"]) == ("note", 1, 'half, "way"\nö')
    assert json_of("export", rich_run, "-o", path, "--kind", "hparams")[1]["rows"] == 3
    settings = [{"name": "flag", "value": "true"}, {"name": "name", "value": "a,b"}]
    settings.append({"name": "rate", "value": "0.5"})
    assert sorted(rows(), key=lambda row: row["name"]) == settings
    (rich_run.parent / "other").mkdir()
    write_run(rich_run.parent / "other", hparams={"rate": 2.0})
    runs = [rich_run, rich_run.parent / "other"]
    assert json_of("export", *runs, "-o", path, "--kind", "hparams")[1]["rows"] == 4
    assert [(row["run"], row["name"]) for row in rows()][-1] == (str(runs[1]), "rate")


def test_json_lines_hold_all_that_a_read_of_them_has(rich_run, tmp_path, json_of):
    """Each value comes back, images from files beside the lines; a second export has the same bytes."""
    path = tmp_path / "out.jsonl"
    status, data = json_of("export", rich_run, "-o", path)
    assert (status, data["rows"], data["left_out"]) == (0, 3 + 3 + 1 + 1 + 1 + 3, [])
    run, found = sowlog.read(rich_run), sowlog.read(path)
    assert found.damage == ()
    assert found.hparams == run.hparams
    assert list(found.texts["note"]) == list(run.texts["note"])
    np.testing.assert_array_equal(found.pr_curves["curve"].values[0], run.pr_curves["curve"].values[0])
    ((step, picture),) = found.images["picture"]
    (expected,) = run.images["picture"].values
    assert (step, picture.width, picture.height) == (1, 4, 4)
    assert picture.encoded == expected.encoded
    assert [each["images"]["picture"]["shape"] for each in _lines_of(path) if "images" in each] == [[4, 4, 3]]
    for kind in ("histograms", "images", "texts", "pr_curves"):
        ((tag, points),) = getattr(run, kind).items()
        np.testing.assert_array_equal(getattr(found, kind)[tag].steps, points.steps)
        np.testing.assert_array_equal(getattr(found, kind)[tag].wall_times, points.wall_times)
    for one, other in zip(
        found.histograms["activations"].values, run.histograms["activations"].values, strict=True
    ):
        for name in ("lefts", "rights", "counts", *STATISTICS):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    again = tmp_path / "again.jsonl"
    assert json_of("export", path, "-o", again)[1]["left_out"] == []
    assert again.read_bytes() == path.read_bytes().replace(b"out.images", b"again.images")


def _lines_of(path):
    return list(map(json.loads, path.read_text().splitlines()))


def test_what_a_file_does_not_hold_is_named(rich_run, tmp_path, sowlog_command, json_of):
    """Kinds that are not chosen, and values that the form lacks; chosen tags are not called left out."""
    status, output, _ = sowlog_command("export", rich_run, "-o", tmp_path / "x.csv")
    assert status == 0
    assert (
        "left out: histograms of 1 tag, images of 1 tag, texts of 1 tag, pr_curves of 1 tag, hparams"
        in output
    )
    assert "--kind writes one of scalars, histograms, texts, hparams; a file that ends in .jsonl" in output
    _, data = json_of("export", rich_run, "-o", tmp_path / "x.csv", "--tag", "loss")
    assert data["left_out"] == []
    _, data = json_of("export", rich_run, "-o", tmp_path / "x.jsonl", "--kind", "texts", "--tag", "**")
    assert data["left_out"] == [
        f"{kind} of 1 tag" for kind in ("scalars", "histograms", "images", "pr_curves")
    ]
    assert [sorted(line) for line in _lines_of(tmp_path / "x.jsonl")] == [["step", "texts", "time"]]
    buckets = np.array([[0.0, 1.0, 1.0], [2.0, 3.0, 1.0]])
    odd = [shapes.tensor("split", buckets, plugin="histograms"), shapes.images_v2("two", [b"a", b"b"], 1, 1)]
    write_file(tmp_path / "odd", [VERSION, event(0, *odd, shapes.plain("loss", 1.0)), event(1, *odd[:1])])
    _, data = json_of("export", tmp_path / "odd", "-o", tmp_path / "y.jsonl")
    assert data["left_out"] == [
        "2 values of split, whose buckets do not meet",
        "1 values of two, 2 images in one",
    ]
    assert [line["scalars"] for line in _lines_of(tmp_path / "y.jsonl")] == [{"loss": 1.0}]


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("x.csv", ["--kind", "images"], "does not hold images, but .*; a file that ends in .jsonl does"),
        ("x.parquet", ["--kind", "texts", "--kind", "scalars"], "the columns of one kind, and 2 are named"),
        ("x.csv", ["--kind", "hparams", "--tag", "x"], "hyperparameters have none"),
        ("x.csv", ["--kind", "texts", "--tag", "loss"], "no tag is loss: "),
    ],
)
def test_a_choice_that_cannot_be_is_refused(rich_run, tmp_path, sowlog_command, file, options, message):
    """With the choices that there are; nothing is written."""
    status, _, errors = sowlog_command("export", rich_run, "-o", tmp_path / file, *options)
    assert status == 2
    assert re.search(message, errors), errors
    assert not (tmp_path / file).exists()


def test_values_that_have_changed_are_an_error(rich_run, tmp_path, sowlog_command, monkeypatch):
    """The file of a run that is written meanwhile by another program, in a table and in lines."""
    read = sowlog.read

    def change(path):
        run = read(path)
        (file,) = rich_run.glob("*tfevents*")
        content = bytearray(file.read_bytes())
        place = content.index(b"half, ")
        content[place : place + 4] = b"HALF"
        file.write_bytes(content)
        return run

    monkeypatch.setattr("sowlog._cli.selecting.read", change)
    status, _, errors = sowlog_command("export", rich_run, "-o", tmp_path / "x.csv", "--kind", "texts")
    assert (status, "has changed since note was found in it" in errors) == (2, True)
    assert not (tmp_path / "x.csv").exists()
