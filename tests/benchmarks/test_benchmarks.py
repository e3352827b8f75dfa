"""A smoke run of every benchmark, without timing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from tests.benchmarks.__main__ import BENCHMARKS, main
from tests.benchmarks.measure import SMOKE, Line, Spread, interleave, paired_ratio, spread_of
from tests.benchmarks.report import table

ONE = Spread(1.0, 1.0, 1.0)


# A smoke run measures nothing.
pytestmark = pytest.mark.usefixtures("light_compilation")


@pytest.mark.long
@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.filterwarnings("default")
def test_benchmark_runs(name: str) -> None:
    """At the smallest size, every benchmark returns lines with figures of sowlog."""
    lines = BENCHMARKS[name].measure(SMOKE)
    figures = [line.measured for line in lines if line.measured is not None]
    assert figures
    assert all(figure.low <= figure.median <= figure.high for figure in figures)


@pytest.mark.long
def test_command_prints_the_table_and_writes_the_figures(tmp_path: Path) -> None:
    """The command names the machine, places the process on its cores, prints a table and writes JSON."""
    command = [sys.executable, "-m", "tests.benchmarks", "disk_bytes", "--smoke", "--json", "out.json"]
    done = subprocess.run(
        [*command[:-1], str(tmp_path / "out.json")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "jax " in done.stdout.splitlines()[0]
    assert "| 3 a step: sowlog" in done.stdout
    (first, *_) = json.loads((tmp_path / "out.json").read_text())["results"]["disk_bytes"]
    assert first["ratio"]["median"] == pytest.approx(first["measured"]["median"] / 27)


def test_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is no benchmark ends the command with the names that are."""
    with pytest.raises(SystemExit, match="2"):
        main(["log_latncy"])
    assert "no benchmark is named log_latncy: choose from step_device" in capsys.readouterr().err


def test_absent_is_never_a_pass() -> None:
    """An absent figure is shown as absent, and misses its target if it has one."""
    assert Line("peer").met is None
    assert Line("ours", target=1.0).met is False
    assert "| absent" in table([Line("peer")])


@pytest.mark.parametrize(("bound", "met"), [("ratio", True), ("measured", False)])
def test_target_bounds_the_figure_it_names(bound: Literal["ratio", "measured"], *, met: bool) -> None:
    """A target is compared with the median of the ratio, or of the figure itself."""
    line = Line("ours", Spread(1, 20, 30), "us", Spread(0.1, 0.5, 9), "theirs", 15.0, bound)
    assert line.met is met


def test_verdict_that_the_spread_reaches_over_is_in_doubt() -> None:
    """A verdict is marked where one quartile keeps the target and the other does not."""
    doubtful = Line("ours", ONE, "ms", Spread(0.9, 1.0, 1.2), "theirs", 1.1)
    certain = Line("ours", ONE, "ms", Spread(0.9, 1.0, 1.05), "theirs", 1.1)
    assert table([doubtful]).endswith("| yes? |")
    assert table([certain]).endswith("| yes |")


def test_interleave_pairs_by_round() -> None:
    """Every run is called once a round, seldom ones in rounds at equal distances."""
    calls: list[str] = []

    def take(name: str) -> int:
        calls.append(name)
        return calls.count(name)

    figures = interleave(
        {name: lambda name=name: take(name) for name in ("ours", "theirs")}, 9, {"theirs": 3}
    )
    assert figures == {"ours": list(range(1, 10)), "theirs": [1, 2, 3]}
    second, fifth, eighth = (place for place, name in enumerate(calls) if name == "theirs")
    # Either of the two may be the first of a round.
    assert second in (1, 2)
    assert fifth in (5, 6)
    assert eighth in (9, 10)


def test_ratio_leaves_out_no_round() -> None:
    """A base of fewer rounds is refused: the ratio would disagree with the figures beside it."""
    assert paired_ratio([2.0, 9.0], [1.0, 100.0, 3.0]) == spread_of([2.0, 3.0])
    assert paired_ratio([2.0], [1.0, 4.0, 100.0]) == spread_of([0.5])
    with pytest.raises(ValueError, match="3 figures have a base of 1 rounds"):
        paired_ratio([1.0, 2.0, 3.0], [1.0])


def test_spread_is_the_quartiles() -> None:
    """A spread has the quartiles, and one value is all three."""
    assert spread_of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(2.0, 3.0, 4.0)
    assert spread_of([1.0]) == ONE
