import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.waiting import wait_until, wait_until_equal
from tests.train.running import ROOT
from tests.train.sweep.points import finish, planned
from train.runs import folder as run_folder
from train.runs import results
from train.runs.results import Results
from train.sweep import run as sweep
from train.sweep import workers
from train.sweep.plan import LOG, Point
from train.sweep.view import SweepLines


def script(point: Point, body: str) -> workers.Process:
    """Start a process that runs a script in the folder of a point."""
    point.path.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**vars(Results(point.config.steps, 5, "", "lower", {"eval/loss": 0.5}))})
    code = (
        f"import os, pathlib, signal, sys, time; folder = pathlib.Path({str(point.path)!r});"
        f"finish = lambda: (folder / 'results.json').write_text({text!r});"
        f"\n{body}"
    )
    return workers.Process([sys.executable, "-S", "-c", code], point.log)


def go(points: list[Point], body: str | dict[str, str], *, jobs: int = 1) -> sweep.Sweep:
    def start(point: Point) -> workers.Process:
        return script(point, body if isinstance(body, str) else body[point.name])

    running = sweep.Sweep(points, start, SweepLines(), jobs=jobs)
    running.run()
    return running


def test_finished_points_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are trained, one after the other, and reported."""
    points = planned(tmp_path, "seed=0..2")
    finish(points[1])
    alone = (
        "assert not (folder.parent / 'on').exists(); on = (folder.parent / 'on'); on.touch(); on.unlink();"
    )
    running = go(points, f"{alone} finish()")
    assert running.unfinished == []
    assert capsys.readouterr().out.splitlines() == [
        *("begins seed=0", "finished seed=0  eval/loss 0.5"),
        *("begins seed=2", "finished seed=2  eval/loss 0.5"),
    ]
    assert go(points, "raise").unfinished == []


def test_results_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    """A disk that lost power may leave an empty file; the point is run again from its checkpoint."""
    (point,) = planned(tmp_path, "seed=0")
    finish(point)
    for text in ("", "{}", "[]", '{"steps": 400}'):
        (point.path / results.FILE).write_text(text)
        assert point.results() is None


def test_a_point_with_an_odd_folder_ends_no_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It fails with a line, after the others are trained."""
    for name in ("seed=0", "seed=1"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed=0" / "config.yaml").touch()
    (tmp_path / "seed=1" / LOG).mkdir()
    (tmp_path / "seed=2").touch()
    points = planned(tmp_path, "seed=0..3")
    bodies = {"seed=0": "sys.exit(2)", "seed=1": "", "seed=2": "", "seed=3": "finish()"}
    assert go(points, bodies).unfinished == points[:3]
    out = capsys.readouterr().out
    assert "seed=0: failed with exit status 2" in out
    assert "seed=1: cannot be begun: [Errno 21] Is a directory: " in out
    assert "seed=2: cannot be begun: [Errno 17] File exists: " in out
    assert "finished seed=3" in out


def test_a_longer_run_is_not_finished(tmp_path: Path) -> None:
    """Results hold the number of steps of the configuration."""
    (point,) = planned(tmp_path, "seed=0", overrides=("steps=5",))
    finish(point)
    (longer,) = planned(tmp_path, "seed=0", overrides=("steps=6",))
    assert point.results() is not None
    assert longer.results() is None


def test_points_run_side_by_side(tmp_path: Path) -> None:
    """As many as asked for: each waits for the other to have begun."""
    points = planned(tmp_path, "seed=0..1")
    body = (
        "(folder / 'on').touch()\nwhile len(list(folder.parent.glob('*/on'))) < 2: time.sleep(0.01)\nfinish()"
    )
    assert go(points, body, jobs=2).unfinished == []


def test_a_failed_point_is_reported_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the last lines of this attempt; a process that ends without results has failed too."""
    points = planned(tmp_path, "seed=0..3")
    points[1].path.mkdir()
    points[1].log.write_text("of an earlier attempt\n")
    bodies = {
        "seed=0": "[print('line', n) for n in range(99)]; sys.exit(5)",
        "seed=1": "os.kill(os.getpid(), signal.SIGKILL)",
        "seed=2": "os.kill(os.getpid(), signal.SIGTERM)",
        "seed=3": "finish()",
    }
    running = go(points, bodies)
    assert running.unfinished == points[:3]
    out = capsys.readouterr().out
    assert "begins seed=0\nseed=0: failed with exit status 5\n" in out
    assert "    line 98\n" in out
    assert "line 83\n" not in out
    assert "earlier attempt" not in out
    assert "continues seed=1\nseed=1: killed by SIGKILL\n" in out
    assert "seed=2: stopped\n" in out
    assert "finished seed=3" in out


def test_a_point_that_another_process_trains_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others come first; then it is taken as the other process left it."""
    points = planned(tmp_path, "seed=0..2")
    held = [run_folder.RunFolder(point.path, point.config) for point in points[:2]]

    def release() -> None:
        wait_until(lambda: points[2].results() is not None)
        finish(points[0], 0.25)
        for folder in held:
            folder.__exit__(None, None, None)

    thread = threading.Thread(target=release)
    thread.start()
    running = go(points, "finish()")
    thread.join()
    assert running.unfinished == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        *("waits for seed=0, which another process trains", "waits for seed=1, which another process trains"),
        *("begins seed=2", "finished seed=2  eval/loss 0.5"),
    ]
    assert lines[4:] == ["finished seed=0  eval/loss 0.25", "begins seed=1", "finished seed=1  eval/loss 0.5"]


SAVING = """
def save(number, frame):
    (folder / "saved").write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
(folder / "ready").touch()
for _ in range(1200):
    time.sleep(0.05)  # briefly: a signal just before a sleep does not shorten it
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_points_which_save(
    tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each once; no further point is begun, and the handlers from before are back."""
    points = planned(tmp_path, "seed=0..3")
    before = signal.getsignal(number)

    def send() -> None:
        wait_until(lambda: len(list(tmp_path.glob("*/ready"))) == 2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    running = go(points, SAVING, jobs=2)
    thread.join()
    assert running.signal == number
    assert [(point.path / "saved").read_text() for point in points[:2]] == [str(int(number))] * 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["begins seed=0", "begins seed=1"]
    # Which of the two processes ends first is up to the system.
    assert sorted(lines[2:]) == ["seed=0: stopped", "seed=1: stopped"]
    assert not points[2].path.exists()
    assert signal.getsignal(number) == before


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="other systems let orphans go on")
def test_a_point_ends_with_a_sweep_that_is_killed(tmp_path: Path) -> None:
    """It is asked to save, as by SIGTERM."""
    (point,) = planned(tmp_path, "seed=0")
    code = (
        f"from pathlib import Path; from tests.train.sweep import test_run as t;"
        f"(point,) = t.planned(Path({str(tmp_path)!r}), 'seed=0'); t.go([point], t.SAVING)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL) as parent:
        wait_until((point.path / "ready").exists)
        parent.kill()
    wait_until((point.path / "saved").exists)
    wait_until_equal(lambda: (point.path / "saved").read_text(), str(int(signal.SIGTERM)))
