"""Sweeps of the real program, from its command line."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.hparams_reading import hparams_table
from tests.support.tensorboard_reading import tensorboard_scalars
from tests.support.waiting import wait_until
from tests.train.data.loaders import HERE as LOADERS
from tests.train.running import CONFIGS, PROGRAM, ROOT, TINY_DIGITS, one_device
from train.runs import results

pytestmark = pytest.mark.long

DIGITS = CONFIGS / "digits.yaml"
TINY = (*TINY_DIGITS, f"data.name={LOADERS}:mended", "data.batch_size=2", "task.width=1")
STEPS = 1000
LONG = (f"steps={STEPS}", "eval.every=100", "checkpoint.every=150")


def start_sweep(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    mended = f"data.arguments.mended={tmp_path / 'mended'}"
    command = [*PROGRAM, str(DIGITS), *TINY, mended, *arguments]
    return subprocess.Popen(
        [*command, "--workdir", str(tmp_path / "sweep")],
        cwd=ROOT,
        env=one_device(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    with process:
        out, _ = process.communicate(timeout=120)
    return process.returncode, out


def test_a_killed_sweep_goes_on_and_tries_again_what_failed(tmp_path: Path) -> None:
    """Kill -9 while one point trains and after another has failed; then mended, by the same command."""
    folder = tmp_path / "sweep"
    arguments = (*LONG, "--sweep", "data.arguments.number=1..2", "--jobs", "2")
    points = [folder / f"data.arguments.number={number}" for number in (1, 2)]
    log = points[0] / "output.log"
    with start_sweep(tmp_path, *arguments) as process:
        wait_until(lambda: log.exists() and log.read_text().count("eval/loss") >= 2)
        process.kill()
        out, _ = process.communicate()
    assert "data.arguments.number=2: failed with exit status 1\n" in out
    assert "    RuntimeError: no data for 2\n" in out
    (tmp_path / "mended").touch()
    status, out = end(start_sweep(tmp_path, *arguments))
    assert (status, "2 points, 0 of them finished" in out) == (0, True)
    assert "continues data.arguments.number=2" in out
    assert "stopped by SIGTERM, saved at step" in log.read_text()
    starts = [start["step"] for start in json.loads((points[0] / "meta.json").read_text())["starts"]]
    assert len(starts) == 2
    assert 0 < starts[1] < STEPS
    assert tensorboard_scalars(points[0])["loss"].steps == list(range(STEPS))
    check_table(folder, points, out)


def check_table(folder: Path, points: list[Path], out: str) -> None:
    """TensorBoard's table, the results and the ranking are equal; the settings that differ come first."""
    table = hparams_table(folder)
    assert table.hparams[0] == "data.arguments.number"
    assert set(table.hparams) > {"seed", "task.width", "optimizer.learning_rate"}
    assert set(table.rows) == {point.name for point in points}
    for number, point in enumerate(points, 1):
        found = results.read(point)
        assert found is not None
        assert found.better == "higher"
        row = table.rows[point.name]
        assert (row.hparams["data.arguments.number"], row.status) == (number, "success")
        assert set(row.hparams) == set(table.hparams)
        assert list(found.held_out)[:2] == ["eval/accuracy", "eval/loss"]
        assert {tag: row.metrics[tag] for tag in found.held_out} == pytest.approx(found.held_out)
    best = sorted(points, key=lambda point: results.read(point).rank())
    ranked = [line.split("│")[2].strip() for line in out.splitlines() if "│" in line]
    accuracies = {point.name[-1]: table.rows[point.name].metrics["eval/accuracy"] for point in points}
    assert [accuracies[number] for number in ranked] == [accuracies[point.name[-1]] for point in best]


def test_points_are_submitted_as_jobs(tmp_path: Path) -> None:
    """By submitit's local executor: they train, one fails, and the same command goes on."""
    arguments = ("steps=2", "--sweep", "data.arguments.number=1..2", "--submit", "local")
    status, out = end(start_sweep(tmp_path, *arguments))
    assert status == 1
    assert "finished data.arguments.number=1  eval/accuracy" in out
    assert "data.arguments.number=2: failed with exit status 1\n" in out
    assert "    RuntimeError: no data for 2\n" in out
    assert "not every point is finished; to go on, the same command" in out
    done = tmp_path / "sweep" / "data.arguments.number=1"
    assert hparams_table(tmp_path / "sweep").rows[done.name].hparams["data.arguments.number"] == 1


# A cluster's commands, in a few lines of shell: jobs are processes, each the leader of its group.
SLURM = {
    "sbatch": """
        id=$(($(cat $JOBS/last || echo 100) + 1)); echo $id > $JOBS/last
        # Submitit renames the script once the job is submitted, which may be before the job has begun.
        cp $1 $JOBS/$id.sh
        SLURM_JOB_ID=$id setsid sh $JOBS/$id.sh > $JOBS/$id.out 2>&1 & echo $! > $JOBS/$id
        echo Submitted batch job $id""",
    "srun": """
        while :; do case $1 in --output|--error) shift 2;; -*) shift;; *) break;; esac; done
        exec "$@" """,
    "sacct": """
        echo 'JobID|State|NodeList'
        for id in $(ls $JOBS | grep -x '[0-9]*'); do
            if kill -0 $(cat $JOBS/$id); then echo "$id|RUNNING|here"; else echo "$id|COMPLETED|here"; fi
        done""",
    "scancel": "kill -TERM -$(cat $JOBS/$1)",
}


def test_jobs_of_slurm_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled by Ctrl-C; after kill -9 of the sweep they go on, and the same command waits for them."""
    (tmp_path / "jobs").mkdir()
    for name, body in SLURM.items():
        command = tmp_path / name
        command.write_text(f"#!/bin/sh\n{body}\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(tmp_path / "jobs"))
    arguments = ("steps=2", "--sweep", "data.arguments.number=3", "--submit", "slurm")
    log = tmp_path / "sweep" / "data.arguments.number=3" / "output.log"

    def waits(times: int) -> bool:
        return log.exists() and log.read_text().count("waits for its data") == times

    process = start_sweep(tmp_path, *arguments)
    wait_until(lambda: waits(1))
    process.send_signal(signal.SIGINT)
    status, out = end(process)
    assert (status, "number=3: stopped" in out) == (130, True)
    with start_sweep(tmp_path, *arguments) as process:
        # A job may run before the sweep has noted its number; a sweep that is killed then submits another.
        wait_until(lambda: waits(2) and '"102"' in (log.parent / "job.json").read_text())
        process.kill()
    process = start_sweep(tmp_path, *arguments, "--submit-with", "slurm_partition=large")
    assert process.stdout is not None
    assert "1 points, 0 of them finished" in process.stdout.readline()
    assert process.stdout.readline() == "continues data.arguments.number=3\n"
    (tmp_path / "mended").touch()
    status, out = end(process)
    assert status == 0
    assert "finished data.arguments.number=3" in out
    assert waits(2)
    assert (tmp_path / "jobs" / "last").read_text() == "102\n"
