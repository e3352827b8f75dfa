import json
import os
import shutil
import subprocess

import pytest

from sowlog.testing import read_events
from tests.support.strict_python import STRICT_PYTHON

SCRIPT = """
import json, os, pathlib, sys, warnings
from sowlog import Logger

run = pathlib.Path(sys.argv[1]) / "run"
log = Logger(run)
said = {}

def log_all(name, steps):
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        for step in steps:
            log(step, {"x": float(step)})
            log._background.call(int)
    said[name] = [str(each.message) for each in issued]
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


def test_a_folder_made_read_only_stops_nothing(tmp_path, without_roots_rights):
    """The open file is still written; a new file waits for the right to write, and no record is lost."""
    command = [*without_roots_rights, *STRICT_PYTHON, "-c", SCRIPT, str(tmp_path)]
    child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (child.returncode, child.stderr) == (0, "")
    said = json.loads(child.stdout)
    assert said["before"] == said["read-only"] == said["after"] == []
    warning, late = said["read-only and deleted"]
    assert "TensorBoard stalls at step 6" in warning
    assert "Permission denied" in warning
    assert late.startswith("WriterError: ")
    assert said["another"] == ["PermissionError"]
    assert [point.step for point in read_events(tmp_path / "run")] == list(range(6, 11))
