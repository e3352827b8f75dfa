import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sowlog
from tests.support.light_compilation import compiled_lightly
from tests.support.tensorboard_reading import data_server, data_server_series, tensorboard_points
from tests.support.waiting import wait_until
from tests.train.compiling import compiled_once
from tests.train.running import (
    PROGRAM,
    ROOT,
    TINY_DIGITS,
    TINY_MOE,
    digits,
    is_repeatable,
    moe,
    one_device,
    run,
    saved_arrays,
)

# Thirty of each task by `make faults`, as each costs seconds; a few of one task in every test run.
pytestmark = pytest.mark.long

RESUMES = int(os.environ.get("SOWLOG_RESUMES", "4"))
EVERY = 16
STEPS = 80 * RESUMES
LONG = (f"steps={STEPS}", "eval.every=20", f"checkpoint.every={EVERY}", "ema=0.9", "microbatches=2")
TINY = {"moe_lm": (TINY_MOE, moe), "digits": (TINY_DIGITS, digits)}
TWICE = "Ctrl-C twice"
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, TWICE)


class Program:
    """The program at work on a tiny experiment, as seen from outside."""

    def __init__(self, task: str, workdir: Path):
        self.workdir = workdir
        self._said = workdir.parent / "said"
        command = [
            *PROGRAM,
            f"configs/{task}.yaml",
            *TINY[task][0],
            *LONG,
        ]
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [*command, "--workdir", str(workdir)],
                cwd=ROOT,
                env=one_device(),
                text=True,
                stdout=said,
                stderr=subprocess.PIPE,
            )
        self._begun_with = newest(workdir)

    def said(self) -> str:
        return self._said.read_text()

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Return at once when it got there, or ended."""
        deadline = time.monotonic() + 120
        while self.process.poll() is None and not reached() and time.monotonic() < deadline:
            time.sleep(0.001)

    def is_saving(self, step: str = "*") -> bool:
        return any(self.workdir.glob(f"checkpoints/{step}.part*"))

    def saves(self) -> int:
        """Return about how many checkpoints this process made."""
        return (newest(self.workdir) - self._begun_with) // EVERY


def set_up(program: Program, rng: random.Random) -> None:
    """While it imports, compiles or restores."""
    time.sleep(rng.uniform(0, 3))


def work(program: Program, rng: random.Random) -> None:
    """After some steps."""
    enough = rng.randrange(1, 5)
    program.wait_until(lambda: program.saves() > enough)
    time.sleep(rng.uniform(0, 0.1))


def save(program: Program, rng: random.Random) -> None:
    """In the middle of a checkpoint."""
    enough = rng.randrange(1, 5)
    program.wait_until(lambda: program.saves() > enough and program.is_saving())
    time.sleep(rng.uniform(0, 0.03))


def evaluation(program: Program, rng: random.Random) -> None:
    """When one was just shown, with the next to come."""
    enough = rng.randrange(1, 3)
    program.wait_until(lambda: program.said().count("eval/loss") > enough)


def last_save(program: Program, rng: random.Random) -> None:
    """In the middle of the last checkpoint, after which there is nothing left to train."""
    program.wait_until(lambda: program.is_saving(str(STEPS)))
    time.sleep(rng.uniform(0, 0.02))


MOMENTS = (save, work, evaluation, set_up)


class Fault(NamedTuple):
    """How and when a process is ended."""

    end: signal.Signals | str
    moment: Callable[[Program, random.Random], None]


def faults(rng: random.Random) -> list[Fault]:
    """Return ways to end at moments, all pairs alike, in random order; the last one is at the very end."""
    drawn = [Fault(ENDS[at % 4], MOMENTS[(at + at // 4) % 4]) for at in range(RESUMES - 1)]
    assert len({*drawn}) == min(len(drawn), 16)
    return [*rng.sample(drawn, len(drawn)), Fault(signal.SIGKILL, last_save)]


def newest(workdir: Path) -> int:
    """Return the step of the newest checkpoint, 0 if there is none."""
    return max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()), default=0)


def end(task: str, workdir: Path, fault: Fault, rng: random.Random) -> None:
    """Start the program, and end it at its moment."""
    program = Program(task, workdir)
    with program.process as process:
        fault.moment(program, rng)
        process.send_signal(signal.SIGINT if fault.end == TWICE else fault.end)
        if fault.end == TWICE:
            time.sleep(1.1)  # A second signal within a second is taken for the same request.
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    check_end(program, fault, errors)


def check_end(program: Program, fault: Fault, errors: str) -> None:
    """No fault in the exit status, in the output, and in the folder."""
    status, said = program.process.returncode, program.said()
    if fault.end == signal.SIGKILL:
        assert (errors, status) in [("", -signal.SIGKILL), ("", 0)]
        return
    number = signal.SIGINT if fault.end == TWICE else fault.end
    # Before the program takes the signal itself, Python does: by a traceback for Ctrl-C, and as a kill.
    assert not errors or (number == signal.SIGINT and errors.rstrip().endswith("KeyboardInterrupt")), errors
    assert status in (128 + number, -number), (status, errors)
    if fault.moment is not set_up:
        assert status == 128 + number
        assert re.search(rf"stopped by {number.name}, saved at step {newest(program.workdir)};", said), said


def assert_met_at_work(killed: Path) -> None:
    """Most runs began later than the one before, none before it."""
    starts = [start["step"] for start in json.loads((killed / "meta.json").read_text())["starts"]]
    assert starts == sorted(starts)
    assert len(set(starts)) > RESUMES / 2


def repeatable_scalars(run: Path) -> dict[str, Any]:
    """Return the scalars of a run that the clock of the host does not change."""
    return {tag: points for tag, points in sowlog.read(run).scalars.items() if is_repeatable(tag)}


def assert_same_in_tensorboard(killed: Path, straight: Path) -> None:
    """Every tag of every kind has the same steps and values, bit for bit, none missing and none doubled."""
    actual, wanted = (
        {(kind, tag): points for (kind, tag), points in tensorboard_points(run).items() if is_repeatable(tag)}
        for run in (killed, straight)
    )
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
        for tag, series in repeatable_scalars(straight).items():
            runs = shown(tag)
            assert runs[straight.name][0] == series.steps.tolist(), tag
            assert repr(runs[killed.name]) == repr(runs[straight.name]), tag


def assert_same_in_our_reader(killed: Path, straight: Path) -> None:
    """The union of the files is the same run."""
    actual, wanted = repeatable_scalars(killed), repeatable_scalars(straight)
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
@pytest.mark.timeout(300 + 30 * RESUMES)
@pytest.mark.parametrize("task", list(TINY) if RESUMES > 4 else ["digits"])
def test_a_training_ended_and_repeated_until_done_is_one_that_was_not(task: str, tmp_path: Path) -> None:
    """By kill -9, SIGTERM and Ctrl-C at any moment: the same series in every reader, the same final state."""
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    rng = random.Random(RESUMES)
    config = TINY[task][1](*LONG)
    with compiled_lightly(), compiled_once():
        for fault in faults(rng):
            end(task, killed, fault, rng)
        run(config, killed)
        run(config, straight)
    assert_met_at_work(killed)
    assert_same_in_tensorboard(killed, straight)
    assert_same_in_data_server(killed, straight)
    assert_same_in_our_reader(killed, straight)
    assert_same_state(killed, straight)
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == [
        str(STEPS - EVERY),
        str(STEPS),
    ]
