"""`sowlog show`."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from sowlog._cli.curves import sparkline, statistics_of
from tests.cli.writing import write_run
from tests.support import event_shapes as shapes
from tests.support.event_shapes import VERSION, event, write_file


def test_a_run_has_a_line_for_each_tag(tmp_path, sowlog_command):
    """With the last value, extremes, mean, a curve; hyperparameters above, other kinds below."""
    hparams = {"lr": 0.5, "seed": 3.0}
    path = write_run(tmp_path, hparams=hparams, loss=[4.0, 2.0, 3.0], eval__accuracy=[0.5])
    with path.open("ab") as file:
        made = event(7, shapes.histogram_v1("weights", [1], [1.0], 0.0, 1.0))
        file.write(shapes.frame(made.SerializeToString()))
    status, output, errors = sowlog_command("show", tmp_path)
    assert (status, errors) == (0, "")
    assert output.splitlines() == [
        f"{tmp_path}: 4 scalars of 2 tags, steps 0 to 2",
        "hyperparameters: lr=0.5, seed=3",
        "tag            points  last step  last  min  max  mean  curve  health",
        "eval/accuracy       1          0   0.5  0.5  0.5   0.5  ▄",
        "loss                3          2     3    2    4     3  █▁▅",
        "other values  kind        points  last step",
        "weights       histograms       1          7",
    ]


def test_the_json_of_a_run_has_all_of_it(tmp_path, json_of):
    """As the help describes it; NaN is a string."""
    write_run(tmp_path, hparams={"lr": 0.5}, x={0: 1.0, 1: math.nan, 2: math.inf, 4: 3.0})
    status, data = json_of("show", tmp_path)
    assert status == 0
    assert data == {
        "run": str(tmp_path),
        "hparams": {"lr": 0.5},
        "tags": [
            {
                "tag": "x",
                "points": 4,
                "first_step": 0,
                "last_step": 4,
                "last": 3.0,
                "min": 1.0,
                "max": 3.0,
                "mean": 2.0,
                "nonfinite": 2,
                "first_nonfinite": 1,
                "gaps": 1,
                "doubled": 0,
                "back": 0,
            }
        ],
        "others": [],
        "first_nonfinite": {"step": 1, "tags": ["x"], "report": None},
        "damage": [],
    }
    write_run(tmp_path / "nan", x=[math.nan])
    _, data = json_of("show", tmp_path / "nan")
    assert (data["tags"][0]["last"], data["tags"][0]["min"]) == ("NaN", None)


def test_the_health_of_a_tag_is_beside_it(tmp_path, sowlog_command):
    """Values that are not finite, gaps, doubled steps and steps that go back."""
    steps = [0, 1, 2, 5, 6, 6, 3, 7]
    events = [event(step, shapes.plain("x", math.nan if step == 5 else 1.0)) for step in steps]
    write_file(tmp_path, [VERSION, *events])
    _, output, _ = sowlog_command("show", tmp_path)
    assert "1 not finite from step 5, 1 gap, 1 doubled step, steps go back 1 time" in output
    assert "first value that is not finite: step 5, x" in output


def test_the_report_of_the_logger_on_a_nan_is_shown(tmp_path, sowlog_command):
    """It knows the order of execution; its first line has the module and the step."""
    report = "At step 3 loss became nan (forward pass).\n\n| a | table |"
    value = shapes.tensor("sowlog/nonfinite", np.array(report.encode(), object), plugin="text")
    write_file(tmp_path, [VERSION, event(3, shapes.plain("loss", math.nan), value)])
    _, output, _ = sowlog_command("show", tmp_path)
    assert "not finite: step 3, At step 3 loss became nan (forward pass).\n" in output


def test_a_folder_of_runs_is_a_table(tmp_path, sowlog_command, json_of):
    """A run a line, with the last values of the chosen tags."""
    write_run(tmp_path / "a", loss=[2.0, 1.0], norm=[3.0])
    write_run(tmp_path / "b", norm=[math.nan])
    status, output, _ = sowlog_command("show", tmp_path, "--tag", "loss")
    assert status == 0
    assert [line.split() for line in output.splitlines()] == [
        ["run", "tags", "points", "last", "step", "loss", "health"],
        [str(tmp_path / "a"), "1", "2", "1", "1"],
        [str(tmp_path / "b"), "0", "0"],
    ]
    _, data = json_of("show", tmp_path / "a", tmp_path / "b")
    assert [(row["run"], row["points"], row["nonfinite"]) for row in data["runs"]] == [
        (str(tmp_path / "a"), 3, 0),
        (str(tmp_path / "b"), 1, 1),
    ]


@pytest.mark.parametrize("command", ["show", "compare", "tail", "check"])
def test_runs_below_a_run_are_named(tmp_path, command, sowlog_command):
    """As torch's `add_scalars` writes them: on standard error, as the output is about the run alone."""
    write_run(tmp_path / "a", loss=[1.0])
    for name in ("loss_train", "loss_eval"):
        write_run(tmp_path / "a" / name, loss=[2.0])
    others = {"compare": [tmp_path / "a" / "loss_train"]}.get(command, [])
    status, output, errors = sowlog_command(command, tmp_path / "a", *others)
    assert (status in (0, 1), "loss_eval" in output) == (True, False)
    count = "1 run" if others else "2 runs"
    assert errors == (
        f"left out: {count} below {tmp_path / 'a'}, which is a run itself: "
        f"name them, as in {tmp_path / 'a' / 'loss_eval'}\n"
    )


def test_runs_below_a_run_are_no_news_if_they_are_read(tmp_path, sowlog_command):
    """Under their names, or with the folder above, also by a link."""
    write_run(tmp_path / "runs" / "a", loss=[1.0])
    write_run(tmp_path / "runs" / "a" / "b", loss=[2.0])
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "a")
    for named in (["runs"], ["runs", "runs/a"], ["runs/a", "link/b"]):
        status, output, errors = sowlog_command("show", *(tmp_path / each for each in named))
        assert (status, errors) == (0, "")
        assert len(output.splitlines()) > 2


def test_misspelled_runs_and_tags_have_the_nearest_names(tmp_path, sowlog_command):
    """With status 2, and nothing on standard output."""
    write_run(tmp_path / "learning", loss=[1.0], eval__accuracy=[1.0])
    status, output, errors = sowlog_command("show", tmp_path / "lerning")
    assert (status, output) == (2, "")
    assert errors.startswith("sowlog show: ")
    assert f"In {tmp_path}, did you mean learning?" in errors
    status, output, errors = sowlog_command("show", tmp_path / "learning", "--tag", "eval/acuracy")
    assert (status, output, errors) == (
        2,
        "",
        "sowlog show: no tag is eval/acuracy: did you mean eval/accuracy?\n",
    )
    status, _, errors = sowlog_command("show", tmp_path / "learning", "--tag", "zzz")
    assert (status, errors) == (2, "sowlog show: no tag is zzz: there are eval/accuracy, loss.\n")
    status, _, errors = sowlog_command("show", "gs://bucket/run")
    assert (status, "is no local folder" in errors) == (2, True)


def test_globs_choose_the_tags(tmp_path, json_of):
    """Of several options the tags of each."""
    write_run(tmp_path, loss=[1.0], eval__loss=[1.0], eval__accuracy=[1.0], norm=[1.0])
    _, data = json_of("show", tmp_path, "--tag", "eval/*", "--tag", "norm")
    assert [each["tag"] for each in data["tags"]] == ["eval/accuracy", "eval/loss", "norm"]


def test_damage_is_shown_and_no_error(tmp_path, sowlog_command):
    """`check` is the command whose status it sets."""
    path = write_run(tmp_path, loss=[1.0, 2.0])
    path.write_bytes(path.read_bytes()[:-1])
    status, output, _ = sowlog_command("show", tmp_path)
    assert (status, "damage: " in output, "is cut short" in output) == (0, True, True)


def test_control_characters_and_long_tags_break_no_terminal(tmp_path, sowlog_command):
    """They are escaped, and cut in their middle; JSON has them whole."""
    long = "t" * 100_000
    write_file(tmp_path, [VERSION, event(0, shapes.plain("a\x1b[31m\nb", 1.0), shapes.plain(long, 1.0))])
    status, output, _ = sowlog_command("show", tmp_path)
    assert (status, "a\\x1b[31m\\nb" in output, "\x1b" in output) == (0, True, False)
    assert max(map(len, output.splitlines())) < 200


def test_a_run_of_a_billion_steps_costs_no_memory(tmp_path, json_of):
    """No array has the length of the run."""
    write_run(tmp_path, x={0: 1.0, 10**9: 2.0, 2 * 10**9: 3.0, 2**62: 4.0})
    _, data = json_of("show", tmp_path)
    assert (data["tags"][0]["last_step"], data["tags"][0]["gaps"]) == (2**62, 1)


@given(
    values=st_numpy.arrays(np.float32, st.integers(0, 70), elements=st.floats(width=32)),
    width=st.integers(1, 30),
)
def test_a_curve_has_a_character_for_each_part(values, width):
    """Of any values; NaN and infinity are marked, and the extremes have the outermost levels."""
    curve = sparkline(values, width, "utf-8")
    assert len(curve) == min(width, len(values))
    if len(values) <= width:
        assert [char == "!" for char in curve] == (~np.isfinite(values)).tolist()
        finite = values[np.isfinite(values)]
        if len(finite) and finite.min() < finite.max():
            assert {curve[int(np.flatnonzero(values == finite.max())[0])]} == {"█"}
            assert {curve[int(np.flatnonzero(values == finite.min())[0])]} == {"▁"}
    assert sparkline(values, width, "ascii").isascii()


@given(
    steps=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=20),
    seed=st.integers(0, 9),
)
def test_statistics_of_any_points_are_those_of_plain_python(steps, seed):
    """Steps at the ends of int64, and NaN among the values."""
    values = np.random.default_rng(seed).choice(np.array([1.0, -2.5, np.nan, np.inf], np.float32), len(steps))
    found = statistics_of(np.array(steps, np.int64), values)
    finite = [float(value) for value in values if math.isfinite(value)]
    bad = [step for step, value in zip(steps, values, strict=True) if not math.isfinite(value)]
    assert (found.points, found.doubled) == (len(steps), len(steps) - len(set(steps)))
    assert found.back == sum(after < before for before, after in itertools.pairwise(steps))
    assert (found.nonfinite, found.first_nonfinite) == (len(bad), min(bad, default=None))
    assert (found.min, found.max) == (min(finite, default=None), max(finite, default=None))
    assert found.mean == (pytest.approx(sum(finite) / len(finite)) if finite else None)
