import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

import sowlog
from tests.tensorboard_reading import data_server, data_server_series, tensorboard_points, wait_until
from tests.train.running import ROOT, TINY_DIGITS, TINY_MOE, digits, moe, run, saved_arrays

# Twenty of each task are run by hand, as each costs seconds; a few of one task in every test run.
KILLS = int(os.environ.get("SOWLOG_RESUMES", "2"))
STEPS = 150 * KILLS
LONG = (f"steps={STEPS}", "eval.every=30", "checkpoint.every=7")
TINY = {"moe_lm": (TINY_MOE, moe), "digits": (TINY_DIGITS, digits)}


class Training(NamedTuple):
    """The same training twice: killed and repeated, and in one go."""

    killed: Path
    straight: Path


def start(task: str, workdir: Path) -> subprocess.Popen[str]:
    """Run the program on a tiny experiment."""
    command = [sys.executable, "-W", "error", "-m", "train", f"configs/{task}.yaml", *TINY[task][0], *LONG]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def saves(workdir: Path) -> int:
    """Return the step of the newest whole checkpoint, -1 if there is none."""
    return max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()), default=-1)


def wait_for_saves(process: subprocess.Popen[str], workdir: Path, number: int) -> None:
    """Return when the program got on by about as many checkpoints, or ended."""
    enough = saves(workdir) + 7 * number
    wait_until(lambda: process.poll() is not None or saves(workdir) > enough, seconds=120)


def kill(task: str, workdir: Path, kill: int, rng: random.Random) -> None:
    """Start the program and end it at a random moment: now and then as it sets up, or else at work."""
    with start(task, workdir) as process:
        if kill % 4 == 3:
            time.sleep(rng.uniform(0, 2.5))
        else:
            wait_for_saves(process, workdir, rng.randrange(4))
            time.sleep(rng.uniform(0, 0.1))
        process.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        _, errors = process.communicate(timeout=120)
    # Orbax warns of what a kill in the middle of a save left behind.
    assert [line for line in errors.splitlines() if not line.startswith("WARNING:absl:")] == []
    assert process.returncode in (-signal.SIGKILL, -signal.SIGTERM, 143)


@pytest.fixture(scope="module", params=list(TINY) if KILLS > 2 else ["moe_lm"])
def training(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Return a training that was killed and repeated until it was done."""
    folder, rng = tmp_path_factory.mktemp("training"), random.Random(KILLS)
    for number in range(KILLS):
        kill(request.param, folder / "killed", number, rng)
    config = TINY[request.param][1](*LONG)
    run(config, folder / "killed")
    run(config, folder / "straight")
    return Training(folder / "killed", folder / "straight")


def test_the_kills_met_a_program_at_work(training: Training) -> None:
    """Most were followed by a run that began later than the one before it, and before the end."""
    starts = [start["step"] for start in json.loads((training.killed / "meta.json").read_text())["starts"]]
    assert starts == sorted(starts)
    assert len(set(starts)) > KILLS / 2
    assert starts[-1] < STEPS


def test_tensorboard_shows_one_uninterrupted_run(training: Training) -> None:
    """Every tag of every kind has the same steps and values, bit for bit, none missing and none doubled."""
    killed, straight = tensorboard_points(training.killed), tensorboard_points(training.straight)
    assert [step for step, _ in straight["scalars", "loss"]] == list(range(STEPS))
    assert killed.keys() == straight.keys()
    for tag, points in straight.items():
        # As text, in which NaN equals NaN and every other float has its own.
        assert repr(killed[tag]) == repr(points), tag


def test_the_data_server_shows_one_uninterrupted_run(training: Training) -> None:
    """In Rust too."""
    tags = sowlog.read(training.straight).scalars
    with data_server(training.killed.parent) as server:

        def shown(tag: str) -> dict[str, tuple[list[int], list[float]]]:
            return {
                run: (series.steps, series.values) for run, series in data_server_series(server, tag).items()
            }

        wait_until(lambda: [len(steps) for steps, _ in shown("loss").values()] == [STEPS, STEPS])
        for tag, series in tags.items():
            runs = shown(tag)
            assert runs["straight"][0] == series.steps.tolist(), tag
            assert repr(runs["killed"]) == repr(runs["straight"]), tag


def test_our_reader_shows_one_uninterrupted_run(training: Training) -> None:
    """The union of the files is the same run."""
    killed, straight = sowlog.read(training.killed), sowlog.read(training.straight)
    assert list(killed.scalars) == list(straight.scalars)
    for tag, (steps, values) in straight.scalars.items():
        assert killed.scalars[tag].steps.tolist() == steps.tolist(), tag
        assert killed.scalars[tag].values.tobytes() == values.tobytes(), tag


def test_the_final_state_is_that_of_an_uninterrupted_run(training: Training) -> None:
    """Parameters, the optimizer's state and every other array, bit for bit."""
    straight = saved_arrays(training.straight, STEPS)
    assert any("params" in path for path in straight)
    assert saved_arrays(training.killed, STEPS) == straight
