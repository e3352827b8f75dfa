"""Fixtures for real faults: child processes, full disks, signals."""

import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.strict_python import STRICT_PYTHON


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs Python code in a child; `logdir` is defined there."""

    def run(code: str) -> subprocess.CompletedProcess:
        script = f"logdir = {str(tmp_path)!r}\n" + textwrap.dedent(code)
        command = [*STRICT_PYTHON, "-c", script]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)

    return run
