"""Runs of two real processes on this machine, each with one device."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tests.train.data.loaders import HERE as LOADERS
from tests.train.parallel.test_devices import DIGITS, assert_same_points, assert_same_state
from tests.train.running import PROGRAM, ROOT, TINY_DIGITS, digits, one_device, run
from train import __main__ as program
from train.runs import folder as run_folder

# So long that a signal comes before the end; the longest wait of a test is that for two processes to compile.
pytestmark = pytest.mark.long

STEPS = 60
LONG = (*DIGITS, f"steps={STEPS}", "eval.every=30", "checkpoint.every=10", "optimizer.learning_rate=3e-3")
SECONDS = 240

Ended = tuple[int, str, str]
"""Exit status, output and errors of a process."""


class Pair:
    """Two processes of one run.

    Args:
        arguments: of both.
        second: more arguments of process 1.
    """

    def __init__(self, *arguments: str, second: Sequence[str] = ()):
        group = ("--coordinator", f"localhost:{free_port()}", "--num-processes", "2", "--process-id")
        command = [
            *PROGRAM,
            "configs/digits.yaml",
            *TINY_DIGITS,
            *arguments,
        ]
        self.processes = [
            start([*command, *more, *group, str(number)]) for number, more in enumerate(((), second))
        ]

    def end(self) -> list[Ended]:
        return ended(self.processes)

    def stop_second(self, workdir: Path, step: int) -> list[Ended]:
        """Send SIGTERM to process 1 once a checkpoint of that step or a later one is there."""
        wait_until(lambda: self.has_ended() or newest(workdir) >= step, seconds=SECONDS)
        self.processes[1].send_signal(signal.SIGTERM)
        return self.end()

    def has_ended(self) -> bool:
        return any(process.poll() is not None for process in self.processes)


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=one_device(), text=True, **pipes)


def ended(started: Iterable[subprocess.Popen[str]]) -> list[Ended]:
    """Wait for processes that are all started; kill those that hang."""
    processes = list(started)
    try:
        outputs = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        (process.returncode, without_gloo(out), errors)
        for process, (out, errors) in zip(processes, outputs, strict=True)
    ]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def without_gloo(out: str) -> str:
    """Drop the lines that the CPU's collectives print."""
    return "".join(line for line in out.splitlines(keepends=True) if not line.startswith("[Gloo]"))


def newest(workdir: Path) -> int:
    folders = workdir.glob("checkpoints/*")
    return max((int(folder.name) for folder in folders if folder.name.isdigit()), default=0)


def test_two_processes_that_were_stopped_go_on_to_what_one_device_gives(tmp_path: Path) -> None:
    """SIGTERM to one ends both, saved at one step; process 0 alone writes events, files and its output.

    The newest checkpoint is then cut off, and both go on from the one before it.
    """
    workdir = tmp_path / "two"
    arguments = (*LONG, "--workdir", str(workdir))
    first, second = Pair(*arguments).stop_second(workdir, 10)
    assert (first[0], second) == (143, (143, "", ""))
    (saved,) = re.findall(r"stopped by SIGTERM, saved at step (\d+)", first[1])
    assert newest(workdir) == int(saved) < STEPS
    # With the sizes missing too, both processes find the damage, each as it reads.
    (workdir / "checkpoints" / saved / "files.json").unlink()
    for file in (workdir / "checkpoints" / saved / "default").rglob("d/*"):
        os.truncate(file, 10)

    first, second = Pair(*arguments).end()
    assert (first[0], second) == (0, (0, "", ""))
    assert re.fullmatch(rf"warning: the checkpoint .*/{saved} cannot be read: .*\n", first[2])
    assert first[1].startswith(f"continues {workdir}\n")
    assert len(list(workdir.glob("events.out.tfevents.*"))) == 2
    starts = json.loads((workdir / "meta.json").read_text())["starts"]
    assert [start["devices"] for start in starts] == [["cpu", "cpu"]] * 2
    assert 0 < starts[1]["step"] < int(saved)

    run(digits(*LONG), tmp_path / "one")
    # Training amplifies rounding: 1.4e-4 of one norm was seen in 100 steps.
    assert_same_points(tmp_path / "one", workdir, share=1e-3)
    assert_same_state(tmp_path / "one", workdir, STEPS)


def test_two_processes_whose_loaders_stall_are_saved_on_a_signal_to_one(tmp_path: Path) -> None:
    """At the step that both wait for, in seconds."""
    workdir, own = tmp_path / "run", (f"data.name={LOADERS}:stalling", f"data.arguments.folder={tmp_path}")
    own += ("data.eval_batches=1",)
    pair = Pair(*own, "--workdir", str(workdir))
    wait_until(lambda: pair.has_ended() or len(list(tmp_path.glob("stalled-*"))) == 2, seconds=SECONDS)
    begun = time.monotonic()
    pair.processes[1].send_signal(signal.SIGUSR1)
    first, second = pair.end()
    status = 128 + signal.SIGUSR1
    assert (first[0], second) == (status, (status, "", ""))
    assert "stopped by SIGUSR1, saved at step 7" in first[1]
    assert newest(workdir) == 7
    assert time.monotonic() - begun < 60


def test_a_process_that_fails_leaves_no_other_waiting() -> None:
    """It reports the cause and ends at once; the other, in a collective, ends too."""
    code = (
        "import sys, numpy, jax.experimental.multihost_utils as others\n"
        "from train.parallel import joining, processes\n"
        "number = int(sys.argv[1])\n"
        f"with joining.joined(processes.Group('localhost:{free_port()}', number, 2)):\n"
        "    others.process_allgather(numpy.zeros(1))\n"
        "    if number:\n        raise RuntimeError('out of luck')\n"
        "    others.process_allgather(numpy.zeros(1))"
    )
    first, second = ended(start([sys.executable, "-c", code, str(number)]) for number in (0, 1))
    assert first[0] not in (0, None)
    assert (second[0], second[2].splitlines()[-1]) == (1, "RuntimeError: out of luck")


def test_processes_that_do_not_train_the_same_are_refused(tmp_path: Path) -> None:
    """Both end with status 2, and neither waits for the other in a step."""
    first, second = Pair("--workdir", str(tmp_path / "run"), second=["seed=1"]).end()
    line = (
        "command line: the configurations of the processes differ; "
        "start all with the same arguments, on the same files.\n"
    )
    assert (first, second) == ((2, "", line), (2, "", line))
    assert not (tmp_path / "run").exists()


def test_processes_whose_function_draws_other_data_are_refused(tmp_path: Path) -> None:
    """With the seed that it lacks."""
    own = (f"data.name={LOADERS}:drawn", "--workdir", str(tmp_path / "run"))
    first, second = Pair(*own).end()
    line = (
        "command line: the data of the processes differ; start all with the same arguments, on the same "
        "files, with a fixed seed where a function draws or shuffles it.\n"
    )
    assert (first, second) == ((2, "", line), (2, "", line))


def test_a_folder_that_process_0_cannot_have_is_refused_by_both(tmp_path: Path) -> None:
    """The other learns of it, with the reason."""
    with run_folder.RunFolder(tmp_path, digits()):
        first, second = Pair("--workdir", str(tmp_path)).end()
    line = f"another process trains in {tmp_path}; wait for it, or give another --workdir.\n"
    assert (first, second) == ((2, "", line), (2, "", line))


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_whose_peers_do_not_join_reports_it(number: int) -> None:
    """In a line, after a bounded time, where JAX would end with a stack of C++."""
    code = (
        "from train.parallel import joining, processes\n"
        f"group = processes.Group('localhost:{free_port()}', {number}, 2)\n"
        "with joining.joined(group, seconds=1):\n    pass"
    )
    ((status, out, errors),) = ended([start([sys.executable, "-c", code])])
    assert (status, out) == (1, "")
    assert re.fullmatch(
        r"command line: the processes at localhost:\d+ did not all meet within 1 s; start each, .*\n",
        errors,
    )


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            "--coordinator h:1",
            "--coordinator, --num-processes and --process-id belong together; "
            "add --num-processes and --process-id",
        ),
        (
            "--process-id 0 --num-processes 2",
            "--coordinator, --num-processes and --process-id belong together; add --coordinator",
        ),
        (
            "--coordinator h:1 --process-id 2 --num-processes 2",
            '--process-id: of 2 processes, must be 0 to 1, got "2"',
        ),
        (
            "--coordinator h:1 --process-id=-1 --num-processes 2",
            '--process-id: of 2 processes, must be 0 to 1, got "-1"',
        ),
        (
            "--coordinator h:1 --process-id 0 --num-processes 0",
            '--num-processes: must be a whole number >= 1, got "0"',
        ),
        (
            "--coordinator h --process-id 0 --num-processes 1",
            '--coordinator: must be HOST:PORT, such as localhost:7700, got "h"',
        ),
        (
            "--coordinator h:70000 --process-id 0 --num-processes 1",
            '--coordinator: must be HOST:PORT, such as localhost:7700, got "h:70000"',
        ),
        (
            "--cluster --sweep seed=0,1",
            "--sweep is for one process; leave out --coordinator, --process-id, --num-processes and "
            "--cluster",
        ),
        ("--cluster --process-id 1", "--cluster finds --process-id by itself; leave out one of the two"),
    ],
)
def test_an_error_in_the_flags_is_one_line(flags: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With status 2, before the data is read."""
    assert program.main([str(ROOT / "configs/digits.yaml"), *flags.split()]) == 2
    assert capsys.readouterr().err == f"command line: {line}.\n"
