import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sowlog
from tests.faults.fill_disk import QUEUE_SIZE
from tests.support.tensorboard_reading import tensorboard_scalars

# Root's rights over mounts, in a namespace that ends with the process: nothing stays mounted.
ALONE = ["unshare", "--user", "--map-root-user", "--mount"]


def require_small_disk(folder: Path) -> None:
    """Skip a test unless a tmpfs can be mounted on the folder."""
    if shutil.which("unshare") is None:
        pytest.skip("a small disk needs unshare, of util-linux")
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    mounted = subprocess.run([*ALONE, *mount], check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.strip()}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that a tmpfs can be mounted in."""
    folder = tmp_path_factory.mktemp("small")
    require_small_disk(folder)
    return folder


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, list[str]]:
    """Return what a logger on a small disk said, by phase; its files are then in the folder."""
    command = [*ALONE, sys.executable, "-W", "error", "-m", "tests.faults.fill_disk", str(folder)]
    child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (child.returncode, child.stderr) == (0, "")
    return json.loads(child.stdout)


def shown(folder: Path) -> list[int]:
    """Return the steps that TensorBoard shows, the same for every tag, each with its own value."""
    series = tensorboard_scalars(folder)
    assert len(series) == 100
    steps = series["weight000"].steps
    for points in series.values():
        assert points[:2] == (steps, [step + 1 for step in steps])
    return steps


def test_training_goes_on_over_a_full_disk_with_one_warning(said: dict[str, list[str]]) -> None:
    """It is issued when a record does not fit; flush says how many are late, and nothing is lost yet."""
    warning, late = said["full"]
    assert said["before"] == []
    assert "TensorBoardWriter stalls at step 1" in warning
    assert "No space left on device" in warning
    assert "records yet, at steps 1" in late
    assert "to 39: " in late


def test_a_file_on_a_full_disk_ends_in_a_whole_record(said: dict[str, list[str]], folder: Path) -> None:
    """What fits the last page is there, and the record that tears at its end is cut off."""
    run = sowlog.read(folder / "full")
    assert run.damage == ()
    steps = shown(folder / "full")
    assert steps == list(range(len(steps)))
    assert 10 <= len(steps) < 40


def test_all_is_written_once_there_is_space(said: dict[str, list[str]], folder: Path) -> None:
    """What waited within the bound, then what came after it; flush is content."""
    assert said["space"] == []
    assert shown(folder / "space") == list(range(50))


def test_what_a_full_disk_cost_is_said_to_the_record(said: dict[str, list[str]], folder: Path) -> None:
    """Beyond the bound the oldest go; flush tells how many and which, once, and every other step is there."""
    _, late, lost = said["full again"]
    written = shown(folder / "end")
    gone = sorted(set(range(210)) - set(written))
    assert 80 < len(gone) <= 150 - QUEUE_SIZE
    assert gone == list(range(gone[0], gone[-1] + 1))
    assert f"could not write {QUEUE_SIZE} records yet, at steps {200 - QUEUE_SIZE} to 199" in late
    assert f"lost {len(gone)} records, at steps {gone[0]} to {gone[-1]}" in lost
    assert "No space left on device" in lost
    assert said["space again"] == []
