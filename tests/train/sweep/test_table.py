import csv
import statistics
from pathlib import Path

import pytest

from tests.train.sweep.points import finish, planned
from train.sweep import command as sweep_command
from train.sweep import table as sweep_table


def test_the_ranking_puts_the_best_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the task's own direction; NaN comes after numbers, and unfinished points last."""
    points = planned(tmp_path, "seed=0..3")
    for point, value in zip(points[1:], [None, 0.25, 0.5], strict=True):
        finish(point, value, better="higher")
    sweep_command.show(points, tmp_path, stopped_by=None)
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert rows == [["1", "3", "0.5"], ["2", "2", "0.25"], ["3", "1", ""], ["", "0", "not finished"]]
    assert f"to go on, the same command with\n--workdir {tmp_path}\n" in out
    assert "HParams tab, with eval/loss ticked among its metrics:\n" in out
    assert f"tensorboard --logdir {tmp_path}" in out


def test_the_table_is_a_file_with_mean_and_spread_over_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All digits of each point, the best first; of the seeds that are finished the mean and the deviation."""
    own = ("data.name=tests.train.sweep.points:planned",)
    points = planned(tmp_path, 'data.arguments.path=[/a],"b,c"', "seed=0..2", overrides=own)
    for point, value in zip(points[:5], [0.1, 0.2, 0.6, 0.5, None], strict=True):
        finish(point, value)
    assert sweep_table.write(points, tmp_path) == [tmp_path / "sweep.csv", tmp_path / "seeds.csv"]
    table, seeds = (
        list(csv.reader((tmp_path / name).read_text().splitlines())) for name in ("sweep.csv", "seeds.csv")
    )
    assert table == [
        ["", "data.arguments.path", "seed", "eval/loss"],
        *(["1", "['/a']", "0", "0.1"], ["2", "['/a']", "1", "0.2"], ["3", "b,c", "0", "0.5"]),
        *(["4", "['/a']", "2", "0.6"], ["5", "b,c", "1", ""], ["", "b,c", "2", "not finished"]),
    ]
    mean, deviation = statistics.fmean([0.1, 0.2, 0.6]), statistics.stdev([0.1, 0.2, 0.6])
    assert seeds == [
        ["data.arguments.path", "seeds", "eval/loss", "± eval/loss"],
        ["['/a']", "3", repr(mean), repr(deviation)],
        ["b,c", "2", "", ""],
    ]
    sweep_command.show(points, tmp_path, stopped_by=None)
    line = "over 3 seeds  data.arguments.path=['/a']  eval/loss 0.3 ± 0.2646"
    assert [line] == [shown for shown in capsys.readouterr().out.splitlines() if shown.startswith("over ")]
    single = planned(tmp_path / "single", "steps=5,6")
    assert sweep_table.write(single, tmp_path) == [tmp_path / "sweep.csv"]
