"""`sowlog export`."""

import csv
import json
import math
import sys

import numpy as np
import pytest

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
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    return [{**row, **_floats(row)} for row in rows]


def _floats(row):
    return {name: float(row[name]) for name in ("wall_time", "value")}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "ndjson", "parquet", "CSV"])
def test_every_point_comes_back(tmp_path, json_of, suffix):
    """The same float32, NaN and infinities included, and tags with quotes, commas and line ends."""
    values = [0.1, math.nan, math.inf, -math.inf, 1e-45, 3.4e38, -0.0]
    tag = 'a,"b"\nö'
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
    assert (status, output) == (0, f"{path}: 4 rows, 1 tags of 2 runs\n")
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
