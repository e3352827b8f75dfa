"""`sowlog plot`."""

import math
import sys

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from sowlog._cli.canvas import draw_curves, draw_heat_maps, marked
from sowlog._cli.figures import HeatMap
from sowlog._cli.plot import limits_of, mean_heat_map, smoothed
from tests.cli.writing import write_run


@pytest.fixture
def sweep(tmp_path):
    """Return a folder of runs of two rates and two seeds each, with a family of layers."""
    layers = {f"layer_{layer}__rms": [1.0 + layer, 2.0 * layer] for layer in range(5)}
    for rate in (0.1, 0.2):
        for seed in (0.0, 1.0):
            write_run(
                tmp_path / "runs" / f"{rate}" / f"{seed:g}",
                hparams={"rate": rate, "seed": seed},
                loss=[4.0 + seed, 2.0, 1.0 + rate],
                **layers,
            )
    return tmp_path / "runs"


def test_tags_families_and_seeds_have_their_panels(sweep, json_of, tmp_path):
    """A band for each rate, and a heat map of the means of its runs."""
    status, data = json_of("plot", sweep, "-o", tmp_path / "x.png")
    assert (status, data["file"]) == (0, str(tmp_path / "x.png"))
    assert data["panels"] == [
        {"title": "loss", "kind": "lines", "curves": ["rate=0.1 (2 runs)", "rate=0.2 (2 runs)"]},
        *(
            {"title": f"layer_*/rms of rate={rate} (2 runs)", "kind": "heat map", "curves": []}
            for rate in (0.1, 0.2)
        ),
    ]
    with PIL.Image.open(tmp_path / "x.png") as image:
        assert image.size[0] > image.size[1] > 300
    _, data = json_of("plot", sweep, "--tag", "loss", "--by", "config.seed", "-o", tmp_path / "x.png")
    assert data["panels"][0]["curves"] == ["seed=0 (2 runs)", "seed=1 (2 runs)"]


def test_a_heat_map_of_several_runs_is_their_mean():
    """At the steps that all have; a member that one lacks there is blank, and one run stays as it is."""
    first = HeatMap(np.array([0, 1, 2]), np.array([[1.0, 2.0, 3.0], [4.0, np.nan, 6.0]]))
    second = HeatMap(np.array([1, 2, 5]), np.array([[4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]))
    mean = mean_heat_map([first, second])
    assert mean.steps.tolist() == [1, 2]
    np.testing.assert_array_equal(mean.rows, [[3.0, 4.0], [np.nan, 7.0]])
    assert mean_heat_map([first]) is None
    assert mean_heat_map([first, HeatMap(np.array([9]), np.ones((2, 1)))]) is None
    assert limits_of([first, second]) == (1.0, 9.0)
    assert limits_of([HeatMap(np.array([0]), np.array([[np.inf]]))]) == (0.0, 1.0)


def test_steps_are_chosen_by_a_range(tmp_path, json_of, sowlog_command, monkeypatch):
    """With both ends, or one; a tag without a step in it has no panel."""
    monkeypatch.setenv("COLUMNS", "50")
    layers = {f"layer_{layer}__rms": [9.0, 1.0 + layer] for layer in range(4)}
    write_run(tmp_path / "run", loss=[64.0, 4.0, 2.0, 1.0], first=[1.0], **layers)
    for steps, ends in (("1..", ["1", "3"]), ("..2", ["0", "2"]), ("1..2", ["1", "2"])):
        _, output, _ = sowlog_command("plot", tmp_path / "run", "--tag", "loss", "--steps", steps)
        assert output.splitlines()[-1].split() == ends
        assert ("64" in output) == steps.startswith("..")
    _, data = json_of("plot", tmp_path / "run", "--steps", "1..1")
    assert [panel["title"] for panel in data["panels"]] == ["loss", "layer_*/rms"]
    _, data = json_of("plot", tmp_path / "run", "--steps", "2..")
    assert [panel["title"] for panel in data["panels"]] == ["loss"]
    status, _, errors = sowlog_command("plot", tmp_path / "run", "--steps", "7..8")
    assert (status, "has no scalars to draw from step 7 to 8" in errors) == (2, True)


@pytest.mark.parametrize("steps", ["2..1", "1", "a..", "1...2", f"..{1 << 63}"])
def test_a_range_of_steps_that_is_none_is_refused(tmp_path, sowlog_command, steps, capsys):
    """With the form of one."""
    with pytest.raises(SystemExit, match="2"):
        sowlog_command("plot", tmp_path, "--steps", steps)
    assert "invalid range of steps, as 100..200, value" in capsys.readouterr().err


@pytest.mark.parametrize(("suffix", "beginning"), [("svg", b"<?xml"), ("PDF", b"%PDF"), ("png", b"\x89PNG")])
def test_the_suffix_is_the_format(tmp_path, sowlog_command, suffix, beginning):
    """Tags with a dollar sign begin no formula, and one point is drawn."""
    write_run(tmp_path / "run", **{"a$b^": [1.0], "x": [math.nan, 1.0, math.inf]})
    path = tmp_path / f"x.{suffix}"
    status, output, _ = sowlog_command("plot", tmp_path / "run", "-o", path, "--smooth", "0.5")
    assert (status, output) == (0, f"{path}: 2 panels\n")
    assert path.read_bytes().startswith(beginning)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run", path.name]


def test_the_terminal_has_curves_and_heat_maps(sweep, sowlog_command, monkeypatch):
    """In the width of the terminal, with ranges of values and steps."""
    monkeypatch.setenv("COLUMNS", "50")
    status, output, _ = sowlog_command("plot", sweep / "0.1" / "0", "--tag", "loss")
    lines = output.splitlines()
    assert (status, lines[0], len(lines)) == (0, "loss", 14)
    assert lines[1].split()[0] == "4"
    assert lines[12].split()[0] == "1.1"
    assert (lines[13].split(), max(map(len, lines))) == (["0", "2"], 49)
    _, output, _ = sowlog_command("plot", sweep / "0.1" / "0", "--tag", "layer_*/*")
    lines = output.splitlines()
    assert lines[0] == "layer_*/rms"
    assert [line.split() for line in lines[1:6]] == [
        ["0", "··"],
        ["1", "░░"],
        ["2", "▒▒"],
        ["3", "▒▓"],
        ["4", "▒█"],
    ]


def test_smoothing_is_that_of_tensorboard():
    """A moving average without the bias of its start; NaN and infinity stay and do not enter."""
    values = np.array([1.0, 3.0, np.nan, 2.0])
    expected = [1.0, (0.5 / 2 + 1.5) / 0.75, np.nan, (1.75 / 2 + 1.0) / 0.875]
    np.testing.assert_allclose(smoothed(values, 0.5), expected)
    assert smoothed(values, 0.0) is values


def test_what_cannot_be_drawn_is_named(tmp_path, sowlog_command, monkeypatch):
    """A suffix, too many tags, no scalars, a missing package, a weight; nothing is written."""
    write_run(tmp_path / "run", **{f"{chr(97 + n % 26)}{'x' * (n // 26)}": [1.0] for n in range(61)})
    write_run(tmp_path / "empty")
    status, _, errors = sowlog_command("plot", tmp_path / "run", "-o", "x.bmp")
    assert (status, "one of .png, .svg, .pdf." in errors) == (2, True)
    status, _, errors = sowlog_command("plot", tmp_path / "run")
    assert (status, "61 tags are more than the 60 that a picture holds: choose by --tag." in errors) == (
        2,
        True,
    )
    status, _, errors = sowlog_command("plot", tmp_path / "empty")
    assert (status, "has no scalars to draw" in errors) == (2, True)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, errors = sowlog_command("plot", tmp_path / "run", "--tag", "a", "-o", tmp_path / "x.png")
    assert (status, "pip install 'sowlog[figures]'" in errors) == (2, True)
    assert not (tmp_path / "x.png").exists()
    with pytest.raises(SystemExit, match="2"):
        sowlog_command("plot", tmp_path / "run", "--smooth", "1")


floats = st.floats(width=32) | st.sampled_from([0.0, 1.0])


@given(
    values=st_numpy.arrays(np.float64, st.integers(1, 40), elements=floats),
    steps=st.data(),
    width=st.integers(1, 90),
    encoding=st.sampled_from(["utf-8", "ascii", None]),
)
def test_curves_of_any_values_fit_the_terminal(values, steps, width, encoding):
    """With each extreme of the steps at its end, and no warning of overflow."""
    count = len(values)
    found = steps.draw(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=count, max_size=count, unique=True)
    )
    lines = draw_curves([(np.array(sorted(found), np.int64), values)], width, encoding)
    if np.isfinite(values).any():
        assert len(lines) == 13
        assert any(set(line[10:]) - {" "} for line in lines[:-1])
        assert max(map(len, lines[:-1])) <= max(width, 19)
    else:
        assert lines == ["(no finite values)"]
    assert encoding != "ascii" or "".join(lines).isascii()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_each_of_several_curves_is_named_at_its_end(encoding):
    """By a letter in the row of its last value, and the same one in the line of the labels."""
    steps = np.arange(5)
    curves = [(steps, 0.0 * steps), (steps, 1.0 * steps), (steps, np.full(5, np.nan)), (steps, 4.0 - steps)]
    *rows, axis = draw_curves(curves, 60, encoding)
    assert [row.split()[-1] for row in rows if row[-1:].isalpha()] == ["b", "ad"]
    assert (rows[0][-1], rows[11][-2:]) == ("b", "ad")
    assert max(map(len, (*rows, axis))) <= 60
    assert marked(["low", "up", "none", "down"]) == ["a low", "b up", "c none", "d down"]
    assert marked(["alone"]) == ["alone"]
    assert max(map(len, draw_curves(curves * 20, 60, encoding))) <= 60


def test_heat_maps_of_one_family_have_one_scale(sweep, sowlog_command, monkeypatch):
    """Runs with ten times the values are darker; a map without values has no part in the scale."""
    steps = np.arange(2)
    rows = ([1.0, 2.0], [10.0, 20.0], [np.nan, np.nan])
    low, high, none = draw_heat_maps([(steps, np.array([row])) for row in rows], 60, "utf-8")
    assert (low[0], high[0], none) == ("        0 ··", "        0 ▒█", ["(no finite values)"])
    assert low[-1].split() == high[-1].split() == ["·", "1", "to", "█", "20"]
    monkeypatch.setenv("COLUMNS", "50")
    write_run(
        sweep / "0.3" / "0", hparams={"rate": 0.3}, **{f"layer_{layer}__rms": [90.0] for layer in range(5)}
    )
    _, output, _ = sowlog_command("plot", sweep)
    scales = [line.split() for line in output.splitlines() if " to " in line]
    assert scales == 3 * [["·", "0", "to", "█", "90"]]


def test_the_last_step_stands_below_the_last_column():
    """Of a heat map with fewer steps than the terminal has columns."""
    ((first, *_, axis, _),) = draw_heat_maps([(np.arange(50), np.arange(100.0).reshape(2, 50))], 100, "utf-8")
    assert (len(first), len(axis)) == (60, 60)
    assert axis.split() == ["0", "49"]


@given(
    rows=st_numpy.arrays(np.float64, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=floats),
    encoding=st.sampled_from(["utf-8", "ascii"]),
)
def test_heat_maps_of_any_values_fit_the_terminal(rows, encoding):
    """Members beyond 24 share rows; a part without finite values is blank."""
    (lines,) = draw_heat_maps([(np.arange(rows.shape[1]), rows)], 60, encoding)
    if np.isfinite(rows).any():
        assert len(lines) == min(len(rows), 24) + 2
        assert max(map(len, lines)) <= 60
    else:
        assert lines == ["(no finite values)"]
    assert encoding != "ascii" or "".join(lines).isascii()
