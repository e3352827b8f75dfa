import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sowlog
from tests.tensorboard_reading import data_server, data_server_series, tensorboard_points, wait_until
from tests.train.running import ROOT, TINY_DIGITS, TINY_MOE, digits, moe, one_device, run, saved_arrays

# Twenty of each task are run by hand, as each costs seconds; a few of one task in every test run.
KILLS = int(os.environ.get("SOWLOG_RESUMES", "2"))
EVERY = 4
STEPS = 120 * KILLS
LONG = (f"steps={STEPS}", "eval.every=30", f"checkpoint.every={EVERY}")
TINY = {"moe_lm": (TINY_MOE, moe), "digits": (TINY_DIGITS, digits)}


def start(task: str, workdir: Path) -> subprocess.Popen[str]:
    """Run the program on a tiny experiment."""
    command = [sys.executable, "-W", "error", "-m", "train", f"configs/{task}.yaml", *TINY[task][0], *LONG]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir)],
        cwd=ROOT,
        env=one_device(),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def saves(workdir: Path) -> int:
    """Return the step of the newest whole checkpoint, -1 if there is none."""
    return max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()), default=-1)


def wait_for_saves(process: subprocess.Popen[str], workdir: Path, number: int) -> None:
    """Return when the program got on by about as many checkpoints, or ended."""
    enough = saves(workdir) + EVERY * number
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


def assert_met_at_work(killed: Path) -> None:
    """Most kills were followed by a run that began later than the one before it, and before the end."""
    starts = [start["step"] for start in json.loads((killed / "meta.json").read_text())["starts"]]
    assert starts == sorted(starts)
    assert len(set(starts)) > KILLS / 2
    assert starts[-1] < STEPS


def assert_same_in_tensorboard(killed: Path, straight: Path) -> None:
    """Every tag of every kind has the same steps and values, bit for bit, none missing and none doubled."""
    actual, wanted = tensorboard_points(killed), tensorboard_points(straight)
    assert [step for step, _ in wanted["scalars", "loss"]] == list(range(STEPS))
    assert actual.keys() == wanted.keys()
    for tag, points in wanted.items():
        # As text, in which NaN equals NaN and every other float has its own.
        assert repr(actual[tag]) == repr(points), tag


def assert_same_in_data_server(killed: Path, straight: Path) -> None:
    """In Rust too."""
    with data_server(killed.parent) as server:

        def shown(tag: str) -> dict[str, tuple[list[int], list[float]]]:
            return {run: series[:2] for run, series in data_server_series(server, tag).items()}

        wait_until(lambda: [len(steps) for steps, _ in shown("loss").values()] == [STEPS, STEPS])
        for tag, series in sowlog.read(straight).scalars.items():
            runs = shown(tag)
            assert runs[straight.name][0] == series.steps.tolist(), tag
            assert repr(runs[killed.name]) == repr(runs[straight.name]), tag


def assert_same_in_our_reader(killed: Path, straight: Path) -> None:
    """The union of the files is the same run."""
    actual, wanted = sowlog.read(killed).scalars, sowlog.read(straight).scalars
    assert list(actual) == list(wanted)
    for tag, (steps, values) in wanted.items():
        assert actual[tag].steps.tolist() == steps.tolist(), tag
        assert actual[tag].values.tobytes() == values.tobytes(), tag


def assert_same_state(killed: Path, straight: Path) -> None:
    """Parameters, the optimizer's state and every other array, bit for bit."""
    wanted = saved_arrays(straight, STEPS)
    assert any("params" in path for path in wanted)
    assert saved_arrays(killed, STEPS) == wanted


# One test, as each of the workers that shared it would train anew.
@pytest.mark.parametrize("task", list(TINY) if KILLS > 2 else ["digits"])
def test_a_training_killed_and_repeated_until_done_is_one_that_was_not(task: str, tmp_path: Path) -> None:
    """The same series in every reader, and the same final state."""
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    rng = random.Random(KILLS)
    for number in range(KILLS):
        kill(task, killed, number, rng)
    config = TINY[task][1](*LONG)
    run(config, killed)
    run(config, straight)
    assert_met_at_work(killed)
    assert_same_in_tensorboard(killed, straight)
    assert_same_in_data_server(killed, straight)
    assert_same_in_our_reader(killed, straight)
    assert_same_state(killed, straight)
