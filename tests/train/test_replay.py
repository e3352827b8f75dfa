"""`--explain-nan`: diverged runs of tiny tasks, replayed and explained."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from train import __main__ as program
from train.config import file as config_file
from train.runs.folder import RunFolder

HERE = "tests.train.test_replay"
SOURCE = """
import jax
import jax.numpy as jnp

import sowlog
from train.tasks import Forward, Task


class Mine(Task):
    needs = ("x",)
    results = ("loss",)
    better = "lower"

    def __init__(self, options):
        pass

    def init(self, key, batch):
        return {"params": {"w": jnp.float32(1)}}

    def forward(self, variables, batch, key):
        def model(w, x):
            with sowlog.scope("head"):
                return jnp.mean(LOSS)

        loss, updates = sowlog.collect(model)(variables["params"]["w"], batch["x"])
        return Forward(loss, {}, updates)
"""
BASE = f"""
data: {{name: "{HERE}:ones", eval_batches: 1}}
optimizer: {{name: sgd, learning_rate: 0.1, momentum: 0, schedule: constant, clip_norm: null}}
steps: 12
eval: {{every: 20}}
checkpoint: {{every: 4}}
"""
LINE = 1 + SOURCE[: SOURCE.index("LOSS")].count("\n")
PROGRESS = re.compile(r"step \d+(/\d+  | is not finite: its equations are evaluated )")
_numbers = itertools.count()


def ones(at: int = -2) -> list[dict[str, np.ndarray]]:
    """Batches of ones, but for an infinity at one step; the first is held out."""
    return [{"x": np.full(4, np.inf if number - 1 == at else 1, np.float32)} for number in range(50)]


@pytest.fixture(name="command")
def _command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function from a loss to the command that trains on it, in the folder `run`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)

    def command(loss: str, *settings: str) -> list[str]:
        module = f"replayed_task_{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(SOURCE.replace("LOSS", loss))
        return ["base.yaml", f"task.name={module}:Mine", *settings, "--workdir", "run"]

    return command


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return all paths of a folder with their times of modification and their bytes."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    """Return status, output and errors of a replay, which changes nothing in the folder."""
    capsys.readouterr()
    before = snapshot(Path("run"))
    status = program.main(["--explain-nan", "--workdir", "run", *arguments])
    assert snapshot(Path("run")) == before
    out, err = capsys.readouterr()
    return status, [line.strip() for line in out.splitlines() if not PROGRESS.match(line)], err


@pytest.mark.filterwarnings("default::sowlog.NonfiniteWarning")
def test_a_diverged_run_is_replayed_from_its_last_checkpoint(command, capsys) -> None:
    """Gradient descent on log(w) passes 0 after step 5; the message of the run names the command."""
    arguments = command("jnp.log(w * x)")
    assert program.main(arguments) == 3
    out = capsys.readouterr().out
    (failed,) = [line for line in out.splitlines() if line.startswith("ended early")]
    assert failed == "ended early: the objective or its gradient was not finite at step 6"
    hint = "to see where the NaN or infinity began: python -m train --explain-nan --workdir run"
    assert out.splitlines()[-1] == hint
    status, lines, err = explained(capsys)
    assert (status, err) == (0, "")
    assert lines[0] == "step 6: the objective or its gradient is not finite (replayed from step 4)"
    module = arguments[1].partition("=")[2].partition(":")[0]
    assert lines[1].startswith("nan made by log, ")
    assert lines[1].endswith(f"{module}.py:{LINE} (Mine.forward.<locals>.model)")
    assert lines[2:4] == ["module: head", "pass: forward"]
    assert any(line.startswith("reaches: ") and "result['objective']" in line for line in lines)
    # The whole command of the run, with the option; another run's is refused.
    assert explained(capsys, *arguments[:-2])[0] == 0
    status, lines, err = explained(capsys, "seed=7")
    assert (status, lines) == (2, [])
    assert "seed: 0 there, 7 now" in err


@pytest.mark.filterwarnings("default::sowlog.NonfiniteWarning")
def test_a_run_without_a_checkpoint_is_replayed_from_its_beginning(command, capsys) -> None:
    """An infinity of the data is an argument; a change since the run is a warning."""
    assert program.main(command("w * x", "data.arguments.at=1")) == 3
    meta = json.loads(Path("run/meta.json").read_text())
    meta["starts"][-1]["devices"] = ["TPU v9"] * 2
    Path("run/meta.json").write_text(json.dumps(meta))
    status, lines, err = explained(capsys)
    assert status == 0
    assert lines[0] == "step 1: the objective or its gradient is not finite (replayed from step 0)"
    assert lines[1].startswith("+inf in the argument batch['x'], first used by ")
    assert err == "warning: this replay has devices 4 cpu in place of 2 TPU v9: it may differ from the run.\n"


@pytest.mark.filterwarnings("default::sowlog.NonfiniteWarning")
def test_an_update_that_overflows_is_explained_by_its_own_step(command, capsys) -> None:
    """Its gradient is finite, and the parameters after it are in a checkpoint; a lock is no obstacle."""
    settings = ("optimizer.learning_rate=1e30", "checkpoint.every=1")
    assert program.main(command("w * x * 1e10", *settings)) == 3
    assert Path("run/checkpoints/1").exists()
    with RunFolder(Path("run"), config_file.load(Path("run/config.yaml"))):
        status, lines, err = explained(capsys)
    assert status == 0
    assert err == "warning: the checkpoint of step 1 holds a NaN or infinity. The replay begins before it.\n"
    assert lines[0] == "step 1: the objective or its gradient is not finite (replayed from step 0)"
    parameter = "state.variables['params']['w']"
    assert lines[1].startswith(f"-inf in the argument {parameter}")
    at = lines.index(f"{parameter} is of the update of step 0:")
    assert lines[at + 1].startswith("-inf made by mul")


def test_a_run_that_did_not_diverge_has_nothing_to_explain(command, capsys) -> None:
    """It is replayed to the end that it had, early here, and no further."""
    early = ("early_stop.patience=1", "eval.every=2")
    assert program.main(command("0 * w + x", *early)) == 0
    status, lines, err = explained(capsys)
    assert (status, err) == (1, "")
    ending = "Evaluations are not replayed: a NaN or infinity in one is not explained."
    assert lines == ["no step is left to replay: the run ended with the checkpoint of step 2.", ending]
    shutil.rmtree("run/checkpoints")
    status, lines, err = explained(capsys)
    assert (status, err) == (1, "")
    assert lines[-2:] == ["all steps from 0 to the last of the run, 1, are finite.", ending]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "command line: --explain-nan: replays the run of a folder; add --workdir DIR"),
        (["--workdir=empty"], "no run was begun in empty: give the --workdir of a run."),
        (["--workdir=absent"], "no run was begun in absent: give the --workdir of a run."),
        (
            ["--workdir=empty", "--sweep=seed=1,2"],
            "command line: --explain-nan: replays one run as it was; leave out --sweep",
        ),
        (["--workdir=empty", "--cluster"], "--explain-nan is for one process"),
    ],
)
def test_a_replay_without_a_run_is_refused(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """With status 2, and no folder is made."""
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert program.main(["--explain-nan", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, line in err) == ("", True)
    assert [str(path) for path in Path().rglob("*")] == ["empty"]
