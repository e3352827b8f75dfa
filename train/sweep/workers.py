"""The workers of a sweep: processes of this machine, or jobs of a cluster by submitit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from train.config.errors import COMMAND_LINE, ConfigError
from train.runs import folder as run_folder
from train.sweep.plan import Point
from train.system import files
from train.system.signals import SIGNALS

CLUSTERS = ("slurm", "local")
INSTALL = "pip install 'sowlog[submit]'"
_STOPPED = {status for number in SIGNALS for status in (-number, 128 + number)}
_JOB = "job.json"
# Minutes of a job without a setting: submitit's own 2 and 5 would end most runs.
_TIMEOUT = 24 * 60
# PR_SET_PDEATHSIG outlives exec. The parent may have been killed before it was set.
_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(128 + signal.SIGTERM)
os.execv(sys.argv[2], sys.argv[2:])
"""
# Slurm may send submitit's own signal (SUBMITIT_PREEMPT_SIGNAL) to all processes of a job: one that saved on
# it and ended would be taken for finished, and not be submitted again.
_LAUNCH_IN_JOB = """
import os, signal, sys
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Process:
    """A point trained by a process of its own on this machine.

    Args:
        command: the command to run.
        log: the file to which its output is appended.
    """

    def __init__(self, command: Sequence[str], log: Path):
        with files.open_regular(log, "ab") as output:
            # In a session of its own, so that Ctrl-C on a terminal reaches it once: through the sweep.
            self._process = subprocess.Popen(
                _until_parent_ends(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Return whether the process is over."""
        return self._process.poll() is not None

    def stop(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def verdict(self) -> str:
        """Return its end, by its exit status."""
        return _verdict(self._process.returncode)


def _until_parent_ends(command: Sequence[str]) -> list[str]:
    """Return a command that runs another, which is asked to save and end should this process be killed.

    Linux alone can do so. Elsewhere a point trains on, and holds the lock of its folder as it does.
    """
    if sys.platform != "linux":
        return list(command)
    # Not as a function that the forked child calls: in a process with threads it might never return.
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command]


def _verdict(status: int) -> str:
    if status in _STOPPED:
        return "stopped"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"failed with exit status {status}"


class Job:
    """A point trained by a job that submitit has submitted.

    Args:
        job: submitit's.
        folder: the point's run folder.
    """

    def __init__(self, job: Any, folder: Path):
        self._job, self._folder = job, folder
        self._is_stopped = False

    def ended(self) -> bool:
        """Return whether the job is over and no process trains in its folder any more."""
        return self._job.done() and not run_folder.is_taken(self._folder)

    def stop(self, number: signal.Signals) -> None:
        """Cancel the job; its point saves."""
        self._is_stopped = True
        self._job.cancel(check=False)

    def verdict(self) -> str:
        """Return its end, by the command's exit status, or else by submitit's state of the job."""
        if self._is_stopped:
            return "stopped"
        problem = self._job.exception()
        if problem is None:
            return _verdict(self._job.result())
        return f"job {self._job.job_id} failed: {problem}"


class Command:
    """The command of a job: a process that saves when the job is preempted, cancelled or out of time.

    Args:
        command: the command to run.
        log: the file to which its output is appended.
        cwd: its working folder.
    """

    def __init__(self, command: Sequence[str], log: Path, cwd: Path):
        self._command, self._log, self._cwd = command, log, cwd
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run it and return its exit status."""
        with files.open_regular(self._log, "ab") as output:
            self._process = process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCH_IN_JOB, *self._command],
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # A cluster may signal all processes of a job, or this one alone, where submitit ignores it.
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            # Not `wait`, which holds a lock that a signal's handler may need.
            while (status := process.poll()) is None:
                time.sleep(0.1)
        except BaseException:
            process.terminate()
            raise
        return status

    def checkpoint(self) -> Any:
        """Let the process save, and return the same command for another job."""
        import submitit.helpers  # noqa: PLC0415 - an extra

        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGTERM)
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        again = Command(self._command, self._log, self._cwd)
        return submitit.helpers.DelayedSubmission(again)


class Cluster:
    """Submits points as jobs, and finds those again that an earlier sweep has submitted.

    Args:
        kind: one of `CLUSTERS`.
        settings: parameters of submitit's executor.
        folder: the folder of submitit's files.

    Raises:
        ConfigError: Submitit is not installed, there is no such cluster, or it has no such parameter.
    """

    def __init__(self, kind: str, settings: Mapping[str, Any], folder: Path):
        try:
            import submitit  # noqa: PLC0415 - an extra
        except ModuleNotFoundError:
            raise ConfigError([f"{COMMAND_LINE}: --submit: needs submitit: {INSTALL}"]) from None
        self._kind = kind
        self._found_again: Any = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[kind]
        try:
            self._executor: Any = submitit.AutoExecutor(folder, cluster=kind)
            self._executor.update_parameters(name="sweep", timeout_min=_TIMEOUT)
            self._executor.update_parameters(**settings)
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
            raise ConfigError([f"{COMMAND_LINE}: --submit {kind}: {error}"]) from None
        self._folder = folder

    def start(self, point: Point, command: Sequence[str]) -> Job:
        """Submit a point, unless its job of an earlier sweep is still there."""
        file = point.path / _JOB
        known = _read_job(file)
        if known is not None and known.kind == self._kind:
            job = self._found_again(self._folder, known.id)
            if not job.done():
                return Job(job, point.path)
        job = self._executor.submit(Command(command, point.log.absolute(), Path.cwd()))
        files.write(file, json.dumps({"kind": self._kind, "id": job.job_id}) + "\n")
        return Job(job, point.path)


class _KnownJob(BaseModel):
    """A submitted job, noted in the folder of its point."""

    kind: str
    id: str


def _read_job(file: Path) -> _KnownJob | None:
    """Return the job of an earlier sweep; None if there is none that can be read."""
    try:
        return _KnownJob.model_validate_json(files.read(file))
    except (OSError, ValueError):
        return None
