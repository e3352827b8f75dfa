import math
import re
import signal
from pathlib import Path

import pytest

from train.runs.outcome import Outcome
from train.show import display, lines, tables, terminal


class Value:
    """A number on its way from a device."""

    def __init__(self, number: float, *, ready: bool = True):
        self.number, self.ready = number, ready

    def is_ready(self) -> bool:
        return self.ready

    def __float__(self) -> float:
        assert self.ready, "read before it arrived: the program would wait for the device"
        return self.number


class Paper:
    """A screen that keeps what it is shown."""

    def __init__(self, interval: float = 0.0):
        self.interval = interval
        self.lines: list[str] = []
        self.shown: list[tuple[int, str]] = []
        self.paces: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, step: int, values: str, pace: str) -> None:
        self.shown.append((step, values))
        self.paces.append(pace)


def test_values_are_shown_once_they_have_arrived() -> None:
    """Under their own step, however late; steps in between are passed over."""
    paper = Paper()
    shown_on = display.Display(paper, 10)
    late = Value(2.0, ready=False)
    shown_on.trained(0, {"loss": late})
    shown_on.trained(1, {"loss": Value(3.0)})
    assert paper.shown == []
    late.ready = True
    shown_on.trained(2, {"loss": Value(4.0)})
    shown_on.trained(3, {"loss": Value(5.0)})
    assert paper.shown == [(0, "loss 2.000"), (3, "loss 5.000")]
    assert paper.paces[0] == ""
    assert "steps/s" in paper.paces[1]


def test_a_held_out_value_that_is_not_finite_has_a_line() -> None:
    """Which names it and the step, of a single layer too."""
    paper = Paper()
    shown_on = display.Display(paper, 10)
    shown_on.evaluated(5, {"loss": Value(math.nan), "accuracy": Value(0.5), "block/x": Value(math.inf)})
    shown_on.ended()
    assert sorted(paper.lines[1:]) == [
        "warning: eval/block/x is inf at step 5.",
        "warning: eval/loss is nan at step 5.",
    ]


def test_an_evaluation_is_shown_under_its_step_when_it_is_done() -> None:
    """A line that stays, without the values of single layers."""
    paper = Paper()
    shown_on = display.Display(paper, 10)
    late = Value(0.5, ready=False)
    shown_on.evaluated(4, {"accuracy": late, "block_0/dead": Value(1.0)})
    shown_on.trained(4, {"loss": Value(1.0)})
    assert paper.lines == []
    late.ready = True
    shown_on.trained(5, {"loss": Value(1.0)})
    shown_on.trained(6, {"loss": Value(1.0)})
    assert paper.lines == ["step 4/10  held out: accuracy 0.5000"]


def test_every_evaluation_is_shown_however_fast_the_steps_are() -> None:
    """Also those that are done only after the last step."""
    paper = Paper()
    shown_on = display.Display(paper, 10)
    late = [Value(0.5, ready=False), Value(0.6, ready=False)]
    for step, value in zip((4, 8), late, strict=True):
        shown_on.evaluated(step, {"accuracy": value})
        shown_on.trained(step, {"loss": Value(1.0)})
    assert paper.lines == []
    for value in late:
        value.ready = True
    shown_on.ended()
    assert paper.lines == ["step 4/10  held out: accuracy 0.5000", "step 8/10  held out: accuracy 0.6000"]


@pytest.mark.parametrize(("variable", "value"), [("CI", "1"), ("TERM", "dumb")])
def test_ci_gets_plain_lines_on_a_terminal_too(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep every state of a live line."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv(variable, value)
    with terminal.screen(10) as screen:
        assert isinstance(screen, terminal.Pipe)


def test_a_tag_is_whole_on_a_narrow_terminal(capsys, monkeypatch) -> None:
    """Its end, the number of the layer, is not cut off."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    values = {f"decoder/blocks/attention/entropy/{layer:02}": 1.0 for layer in range(2)}
    outcome = Outcome(step=1, reached=1, trained=values, evaluated={}, updates=0, compiling=0.0, training=0.0)
    tables.finished(outcome, Path("run"), stopped_by=None)
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(row[1].strip() for row in rows) == "".join(values)
    assert len(rows) > len(values)


def test_progress_keeps_its_interval() -> None:
    """Within it, nothing is shown, and nothing old is kept for later."""
    paper = Paper(interval=1000.0)
    shown_on = display.Display(paper, 10)
    for step in range(5):
        shown_on.trained(step, {"loss": Value(float(step))})
    assert [step for step, _ in paper.shown] == [0]


def test_the_pace_is_that_since_the_first_step() -> None:
    """Ten steps in two seconds, ninety to go; nothing can be said at the first."""
    pace = display._Pace(100)
    assert pace.describe(0, 5.0) == ""
    assert pace.describe(10, 7.0) == "5.0 steps/s  0:18 left"
    assert pace.describe(20, 4005.0) == "0.0 steps/s  4:26:40 left"


def test_commands_to_paste_stay_on_one_line(capsys, tmp_path) -> None:
    """However long the run's path is and however narrow the output, no command is broken in two."""
    folder = tmp_path / ("long" * 40)
    outcome = Outcome(
        step=2000, reached=2000, trained={}, evaluated={}, updates=0, compiling=0.0, training=0.0
    )
    tables.finished(outcome, folder, stopped_by=signal.SIGTERM)
    shown = capsys.readouterr().out.splitlines()
    assert f"--workdir {folder}" in shown
    (command,) = [line for line in shown if "tensorboard --logdir" in line]
    assert command.endswith(f"tensorboard --logdir {tmp_path} --samples_per_plugin scalars=2001")


def test_a_command_that_named_its_folder_goes_on_as_it_stands(capsys) -> None:
    """And is not said to need the option that it has."""
    outcome = Outcome(step=20, reached=20, trained={}, evaluated={}, updates=0, compiling=0.0, training=0.0)
    tables.finished(outcome, Path("runs/mine"), stopped_by=signal.SIGTERM, names_folder=True)
    lines.not_saved(["no room"], Path("runs/mine"), names_folder=True)
    out, err = capsys.readouterr()
    assert out.startswith("stopped by SIGTERM, saved at step 20; to go on, the same command\n")
    assert err == "error: no room\nto try again, the same command\n"


@pytest.mark.parametrize("is_evaluated", [True, False])
def test_a_stopped_run_shows_the_evaluation_that_it_had(capsys, *, is_evaluated: bool) -> None:
    """Under its step, or no such column at all."""
    latest = {"loss": 0.25} if is_evaluated else {}
    values = {"trained": {"loss": 0.5}, "evaluated": {}, "latest": latest, "latest_step": 10}
    outcome = Outcome(step=12, reached=12, updates=0, compiling=0.0, training=0.0, **values)
    tables.finished(outcome, Path("runs/mine"), stopped_by=signal.SIGINT)
    cells = [re.split("[│┃]", line)[1:-1] for line in capsys.readouterr().out.splitlines() if line[0] in "│┃"]
    title, row = [[cell.strip() for cell in line] for line in cells]
    assert title == ["", "last step", *(["held out, at step 10"] if is_evaluated else [])]
    assert row == ["loss", "0.5", *(["0.25"] if is_evaluated else [])]


def test_no_text_of_a_user_is_markup(capsys, monkeypatch) -> None:
    """Brackets and colons of paths, tags and reasons are shown as they are, on a terminal's live line too."""
    odd = "runs/[/x] [bold]:smile:"
    values = {"trained": {odd: 0.5}, "evaluated": {odd: 0.25}, "ended_early": f"{odd} did not get better"}
    outcome = Outcome(step=12, reached=12, updates=0, compiling=0.0, training=0.0, **values)
    tables.finished(outcome, Path(odd) / "mine", stopped_by=signal.SIGINT)
    tables.compared([odd], {odd: []})
    assert capsys.readouterr().out.count("[/x] [bold]:smile:") == 6
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    for variable in ("CI", "TERM"):
        monkeypatch.delenv(variable, raising=False)
    with terminal.screen(10) as screen:
        screen.line(odd)
        screen.progress(1, odd, odd)
    assert odd in capsys.readouterr().out
