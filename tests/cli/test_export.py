"""`sowlog export`."""

import csv
import json
import math
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
    assert (status, data) == (0, {"file": str(path), "rows": 7, "runs": 1, "tags": 1})
    rows = rows_of(path.rename(path.with_suffix(path.suffix.lower())))
    assert [list(row) for row in rows] == [["tag", "step", "wall_time", "value"]] * 7
    assert [(row["tag"], row["step"], row["wall_time"]) for row in rows] == [
        (tag, s, s + 0.5) for s in range(7)
    ]
    found, expected = (np.array(each, np.float32) for each in ([row["value"] for row in rows], values))
    assert np.isnan(found).tolist() == np.isnan(expected).tolist()
    np.testing.assert_array_equal(found, expected)


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
