import json
import shutil
import subprocess
from pathlib import Path

import pytest

import sowlog
from tests.faults.fill_disk import QUEUE_SIZE
from tests.support.strict_python import STRICT_PYTHON
from tests.support.tensorboard_reading import tensorboard_scalars

# A mount namespace with root's rights, which ends with the process, so nothing stays mounted.
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
    """Return the warnings and errors of a logger on a small disk by phase; its files are in the folder."""
    command = [*ALONE, *STRICT_PYTHON, "-m", "tests.faults.fill_disk", str(folder)]
    child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (child.returncode, child.stderr) == (0, "")
    return json.loads(child.stdout)


def shown(folder: Path) -> list[int]:
    """Return the steps that TensorBoard shows, after a check that every tag has them with its values."""
    series = tensorboard_scalars(folder)
    assert len(series) == 100
    steps = series["weight000"].steps
    for points in series.values():
        assert points[:2] == (steps, [step + 1 for step in steps])
    return steps


def test_training_goes_on_over_a_full_disk_with_one_warning(said: dict[str, list[str]]) -> None:
    """The first record that does not fit issues it; flush reports the late records, and none is lost."""
    warning, late = said["full"]
    assert said["before"] == []
    assert "TensorBoard stalls at step 1" in warning
    assert "No space left on device" in warning
    assert "records yet, at steps 1" in late
    assert "to 39: " in late


def test_a_file_on_a_full_disk_ends_in_a_whole_record(said: dict[str, list[str]], folder: Path) -> None:
    """The records that fit are whole, and the record torn at the end of the last page is truncated."""
    run = sowlog.read(folder / "full")
    assert run.damage == ()
    steps = shown(folder / "full")
    assert steps == list(range(len(steps)))
    assert 10 <= len(steps) < 40


def test_all_is_written_once_there_is_space(said: dict[str, list[str]], folder: Path) -> None:
    """The pending records within the bound are written, then later ones, and flush returns."""
    assert said["space"] == []
    assert shown(folder / "space") == list(range(50))


def test_losses_of_a_full_disk_are_reported_to_the_record(said: dict[str, list[str]], folder: Path) -> None:
    """Beyond the bound the oldest are lost; flush reports their number and steps, once."""
    _, late, lost = said["full again"]
    written = shown(folder / "end")
    gone = sorted(set(range(210)) - set(written))
    assert 80 < len(gone) <= 150 - QUEUE_SIZE
    assert gone == list(range(gone[0], gone[-1] + 1))
    assert f"could not write {QUEUE_SIZE} records yet, at steps {200 - QUEUE_SIZE} to 199" in late
    assert f"lost {len(gone)} records, at steps {gone[0]} to {gone[-1]}" in lost
    assert "No space left on device" in lost
    assert said["space again"] == []


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list]]:
    """Return the messages and files of a logger to Csv and Parquet on a small disk, by phase."""
    folder = tmp_path_factory.mktemp("tables")
    require_small_disk(folder)
    command = [*ALONE, *STRICT_PYTHON, "-m", "tests.faults.fill_tables", str(folder)]
    child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (child.returncode, child.stderr) == (0, "")
    return json.loads(child.stdout)


def test_tables_on_a_full_disk_have_whole_records_and_later_all(tables: dict[str, dict[str, list]]) -> None:
    """The records that do not fit are late; once there is space each is in both tables, once."""
    full, space = tables["full"], tables["space"]
    assert full["csv"] == list(range(len(full["csv"])))
    assert 4 <= len(full["csv"]) < 12
    assert full["parquet"] == [0, 1, 2, 3]
    stall, late = full["said"][:2]
    assert stall.startswith(f"Csv stalls at step {len(full['csv'])}: ")
    assert late.startswith(f"0 {12 - len(full['csv']) + 8} Csv could not write")
    assert space == {"said": [], "csv": list(range(14)), "parquet": list(range(14))}


def test_losses_of_tables_on_a_full_disk_are_counted(tables: dict[str, dict[str, list]]) -> None:
    """Each record that is in no table is in the number of flush or of close; a resumed run begins whole."""
    said = tables["full again"]["said"] + tables["end"]["said"]
    # An error begins with its number.
    lost = sum(int(message.split()[0]) for message in said if message[0].isdigit())
    written = len(tables["end"]["csv"]) + len(tables["end"]["parquet"])
    assert lost == 2 * 42 - written
    assert tables["end"]["parquet"] == list(range(14))
    for name in ("csv", "parquet"):
        kept = [step for step in tables["end"][name] if step < 20]
        assert tables["continued"][name] == [*kept, *range(20, 24)]
    assert tables["continued"]["said"] == []
