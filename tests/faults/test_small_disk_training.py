import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.test_small_disk import ALONE, require_small_disk
from tests.train.running import ROOT, digits, one_device, points, run, saved_arrays

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("light_compilation")]

STEPS = ("steps=16",)


def train(
    folder: Path, fill_at: int, empty_at: int, *settings: str, free: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the program on a small disk that is full from one step to another."""
    program = [sys.executable, "-m", "tests.faults.train_on_small_disk", str(folder)]
    command = [*ALONE, *program, str(fill_at), str(empty_at), str(free), *STEPS, *settings]
    return subprocess.run(
        command, cwd=ROOT, env=one_device(), check=False, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with room enough."""
    folder = tmp_path_factory.mktemp("straight")
    require_small_disk(folder)
    run(digits(*STEPS), folder)
    return folder


def test_training_goes_on_over_a_full_disk_and_misses_nothing(tmp_path: Path, straight: Path) -> None:
    """One checkpoint is not saved, which a warning tells; the next one is, and the finished run is whole."""
    done = train(tmp_path, 5, 10)
    warning, *others = [line for line in done.stderr.splitlines() if "stalls" not in line]
    assert (done.returncode, others) == (0, [])
    assert warning.startswith("warning: step 8 is not saved: ")
    assert "No space left on device" in warning
    assert warning.endswith(
        "Training goes on; the last checkpoint is of step 4, and the next is tried at step 12."
    )
    assert points(tmp_path / "run") == points(straight)
    assert saved_arrays(tmp_path / "run", 16) == saved_arrays(straight, 16)


def test_a_run_that_ends_on_a_full_disk_reports_missing_parts_and_goes_on_later(
    tmp_path: Path, straight: Path
) -> None:
    """With status 1 and lines, no traceback; the same command with space makes it whole."""
    done = train(tmp_path, 5, -1)
    *_, last, lost, again = done.stderr.splitlines()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert last.startswith("error: step 16 is not saved: ")
    assert last.endswith("the last checkpoint is of step 4.")
    assert lost.startswith("error: TensorBoard lost ")
    assert again == "to try again, the same command"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]
    assert not (tmp_path / "run" / "results.json").exists()
    assert train(tmp_path, -1, -1).returncode == 0
    assert points(tmp_path / "run") == points(straight)
    assert saved_arrays(tmp_path / "run", 16) == saved_arrays(straight, 16)


def test_a_disk_that_fills_during_a_save_has_its_error_once(tmp_path: Path) -> None:
    """Some files of the checkpoint fit. Orbax also logs the error that it raises, with a traceback."""
    require_small_disk(tmp_path)
    done = train(tmp_path, 5, -1, "steps=7", free=20480)
    assert done.returncode == 1
    line, again = done.stderr.splitlines()
    assert line.startswith("error: step 7 is not saved: ")
    assert "RESOURCE_EXHAUSTED" in line
    assert again == "to try again, the same command"


def test_points_that_had_to_be_given_up_end_a_run_with_status_1(tmp_path: Path, straight: Path) -> None:
    """Beyond the logger's bound, where no save comes in between: the run is saved, and reports its losses."""
    done = train(tmp_path, 5, 1500, "steps=1600", "eval.every=5000", "checkpoint.every=5000")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1
    assert len(errors) == 1
    assert "TensorBoard lost " in errors[0]
    assert saved_arrays(tmp_path / "run", 1600)
