import json
import os
import shutil
import subprocess

import pandas as pd
import pytest

from sowlog.testing import read_events
from tests.support.strict_python import STRICT_PYTHON

# Both programs begin with it.
LOGGING = """
import warnings

def warnings_of(log, steps):
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        for step in steps:
            log(step, {"x": float(step)})
            log._background.call(int)
    return [str(each.message) for each in issued]
"""

SCRIPT = """
import json, os, pathlib, sys
from sowlog import Logger

run = pathlib.Path(sys.argv[1]) / "run"
log = Logger(run)
said = {}

def log_all(name, steps):
    said[name] = warnings_of(log, steps)
    try:
        log.flush()
    except Exception as error:
        said[name].append(f"{type(error).__name__}: {error}")

log_all("before", range(3))
run.chmod(0o500)
log_all("read-only", range(3, 6))
run.chmod(0o700)
next(run.iterdir()).unlink()
run.chmod(0o500)
log_all("read-only and deleted", range(6, 9))
try:
    Logger(run)
except OSError as error:
    said["another"] = [type(error).__name__]
run.chmod(0o700)
log_all("after", range(9, 11))
log.close()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def without_roots_rights():
    """Return the prefix of a command that removes root's right to write to every folder."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root writes to every folder, and giving up that right needs setpriv, of util-linux")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def run(program, folder, prefix):
    """Run a program on a folder behind the prefix of a command, and return its output."""
    command = [*prefix, *STRICT_PYTHON, "-c", program, str(folder)]
    child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (child.returncode, child.stderr) == (0, "")
    return child.stdout


def test_a_folder_made_read_only_stops_nothing(tmp_path, without_roots_rights):
    """The open file is still written; a new file waits for the right to write, and no record is lost."""
    said = json.loads(run(LOGGING + SCRIPT, tmp_path, without_roots_rights))
    assert said["before"] == said["read-only"] == said["after"] == []
    warning, late = said["read-only and deleted"]
    assert "TensorBoard stalls at step 6" in warning
    assert "Permission denied" in warning
    assert late.startswith("WriterError: ")
    assert said["another"] == ["PermissionError"]
    assert [point.step for point in read_events(tmp_path / "run")] == list(range(6, 11))


TABLES = """
import json, pathlib, sys
import sowlog
from sowlog.writers import Csv, Parquet

run = pathlib.Path(sys.argv[1]) / "run"
parts = run / "metrics.parquet"
said = {}

def log_all(name, steps, end):
    said[name] = warnings_of(log, steps)
    try:
        end()
    except sowlog.WriterError as error:
        said[name].append([error.lost, error.late, str(error)])

def set_mode(mode):
    for folder in run, parts:
        folder.chmod(mode)

def open_both(**options):
    return sowlog.Logger("unused", writers=[writer(run, **options) for writer in (Csv, Parquet)])

log = open_both()
log_all("before", range(3), log.flush)
set_mode(0o500)
log_all("read-only", range(3, 6), log.flush)
set_mode(0o700)
log_all("after", range(6, 7), log.flush)
set_mode(0o500)
log_all("end", range(7, 9), log.close)
try:
    Parquet(run)
except OSError as error:
    said["another"] = type(error).__name__
set_mode(0o700)
log = open_both()
(run / "metrics.csv").unlink()
for part in parts.iterdir():
    part.unlink()
parts.rmdir()
run.chmod(0o500)
log_all("read-only and deleted", range(9, 11), lambda: None)
run.chmod(0o700)
log_all("space", range(11, 12), log.close)
print(json.dumps(said))
"""


def test_tables_in_a_folder_made_read_only_lose_nothing_uncounted(tmp_path, without_roots_rights):
    """The open Csv is still written; a part of Parquet waits, and a close counts what has not reached one."""
    said = json.loads(run(LOGGING + TABLES, tmp_path, without_roots_rights))
    assert said["before"] == said["after"] == said["space"] == []
    ((lost, late, message),) = said["read-only"]
    assert (lost, late) == (0, 3)
    assert "3 records are not in" in message
    assert "Permission denied" in message
    ((lost, late, message),) = said["end"]
    assert (lost, late) == (2, 0)
    assert "Parquet.close() failed: DeliveryError: 2 records are not in" in message
    assert said["another"] == "PermissionError"
    assert [warning.split(":")[0] for warning in said["read-only and deleted"]] == [
        "Csv stalls at step 9",
        "Parquet stalls at step 9",
    ]
    frames = (
        pd.read_csv(tmp_path / "run" / "metrics.csv"),
        pd.read_parquet(tmp_path / "run" / "metrics.parquet"),
    )
    assert [frame["step"].tolist() for frame in frames] == [[9, 10, 11]] * 2


SPOOL = """
import pathlib, sys
from sowlog import Logger
from sowlog.testing import MemoryWriter
from sowlog.writers import Spooled

run = pathlib.Path(sys.argv[1]) / "run"
for mode in 0o500, 0o700:
    memory = MemoryWriter()
    log = Logger("unused", writers=[Spooled(memory, run / "spool")])
    log(0, {"x": 1.0})
    run.chmod(mode)
    log(1, {"x": 2.0})
    log.close()
    print([record.step for record in memory.records], (run / "spool").exists())
    run.chmod(0o700)
"""


def test_a_spool_in_a_folder_made_read_only_closes(tmp_path, without_roots_rights):
    """Its empty file stays, and the next spool begins with it."""
    output = run(SPOOL, tmp_path, without_roots_rights)
    assert output.splitlines() == ["[0, 1] True", "[0, 1] False"]
