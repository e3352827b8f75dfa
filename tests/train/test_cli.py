import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.running import CONFIGS, PROGRAM, ROOT, TINY_DIGITS
from train import __main__ as program
from train import report, runtime


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["steps=x"], 'command line: steps: must be a whole number, got "x"'),
        (["steps=1", "nonsense"], "command line: nonsense: not of the form key=value"),
        (["nothing.yaml"], "nothing.yaml: no such file"),
        (["--stepz=1"], "command line: --stepz=1: unknown option; settings have no dashes: stepz=1"),
        (["--work", "here"], "command line: --work: unknown option"),
        (["data.path=/no/such/text"], "data.path=/no/such/text: no such file or folder"),
        (["--workdir", "/proc/nowhere"], "the run folder /proc/nowhere cannot be used"),
    ],
)
def test_a_mistake_is_told_with_status_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, without a traceback; nothing is left behind."""
    assert program.main(arguments) == 2
    out, err = capsys.readouterr()
    assert line in err
    assert "Traceback" not in err
    assert out == ""


def test_a_prefix_of_an_option_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    """`--workdi` is a mistake, not --workdir."""
    assert program.main(["--workdi=/tmp/x"]) == 2
    assert "--workdi=/tmp/x: unknown option" in capsys.readouterr().err


def parsed(*arguments: str) -> tuple[str | None, Path, list[str]]:
    options, file, overrides = program._parse(program._parser(), arguments)
    return options.workdir, file, overrides


def test_options_and_settings_come_in_any_order() -> None:
    """The first argument without an equals sign is the file."""
    expected = ("here", CONFIGS / "digits.yaml", ["steps=1", "seed=2"])
    file = str(CONFIGS / "digits.yaml")
    assert parsed(file, "steps=1", "--workdir", "here", "seed=2") == expected
    assert parsed("--workdir=here", file, "steps=1", "seed=2") == expected


def test_the_default_config_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the working folder first, then from beside the package."""
    monkeypatch.chdir(ROOT)
    assert parsed() == (None, Path("configs/moe_lm.yaml"), [])
    monkeypatch.chdir(tmp_path)
    assert parsed("steps=1") == (None, CONFIGS / "moe_lm.yaml", ["steps=1"])


def test_a_piped_run_reads_as_plain_lines(tmp_path: Path) -> None:
    """From another folder, warnings as errors: lines without control codes, a table, and where to look."""
    command = [*PROGRAM, "configs/digits.yaml", *TINY_DIGITS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"digits-\d{8}-\d{6}", folder.name)
    lines = done.stdout.splitlines()
    assert lines[0] == f"run runs/{folder.name}"
    assert re.fullmatch(r"step 0/12  held out: accuracy 0\.\d+  loss \d\.\d+", lines[1])
    assert any(re.search(r"accuracy .* [01]\S* .* 0\.\d+", line) for line in lines[2:])
    assert lines[-1] == f"tensorboard --logdir runs/{folder.name}"


@pytest.mark.parametrize("arguments", [["--help"], ["configs/digits.yaml", *TINY_DIGITS]])
def test_a_reader_that_leaves_ends_nothing(arguments: list[str], tmp_path: Path) -> None:
    """As in `python -m train ... | head -1`: no traceback, and a run goes on to its end."""
    command = [sys.executable, "-m", "train", *arguments, "--workdir", str(tmp_path / "run")]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as left:
        done = subprocess.run(
            command, stdout=left, stderr=subprocess.PIPE, cwd=ROOT, check=False, timeout=100
        )
    assert (done.stderr, done.returncode) == (b"", 0)
    assert (tmp_path / "run" / "results.json").exists() == ("--help" not in arguments)


def test_a_run_on_a_terminal_is_live(tmp_path: Path) -> None:
    """With a bar that makes room for the table."""
    terminal, child = pty.openpty()
    command = [sys.executable, "-m", "train", "configs/digits.yaml", *TINY_DIGITS, "--workdir", str(tmp_path)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "CI": ""}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=child, stderr=child) as process:
        os.close(child)
        output = _read_all(terminal)
    os.close(terminal)
    assert process.returncode == 0
    assert "\x1b[" in output
    assert "/12" in output
    assert "after 12 steps" in output


def _read_all(terminal: int) -> str:
    chunks = []
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # Linux ends a terminal whose other side is closed with EIO.
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks).decode()


@pytest.mark.parametrize(("points", "flag"), [(1000, ""), (1001, " --samples_per_plugin scalars=1001")])
def test_tensorboard_is_told_to_keep_all_points(points: int, flag: str) -> None:
    """It samples a thousand of them otherwise."""
    assert report._tensorboard(Path("my runs"), points=points) == f"tensorboard --logdir 'my runs'{flag}"


def test_compiled_programs_are_kept_where_one_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the user's cache folder; nowhere, and without an error, if there is none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert runtime._cache_folder() == tmp_path / "cache" / "sowlog" / "jax"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert runtime._cache_folder() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runtime._cache_folder() == tmp_path / ".cache" / "sowlog" / "jax"
