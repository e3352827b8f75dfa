"""`sowlog compare`."""

import math
import re
import statistics

import pytest

from tests.cli.writing import write_run


@pytest.fixture
def sweep(tmp_path):
    """Return a folder of runs of two rates and two seeds each."""
    for rate in (0.1, 0.2):
        for seed in range(2):
            write_run(
                tmp_path / f"rate={rate}" / str(seed),
                hparams={"optimizer.rate": rate, "data.seed": float(seed), "depth": 3.0},
                loss=[9.0, rate * 10 + seed, rate * 20 + seed],
            )
    return tmp_path


def test_runs_that_differ_in_their_seeds_are_a_group(sweep, json_of):
    """With mean and sample standard deviation of the final and the best values."""
    status, data = json_of("compare", sweep)
    assert status == 0
    names = [str(sweep / f"rate={rate}" / str(seed)) for rate in (0.1, 0.2) for seed in range(2)]
    assert data["runs"] == names
    assert data["differences"] == {
        "data.seed": dict(zip(names, [0.0, 1.0, 0.0, 1.0], strict=True)),
        "optimizer.rate": dict(zip(names, [0.1, 0.1, 0.2, 0.2], strict=True)),
    }
    assert data["groups"] == [
        {"settings": {"optimizer.rate": 0.1}, "runs": names[:2]},
        {"settings": {"optimizer.rate": 0.2}, "runs": names[2:]},
    ]
    (loss,) = data["tags"]
    assert loss["runs"][names[1]] == {"last": 3.0, "min": 2.0, "max": 9.0, "last_step": 2}
    group = loss["groups"][0]
    assert (group["count"], group["last_mean"]) == (2, 2.5)
    assert group["last_std"] == pytest.approx(statistics.stdev([2.0, 3.0]))
    assert (group["max_mean"], group["max_std"], data["parting"]) == (9.0, 0.0, None)


def test_the_text_has_differences_values_and_groups(sweep, sowlog_command):
    """Runs have their names below the folder that they have in common."""
    status, output, _ = sowlog_command("compare", sweep, "--by", "config.optimizer.rate")
    assert status == 0
    lines = [line.split() for line in output.splitlines()]
    assert lines[0] == ["run", "data.seed", "optimizer.rate"]
    assert lines[1] == ["rate=0.1/0", "0", "0.1"]
    assert ["loss", "rate=0.2/1", "5", "3", "9", "2"] in lines
    assert [
        "loss",
        "optimizer.rate=0.1",
        "2",
        "2.5",
        "±",
        "0.7071",
        "1.5",
        "±",
        "0.7071",
        "9",
        "±",
        "0",
    ] in lines


def test_settings_have_all_their_digits(tmp_path, sowlog_command):
    """Two values that differ are never shown alike."""
    for name, steps, rate in (("a", 12345678.0, 1e-4), ("b", 12345679.0, 0.30000000000000004)):
        write_run(tmp_path / name, hparams={"steps": steps, "rate": rate, "name": name}, loss=[1.0])
    _, output, _ = sowlog_command("compare", tmp_path, "--by", "name")
    assert [line.split() for line in output.splitlines()[:4]] == [
        ["setting", "a", "b"],
        ["name", "a", "b"],
        ["rate", "0.0001", "0.30000000000000004"],
        ["steps", "12345678", "12345679"],
    ]


def test_a_terminal_of_80_columns_breaks_no_number(sweep, sowlog_command, monkeypatch):
    """Columns are left out, and a line names them."""
    for rate, seed in ((0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)):
        hparams = {"optimizer.rate": rate, "data.seed": float(seed)}
        values = [3.14159 * (1 + seed) * rate, 2.71828 * (3 + seed)]
        write_run(sweep / f"rate={rate}" / str(seed), hparams=hparams, blocks__attention__entropy=values)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, output, _ = sowlog_command("compare", sweep)
    output = re.sub("\x1b\\[[0-9;]*m", "", output)
    assert max(map(len, output.splitlines())) <= 80
    assert "left out, as the terminal has 80 columns: runs, max\n" in output
    assert output.count("9.514 ± 1.922") == 2
    assert output.count("0.4712 ± 0.2221") == 1


def test_by_groups_the_runs_by_one_setting(sweep, json_of):
    """Here by the seed, over rates."""
    _, data = json_of("compare", sweep, "--by", "data.seed")
    assert [(group["settings"], len(group["runs"])) for group in data["groups"]] == [
        ({"data.seed": 0.0}, 2),
        ({"data.seed": 1.0}, 2),
    ]


def test_two_runs_part_where_a_value_differs_in_a_bit(tmp_path, sowlog_command, json_of):
    """At steps that both have; NaN is equal to itself."""
    equal = {0: 1.0, 1: math.nan, 2: 3.0, 3: 4.0}
    write_run(tmp_path / "a", loss=equal, norm=equal, only_a=[1.0])
    write_run(tmp_path / "b", loss={**equal, 3: 4.0000005, 9: 1.0}, norm={0: 1.0, 2: 2.0})
    _, data = json_of("compare", tmp_path / "a", tmp_path / "b")
    assert data["parting"] == {"step": 2, "tags": ["norm"]}
    _, data = json_of("compare", tmp_path / "a", tmp_path / "b", "--tag", "loss")
    assert data["parting"] == {"step": 3, "tags": ["loss"]}
    _, output, _ = sowlog_command("compare", tmp_path / "a", tmp_path / "b")
    assert output.splitlines()[-1] == "the runs part at step 2: norm"
    write_run(tmp_path / "b", loss=equal)
    _, output, _ = sowlog_command("compare", tmp_path / "a", tmp_path / "b")
    assert output.splitlines()[-1] == "the runs have equal values at all steps that both have"


def test_what_cannot_be_compared_is_named(sweep, sowlog_command):
    """One run, a setting and a tag that no run has."""
    status, _, errors = sowlog_command("compare", sweep / "rate=0.1" / "0")
    assert (status, "name another one, or a folder of runs." in errors) == (2, True)
    status, _, errors = sowlog_command("compare", sweep / "rate=0.1" / "0", f"{sweep}/rate=0.1/./0/")
    assert (status, "name another one, or a folder of runs." in errors) == (2, True)
    status, _, errors = sowlog_command("compare", sweep, "--by", "config.optimiser.rate")
    assert (status, "for --by: did you mean optimizer.rate?" in errors) == (2, True)
    status, _, errors = sowlog_command("compare", sweep, "--tag", "los")
    assert (status, "did you mean loss?" in errors) == (2, True)


def test_runs_without_settings_and_with_other_tags_are_compared(tmp_path, json_of):
    """All are one group, and a tag has the numbers of the runs that have it."""
    write_run(tmp_path / "a", loss=[1.0])
    write_run(tmp_path / "b", norm=[math.nan])
    _, data = json_of("compare", tmp_path)
    loss, norm = data["tags"]
    assert list(loss["runs"]) == [str(tmp_path / "a")]
    assert norm["groups"] == [
        {
            "settings": {},
            "count": 1,
            "last_mean": "NaN",
            "last_std": None,
            "min_mean": None,
            "min_std": None,
            "max_mean": None,
            "max_std": None,
        }
    ]
