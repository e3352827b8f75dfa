"""A compilation cache that another process was writing when it was killed."""

import subprocess

import pytest

from tests.support.strict_python import STRICT_PYTHON

SCRIPT = "import jax; print(jax.jit(lambda x: 2 * x + 1)(3.0))"


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_a_program_of_which_the_cache_has_a_part_is_compiled_without_a_word(tmp_path, monkeypatch, part):
    """Otherwise each test could fail, as the workers of a test run share one cache."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    command = [*STRICT_PYTHON, "-c", SCRIPT]
    assert subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout == "7.0\n"
    entries = list(tmp_path.glob("*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[: int(part * entry.stat().st_size)])
    child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (child.returncode, child.stdout, child.stderr) == (0, "7.0\n", "")
