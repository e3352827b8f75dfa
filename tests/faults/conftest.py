"""Fixtures for real faults: child processes, full disks, signals."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs Python code in a child; `logdir` is defined there."""

    def run(code: str) -> subprocess.CompletedProcess:
        script = f"logdir = {str(tmp_path)!r}\n" + textwrap.dedent(code)
        command = [sys.executable, "-W", "error", "-c", script]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)

    return run
