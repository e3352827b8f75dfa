import re
import signal
from pathlib import Path

import pytest

from train.runs.outcome import Outcome
from train.show import lines, tables


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


def test_no_text_of_a_user_is_markup(capsys) -> None:
    """Brackets and colons of paths, tags and reasons are shown as they are."""
    odd = "runs/[/x] [bold]:smile:"
    values = {"trained": {odd: 0.5}, "evaluated": {odd: 0.25}, "ended_early": f"{odd} did not get better"}
    outcome = Outcome(step=12, reached=12, updates=0, compiling=0.0, training=0.0, **values)
    tables.finished(outcome, Path(odd) / "mine", stopped_by=signal.SIGINT)
    assert capsys.readouterr().out.count("[/x] [bold]:smile:") == 4
