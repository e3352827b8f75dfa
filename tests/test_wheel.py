import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_BUILD = "import sys; from hatchling import build; print(getattr(build, sys.argv[1])(sys.argv[2]))"


@pytest.fixture(name="build")
def _build(tmp_path: Path):
    """Return a function that builds a wheel of the working tree and opens it."""

    def build(hook: str) -> zipfile.ZipFile:
        command = [sys.executable, "-c", _BUILD, hook, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return zipfile.ZipFile(tmp_path / done.stdout.split()[-1])

    return build


def test_the_wheel_holds_sowlog_alone(build):
    """An installed package called `train` would hide the folder of that name in a user's project."""
    with build("build_wheel") as wheel:
        names = wheel.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"sowlog"}
    sources = {str(file.relative_to(ROOT)) for file in (ROOT / "sowlog").rglob("*.py")}
    assert sources | {"sowlog/py.typed"} <= set(names)


def test_an_editable_install_finds_the_program(build):
    """It puts the working tree on Python's path, where `train` lies beside `sowlog`."""
    with build("build_editable") as wheel:
        (paths,) = [name for name in wheel.namelist() if name.endswith(".pth")]
        assert wheel.read(paths).decode().split() == [str(ROOT)]
