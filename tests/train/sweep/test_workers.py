import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from train.sweep.workers import Command

SAVING = """
import pathlib, signal, sys, time
def save(number, frame):
    print("saved", number, flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, save)
pathlib.Path("ready").touch()
for _ in range(1200):
    time.sleep(0.05)  # briefly: a signal just before a sleep does not shorten it
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A job sets handlers of signals for itself; here they are restored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def command(folder: Path, body: str) -> Command:
    return Command([sys.executable, "-S", "-c", body], folder / "log", folder)


def signal_when_ready(folder: Path, number: signal.Signals) -> threading.Thread:
    def send() -> None:
        wait_until((folder / "ready").exists)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_a_job_runs_its_command_where_it_was_submitted(tmp_path: Path) -> None:
    """Its output is appended, and its exit status returned."""
    (tmp_path / "log").write_text("before\n")
    status = command(tmp_path, "import os, sys; print(os.getcwd(), flush=True); sys.exit(5)")()
    assert status == 5
    assert (tmp_path / "log").read_text() == f"before\n{tmp_path}\n"


def test_a_cancelled_job_lets_its_command_save(tmp_path: Path) -> None:
    """Where the cluster signals the job alone, by SIGTERM, which submitit would ignore."""
    thread = signal_when_ready(tmp_path, signal.SIGTERM)
    status = command(tmp_path, SAVING)()
    thread.join()
    assert (status, (tmp_path / "log").read_text()) == (143, "saved 15\n")


def test_a_preempted_job_saves_and_is_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As submitit asks it to, in the handler of a signal that may reach the command too."""
    # Read when it is imported: its log would go to this test's standard output.
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    job = command(tmp_path, SAVING)
    again = []

    def preempt(*_: object) -> None:
        assert job._process is not None
        os.kill(job._process.pid, signal.SIGUSR2)
        again.append(job.checkpoint().function)
        # Saved by then, since a job that is submitted again may begin elsewhere at once.
        assert (tmp_path / "log").read_text() == "saved 15\n"

    signal.signal(signal.SIGUSR2, preempt)
    thread = signal_when_ready(tmp_path, signal.SIGUSR2)
    status = job()
    thread.join()
    assert (status, (tmp_path / "log").read_text()) == (143, "saved 15\n")
    (tmp_path / "ready").unlink()
    thread = signal_when_ready(tmp_path, signal.SIGTERM)
    assert again[0]() == 143
    thread.join()
    assert (tmp_path / "log").read_text() == "saved 15\nsaved 15\n"
