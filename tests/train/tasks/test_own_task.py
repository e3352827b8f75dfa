import itertools
from pathlib import Path

import pytest

from tests.train.running import CONFIGS, TINY_DIGITS
from train import __main__ as program
from train.config import file as config_file
from train.config.errors import ConfigError

DIGITS = CONFIGS / "digits.yaml"
FEW = [setting for setting in TINY_DIGITS if not setting.startswith("task.")]
SOURCE = '''
import jax.numpy as jnp
import optax
from flax import linen as nn
from pydantic import BaseModel, Field

import sowlog
from train.tasks import Forward, Task


class Mine(Task):
    """Classifies digits."""

    needs = ("image", "label")
    results = ("accuracy", "loss")
    better = "higher"

    class Options(BaseModel):
        width: int = Field(4, ge=1, description="Units of the hidden layer.")
        depths: tuple[int, ...] = (1, 2)

    def __init__(self, options):
        assert isinstance(options, Mine.Options)
        self.model = nn.Sequential([nn.Dense(options.width), nn.relu, nn.Dense(10)])

    def init(self, key, batch):
        return {"params": self.model.init(key, batch["image"].reshape(-1, 64))["params"]}

    def forward(self, variables, batch, key):
        logits, updates = sowlog.collect(self.model.apply)(variables, batch["image"].reshape(-1, 64))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        hits = logits.argmax(-1) == batch["label"]
        return Forward(loss, {"accuracy": sowlog.mean.of(hits)}, updates)
'''
_numbers = itertools.count()


@pytest.fixture(name="write")
def _write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes the task into the working folder, changed, and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(old: str = "", new: str = "") -> str:
        module = f"own_task_{next(_numbers)}"
        assert old in SOURCE
        (tmp_path / f"{module}.py").write_text(SOURCE.replace(old, new) if old else SOURCE)
        return f"{module}:Mine"

    return write


def errors_of(*settings: str) -> list[str]:
    with pytest.raises(ConfigError, match=r".") as caught:
        config_file.load(DIGITS, settings)
    return str(caught.value).splitlines()


def test_its_settings_are_checked_as_all_others(write) -> None:
    """All at once, each with its key and a suggestion."""
    found = errors_of(f"task.name={write()}", "task.widht=3", "task.width=0", "task.depths=1", "seed=x")
    assert sorted(found) == [
        'command line: seed: must be a whole number, got "x".',
        "command line: task.depths: must be a valid tuple, got 1.",
        "command line: task.widht: unknown key; did you mean width?",
        "command line: task.width: must be greater than or equal to 1, got 0.",
    ]
    assert errors_of(f"task.name={write()}", 'task.width="3"')[0].endswith('must be a whole number, got "3".')


def test_what_is_not_found_is_named(write, tmp_path: Path) -> None:
    """The module or the class, where it was looked for, and one with a similar name."""
    module = write().partition(":")[0]
    (found,) = errors_of("task.name=nowhere_at_all:Mine")
    where = f"it is looked for in the working folder {tmp_path} and on PYTHONPATH."
    assert found == f"command line: task.name: there is no module nowhere_at_all; {where}"
    (found,) = errors_of(f"task.name={module}:Min")
    assert found == f"command line: task.name: the module {module} has no class Min; did you mean Mine?"
    (found,) = errors_of("task.name=not-a-module:Mine")
    assert "must be of the form module:Class" in found
    (found,) = errors_of("task.name=min")
    assert "must be one of digits, digits_nnx, gru, moe_lm, vae, vqvae, module:Class" in found


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("(Task)", "", "has no losses, advance. Write: class Mine(train.tasks.Task)"),
        ('better = "higher"', 'better = "up"', 'has better = \'up\'. Write: better = "lower" or "higher"'),
        ("class Options(BaseModel)", "class Options", "has Options that are no pydantic model"),
        (
            "width: int",
            "name: str = 'x'\n        width: int",
            "has an option `name`, which is the task's own",
        ),
    ],
)
def test_a_class_that_is_no_task_is_refused(write, old: str, new: str, line: str) -> None:
    """Before anything else of it is looked at."""
    (found,) = errors_of(f"task.name={write(old, new)}")
    assert line in found


def test_a_configuration_of_it_reads_back_equal(write, tmp_path: Path) -> None:
    """With values that YAML does not have, such as tuples."""
    config = config_file.load(DIGITS, [f"task.name={write()}", "task.depths=[3]"])
    (tmp_path / "dumped.yaml").write_text(config_file.dump(config))
    assert config_file.load(tmp_path / "dumped.yaml") == config
    assert config.task.model_dump(mode="json")["depths"] == [3]


def test_it_learns_from_data_that_has_what_it_needs(write) -> None:
    """Which is found before any data is read."""
    (found,) = errors_of(f"task.name={write()}", "data.name=text")
    assert 'learns from "digits", got "text"' in found
    name = write('"image", "label"', '"audio",')
    (found,) = errors_of(f"task.name={name}")
    assert "learns from arrays that no data here has" in found


def test_the_help_shows_its_settings(write, capsys: pytest.CaptureFixture[str]) -> None:
    """After all others, or why they cannot be shown."""
    name = write()
    assert program.main([str(DIGITS), f"task.name={name}", "--help"]) == 0
    shown = capsys.readouterr().out.partition(f"task.name={name}: Classifies digits.\n")[2]
    assert "task.width: whole number >= 1; default 4\n      Units of the hidden layer.\n" in shown
    assert "task.depths: tuple; default [1, 2]\n" in shown
    assert program.main([str(DIGITS), "task.name=nowhere_at_all:Mine", "--help"]) == 0
    assert "task.name=nowhere_at_all:Mine: there is no module nowhere_at_all" in capsys.readouterr().out


def test_it_trains_and_goes_on(write, capsys: pytest.CaptureFixture[str]) -> None:
    """As the tasks do that come with the program; another setting is another run."""
    command = [str(DIGITS), *FEW, f"task.name={write()}", "--workdir", "run"]
    assert program.main([*command, "--dry-run"]) == 0
    assert "eval/accuracy" in capsys.readouterr().out
    assert program.main([*command, "steps=4"]) == 0
    assert program.main(["--workdir", "run", "steps=6"]) == 0
    assert "after 6 steps" in capsys.readouterr().out
    assert program.main([*command, "steps=6", "task.width=5"]) == 2
    assert "task.width: 4 there, 5 now" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--dry-run", "--workdir=run"])
@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"accuracy", "loss"', '"acuracy", "loss"', 'no evaluation has "acuracy"; did you mean accuracy?'),
        (
            '"accuracy", "loss"',
            '"loss",',
            'better is "higher", and the first of its results, loss, is a loss.',
        ),
    ],
)
def test_results_that_would_rank_a_sweep_upside_down_are_refused(
    write, capsys: pytest.CaptureFixture[str], flag: str, old: str, new: str, line: str
) -> None:
    """Before anything is trained; the run folder is left as it was."""
    assert program.main([str(DIGITS), *FEW, f"task.name={write(old, new)}", flag]) == 2
    assert line in capsys.readouterr().err
    assert not Path("run").exists()


def test_an_early_stop_in_the_other_direction_is_refused(write, capsys: pytest.CaptureFixture[str]) -> None:
    """It would end a run as it gets better."""
    watched = ["early_stop.metric=eval/accuracy", f"task.name={write()}", "--dry-run"]
    assert program.main([str(DIGITS), *FEW, *watched]) == 2
    assert capsys.readouterr().err.endswith("Write: early_stop.better=higher.\n")
    assert program.main([str(DIGITS), *FEW, *watched, "early_stop.better=higher"]) == 0
