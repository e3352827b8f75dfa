"""The coordinate check of a sweep, on runs whose sizes are known powers of the width."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import sowlog
from tests.train.running import digits
from train import __main__ as program
from train.config import file as config_file
from train.config.errors import ConfigError
from train.runs.folder import RunFolderError
from train.sweep import coordinates

WIDTHS = (2, 8, 4)
SIZES: Mapping[str, Callable[[float, int], float]] = {
    "still/outputs/rms": lambda width, step: 3.0,
    "root/outputs/rms/00": lambda width, step: (width**0.5) ** step,
    "falls/rms": lambda width, step: 5.0 / width,
    "rms": lambda width, step: 1.0 if step == 0 else width,
    "other/max_abs": lambda width, step: width,
    "loss": lambda width, step: width,
}


def make_run(folder: Path, width: float, *, seed: int = 0, factor: float = 1.0, steps: int = 2) -> None:
    folder.mkdir(parents=True)
    config = digits(f"task.width={width}", f"seed={seed}")
    (folder / "config.yaml").write_text(config_file.dump(config))
    with sowlog.Logger(folder) as log:
        for step in range(steps):
            log(step, {tag: factor * size(width, step) for tag, size in SIZES.items()})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for width in WIDTHS:
        make_run(folder / f"task.width={width}", width)
    (folder / "notes").mkdir()
    return folder


def test_the_growth_is_the_exponent_of_the_width(sweep: Path) -> None:
    """At each step; tags that are no rms are left out."""
    found = coordinates.read(sweep, "task.width")
    assert found.values == [2, 4, 8]
    assert set(found.sizes) == {tag for tag in SIZES if "rms" in tag}
    growths = {tag: [round(found.growth(tag, step), 5) for step in (0, 1)] for tag in found.sizes}
    assert growths == {
        "still/outputs/rms": [0, 0],
        "root/outputs/rms/00": [0, 0.5],
        "falls/rms": [-1, -1],
        "rms": [0, 1],
    }
    assert sorted(found.growing()) == ["rms", "root/outputs/rms/00"]


def test_one_command_shows_the_table_and_writes_all_sizes(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last step on the terminal, with the sizes that grow."""
    assert program.main(["--coordinates", "task.width", "--workdir", str(sweep)]) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert ["root/outputs/rms/00", "1.414", "2", "2.828", "+0.00", "+0.50"] in rows
    assert "with task.width at the last step grow: rms, root/outputs/rms/00\n" in out
    written = csv.DictReader((sweep / coordinates.FILE).read_text().splitlines())
    growths = {(row["tag"], row["step"]): float(row["growth"]) for row in written}
    assert len(growths) == 8
    assert growths["root/outputs/rms/00", "1"] == pytest.approx(0.5)


def test_runs_of_one_width_are_averaged(tmp_path: Path) -> None:
    """By the geometric mean, at the steps that each of them has."""
    make_run(tmp_path / "a", 2, steps=3)
    make_run(tmp_path / "b", 2, seed=1, factor=4.0)
    make_run(tmp_path / "c", 4, factor=2.0, steps=3)
    found = coordinates.read(tmp_path, "task.width")
    assert found.sizes["still/outputs/rms"] == {0: pytest.approx([6, 6]), 1: pytest.approx([6, 6])}


@pytest.mark.parametrize("size", [0.0, float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore::sowlog.NonfiniteWarning")
def test_a_size_without_a_logarithm_has_no_growth(
    tmp_path: Path, size: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """And has a line of its own: it is a finding, and does not grow."""
    for width, value in ((2, 1.0), (4, size)):
        make_run(tmp_path / str(width), width, steps=0)
        with sowlog.Logger(tmp_path / str(width)) as log:
            log(0, {"rms": value})
    assert coordinates.run("task.width", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "no size grows with task.width at the last step" in out
    assert "without a growth there, as a size is 0 or not finite: rms\n" in out


def test_runs_that_are_damaged_or_short_are_named_and_the_others_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A seed that failed before its first step must not hide all sizes of its width."""
    for name, width in (("a", 2), ("b", 4), ("short", 8), ("damaged", 8)):
        make_run(tmp_path / name, width, steps=2 if name == "short" else 5)
    make_run(tmp_path / "failed", 8, steps=0)
    (event_file,) = (tmp_path / "damaged").glob("*tfevents*")
    event_file.write_bytes(event_file.read_bytes()[:-1])
    make_run(tmp_path / "unreadable", 4)
    (tmp_path / "unreadable" / "config.yaml").write_text("task: [")
    (tmp_path / "silent").mkdir()
    (tmp_path / "silent" / "config.yaml").write_text((tmp_path / "a" / "config.yaml").read_text())
    with sowlog.Logger(tmp_path / "a", resume_from=5) as log:
        log(5, {"only/rms": 1.0})
    assert coordinates.run("task.width", str(tmp_path)) == 0
    warnings = capsys.readouterr().err.splitlines()
    for place, line in {
        "damaged": "is read up to a damage: ",
        "failed": "is left out: it has no size, a tag that ends in rms",
        "silent": "is left out: it has no event file",
        "unreadable": "is left out: the run folder",
    }.items():
        assert any(each.startswith(f"warning: {tmp_path / place} {line}") for each in warnings), place
    assert "warning: not at a step of all runs, and left out: only/rms" in warnings
    ended = "warning: some runs have steps up to 4, and all of them up to 1, where they are compared"
    assert ended in warnings
    found = coordinates.read(tmp_path, "task.width")
    assert found.values == [2, 4, 8]
    assert found.growth("root/outputs/rms/00", 1) == pytest.approx(0.5)


def test_folded_sizes_are_compared(tmp_path: Path) -> None:
    """Their median, p90 and largest; the index of a layer is no size."""
    for width in (2, 4):
        make_run(tmp_path / str(width), width, steps=0)
        with sowlog.Logger(tmp_path / str(width), fold="**", tag_budget=None) as log:
            log(0, {"blocks": {"rms": [float(width), 2.0 * width]}, "p50": 1.0})
    found = coordinates.read(tmp_path, "task.width")
    assert {tag: found.growth(tag, 0) for tag in found.sizes} == dict.fromkeys(
        ("blocks/rms/p50", "blocks/rms/p90", "blocks/rms/max"), pytest.approx(1)
    )


def test_the_title_has_the_steps_of_all_sizes(tmp_path: Path) -> None:
    """A held-out size is of other steps than one of training."""
    for width in (2, 4):
        make_run(tmp_path / str(width), width)
        with sowlog.Logger(tmp_path / str(width), resume_from=2) as log:
            log(7, {"eval": {"rms": 1.0}})
    titles = coordinates.table(coordinates.read(tmp_path, "task.width")).titles
    assert list(titles[-2:]) == ["growth at its first step", "at its last"]


def test_folders_that_cannot_be_compared_are_errors(sweep: Path, tmp_path: Path) -> None:
    """Each with the cause and the next move."""
    with pytest.raises(ConfigError, match="--coordinates: compares the runs of a sweep; add --workdir DIR"):
        coordinates.run("task.width", None)
    with pytest.raises(ConfigError, match=r"task\.with is no setting; did you mean task\.width\?"):
        coordinates.read(sweep, "task.with")
    with pytest.raises(ConfigError, match=r"task\.name must be a number above 0, and is digits in .*width=2"):
        coordinates.read(sweep, "task.name")
    with pytest.raises(RunFolderError, match=r"1 values of steps.*--sweep steps=64,128,256"):
        coordinates.read(sweep, "steps")
    with pytest.raises(RunFolderError, match=r"has runs with 0 values"):
        coordinates.read(tmp_path, "task.width")
    with pytest.raises(RunFolderError, match=r"absent cannot be read"):
        coordinates.read(tmp_path / "absent", "task.width")
    for width in (2, 4):
        make_run(tmp_path / str(width), width, steps=0)
    without = r"no size in common.*watch\.statistics=\[rms\]\.\n.* is left out: it has no size"
    with pytest.raises(RunFolderError, match=without):
        coordinates.read(tmp_path, "task.width")
    with pytest.raises(ConfigError, match="leave out --sweep"):
        program._run(["--coordinates=task.width", "--sweep=seed=0,1"])
