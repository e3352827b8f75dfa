"""Alerts of a run, from its configuration."""

import signal
import warnings
from pathlib import Path

import pytest

import sowlog
from sowlog.alerts import Falling, Plateau, Range, Spike, Stall
from sowlog.testing import MemoryWriter
from tests.support.tensorboard_reading import tensorboard_texts
from tests.train.data import loaders
from tests.train.running import CONFIGS, TINY_DIGITS, digits, points, run
from train import __main__ as program
from train.config import file as config_file
from train.config.file import ConfigError
from train.runs.alerts import rule_of

LOADERS = loaders.__name__
HIGH = "alerts=[{name: range, tag: loss, high: 0}]"
EXIT = "alerts=[{name: range, tag: loss, high: 0, exit: true}]"
FILE = str(CONFIGS / "digits.yaml")


def alerts_of(memory: MemoryWriter) -> list[str]:
    return [
        text for record in memory.records for tag, text in record.texts.items() if tag.startswith("alerts/")
    ]


def test_an_alert_is_shown_and_written_and_the_run_goes_on(tmp_path: Path) -> None:
    """Once, as the loss stays above 0; the points are those of a run without it."""
    memory = MemoryWriter()
    outcome = run(digits(HIGH), tmp_path / "with", [memory])
    run(digits(), tmp_path / "without")
    assert outcome.is_finished
    (message,) = alerts_of(memory)
    assert message.startswith("loss is 2.")
    assert message.endswith("at step 0, above 0.")
    assert ("alerts/range/loss", 0) in tensorboard_texts(tmp_path / "with")
    assert points(tmp_path / "with") == points(tmp_path / "without")


def test_an_alert_with_exit_ends_the_program_with_status_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a checkpoint from which the same command, without the alert, goes on."""
    arguments = [FILE, *TINY_DIGITS, "steps=2000", "eval.every=5000", "checkpoint.every=5000"]
    arguments += ["--workdir", str(tmp_path)]
    assert program.main([*arguments, EXIT]) == 4
    out = capsys.readouterr().out
    assert "alert: loss is 2." in out
    assert "\nended by an alert: loss is 2." in out
    assert "saved at step " in out
    assert not (tmp_path / "results.json").exists()
    (folder,) = (tmp_path / "checkpoints").iterdir()
    steps = int(folder.name) + 1
    assert steps < 2000
    assert program.main([*arguments[:-2], "--workdir", str(tmp_path), f"steps={steps}"]) == 0


def test_a_tag_that_never_comes_is_a_line_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the end, with the tags that came."""
    alert = "alerts=[{name: spike, tag: eval/los}]"
    assert program.main([FILE, *TINY_DIGITS, alert, "--workdir", str(tmp_path)]) == 0
    line = "warning: no alert could fire for eval/los (did you mean eval/loss?): no scalar of that tag"
    assert line in capsys.readouterr().err


def test_a_stalled_loader_is_left_by_a_stall_with_exit(tmp_path: Path) -> None:
    """While the loop waits for a batch; the steps before it are saved."""
    config = digits(
        f"data={{name: '{LOADERS}:stalling', arguments: {{folder: '{tmp_path}'}}, eval_batches: 1}}",
        "alerts=[{name: stall, seconds: 1, exit: true}]",
        "steps=100",
    )
    memory = MemoryWriter()
    outcome = run(config, tmp_path / "run", [memory])
    assert outcome.stopped_by == signal.SIGTERM
    assert outcome.alert == alerts_of(memory)[0]
    assert outcome.alert.startswith("no step has come for ")
    assert outcome.step == outcome.reached


def test_rules_have_the_defaults_of_sowlog() -> None:
    """A section of each name with its required settings alone makes the rule with its own alone."""
    config = digits(
        "alerts=[{name: spike, tag: a}, {name: plateau, tag: a}, {name: falling, tag: a}, "
        "{name: range, tag: a}, {name: range, tag: a, low: 1}, {name: stall, seconds: 5}]"
    )
    expected = [Spike("a"), Plateau("a"), Falling("a"), Range("a"), Range("a", low=1), Stall(5)]
    assert [rule_of(each) for each in config.alerts] == expected


def test_a_configuration_with_alerts_is_read_back(tmp_path: Path) -> None:
    """And one item is overridden by its number."""
    config = digits(HIGH, "alerts.0.high=3")
    assert rule_of(config.alerts[0]) == Range("loss", high=3)
    file = tmp_path / "config.yaml"
    file.write_text(config_file.dump(config))
    assert config_file.load(file) == config


def test_all_errors_of_alerts_come_at_once(tmp_path: Path) -> None:
    """Each with its place, its number in the list, and a suggestion."""
    file = tmp_path / "experiment.yaml"
    file.write_text(
        (CONFIGS / "digits.yaml").read_text()
        + "alerts:\n"
        + "- {name: spik, tag: loss}\n"
        + "- {name: spike, tag: loss, treshold: 3}\n"
        + "- {name: falling}\n"
        + "- {tag: loss}\n"
        + "- {name: range, tag: loss, low: 3, high: 2}\n"
        + "- {name: stall, seconds: 0, exit: maybe}\n"
        + "- {name: plateau, tag: eval//loss}\n"
        + "- loss\n"
    )
    with pytest.raises(ConfigError, match="did you mean spike") as caught:
        config_file.load(file)
    assert [line.partition(": ")[2] for line in caught.value.errors] == [
        "alerts.0.name: must be one of spike, plateau, falling, range, stall, "
        'got "spik"; did you mean spike?',
        "alerts.1.treshold: unknown key; did you mean threshold?",
        "alerts.2.tag: missing.",
        "alerts.3.name: missing; one of spike, plateau, falling, range, stall.",
        "alerts.4.high: the range from 3 to 2 is empty.",
        'alerts.5.exit: must be true or false, got "maybe".',
        "alerts.5.seconds: must be greater than 0, got 0.",
        'alerts.6.tag: must be a tag or a glob of tags, such as loss or eval/*, got "eval//loss".',
        'alerts.7: must be a mapping of settings, got "loss".',
    ]


def test_the_help_lists_the_settings_of_each_rule(capsys: pytest.CaptureFixture[str]) -> None:
    """Under the number that stands for an item's place."""
    assert program.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "alerts (default: []): a list." in out
    assert "alerts.N.name=spike: A value far from the median" in out
    assert "alerts.N.threshold: number > 0; default 10.0" in out
    assert "alerts.N.seconds: number > 0; required" in out


def test_alerts_and_rates_may_change_in_a_run_that_goes_on(tmp_path: Path) -> None:
    """They look at it, and do not change it."""
    run(digits("steps=4"), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sowlog.AlertWarning)
        outcome = run(digits("steps=5", HIGH, "rates.every=7"), tmp_path)
    assert outcome.reached == 5
    assert run(digits("steps=6", "rates=null"), tmp_path).reached == 6
