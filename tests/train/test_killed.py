import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.train.running import ROOT, TINY_DIGITS, digits, one_device, points, run, saved_arrays

LONG = ("task.width=1", "data.batch_size=2", "steps=4000", "eval.every=400", "checkpoint.every=500")


def start(workdir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "train", "configs/digits.yaml", *TINY_DIGITS, *LONG]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir)],
        cwd=ROOT,
        env=one_device(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end_by(number: signal.Signals, workdir: Path, *, evaluations: int) -> tuple[int, str]:
    """Runs the program, sends it a signal after some evaluations, and gives its exit status and output."""
    with start(workdir) as process:
        assert process.stdout is not None
        lines = []
        while sum("held out" in line for line in lines) < evaluations:
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr and process.stderr.read()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert errors == ""
    return process.returncode, "".join(lines) + rest


def test_a_run_killed_in_every_way_is_bitwise_one_that_was_not(tmp_path: Path) -> None:
    """By kill -9, by SIGTERM, by Ctrl-C, each followed by the same command, until one finishes."""
    workdir = tmp_path / "killed"
    status, _ = end_by(signal.SIGKILL, workdir, evaluations=3)
    assert status == -signal.SIGKILL
    status, output = end_by(signal.SIGTERM, workdir, evaluations=1)
    assert status == 143
    assert "stopped by SIGTERM, saved at step" in output
    status, output = end_by(signal.SIGINT, workdir, evaluations=1)
    assert status == 130
    assert "stopped by SIGINT, saved at step" in output
    run(digits(*LONG), workdir)
    run(digits(*LONG), tmp_path / "straight")
    starts = [start["step"] for start in json.loads((workdir / "meta.json").read_text())["starts"]]
    assert len(starts) == 4
    assert 0 < starts[1] < starts[2] < starts[3] < 4000
    assert points(workdir) == points(tmp_path / "straight")
    assert saved_arrays(workdir, 4000) == saved_arrays(tmp_path / "straight", 4000)
