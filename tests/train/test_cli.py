import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.running import CONFIGS, ROOT, TINY_DIGITS, one_device
from train import __main__ as program
from train import arguments
from train.parallel import runtime
from train.show import viewing


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["steps=x"], 'command line: steps: must be a whole number, got "x"'),
        (["steps=1", "nonsense"], "command line: nonsense: not of the form key=value"),
        (["nothing.yaml"], "nothing.yaml: no such file"),
        (["--stepz=1"], "command line: --stepz=1: unknown option; settings have no dashes: stepz=1"),
        (["--work", "here"], "command line: --work: unknown option"),
        (["data.path=/no/such/text"], "data.path=/no/such/text: no such file or folder"),
        (["data.path=gs://x/t"], "data.path: gs://x/t is no local folder"),
        (["data.path=~nobodyx/t"], "data.path: ~nobodyx/t begins with a user whose home"),
        (["--workdir", "/proc/nowhere"], "the run folder /proc/nowhere cannot be used"),
        (["--workdir", "gs://bucket/run"], "command line: --workdir: gs://bucket/run is no local folder"),
        (
            ["--workdir", "file:///tmp/run"],
            "command line: --workdir: file:///tmp/run is a URL: write the path",
        ),
        (["--workdir="], "command line: --workdir: the path is '', which names no folder"),
        (["--sweep=seed=1", "--workdir=s3://b/r"], "command line: --workdir: s3://b/r is no local folder"),
        (["gs://bucket/mine.yaml"], "command line: gs://bucket/mine.yaml is no local folder"),
        (["digits", "steps=1"], "digits: no such file; did you mean configs/digits.yaml?"),
        (["digit.yaml"], "digit.yaml: no such file; did you mean configs/digits.yaml?"),
        (
            ["steps=5", "profile=5:9"],
            "command line: profile: begins after the last step, which is 4, got 5:9",
        ),
    ],
)
def test_an_error_is_reported_with_status_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, without a traceback; nothing is left behind."""
    assert program.main(arguments) == 2
    out, err = capsys.readouterr()
    assert line in err
    assert "Traceback" not in err
    assert out == ""


def test_a_prefix_of_an_option_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    """`--workdi` is an error, not --workdir."""
    assert program.main(["--workdi=/tmp/x"]) == 2
    assert "--workdi=/tmp/x: unknown option" in capsys.readouterr().err


def parsed(*given: str) -> tuple[str | None, Path, list[str]]:
    options, file, overrides = arguments.parse(arguments.make_parser(), given)
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


def test_a_run_folder_alone_goes_on_with_its_own_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a home before it does not hide; a new one is of the default experiment."""
    own = tmp_path / "mine" / "config.yaml"
    own.parent.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    assert parsed("--workdir", "~/mine")[1] == Path("configs/moe_lm.yaml")
    own.touch()
    for folder in ("~/mine", str(own.parent)):
        assert parsed("--workdir", folder, "steps=3")[1:] == (own, ["steps=3"])
    assert parsed("--workdir", "~/mine", "--sweep", "seed=1")[1] == Path("configs/moe_lm.yaml")
    assert parsed("configs/vae.yaml", "--workdir", "~/mine")[1] == Path("configs/vae.yaml")


def test_a_piped_run_reads_as_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From another folder: lines without control codes, a table, and the folder to look into."""
    monkeypatch.chdir(tmp_path)
    assert program.main(["configs/digits.yaml", *TINY_DIGITS]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"digits-\d{8}-\d{6}", folder.name)
    lines = out.splitlines()
    assert lines[0] == f"run runs/{folder.name}"
    assert re.fullmatch(r"step 0/12  eval/accuracy 0\.\d+  eval/loss \d\.\d+", lines[1])
    steps = [int(line.split()[1].partition("/")[0]) for line in lines if line.startswith("step ")]
    assert steps == sorted(steps)
    assert [line.split("  ")[0] for line in lines if "eval/" in line] == [
        f"step {step}/12" for step in (0, 5, 10, 12)
    ]
    assert lines.index(next(line for line in lines if "step 12/12" in line)) < lines.index("after 12 steps")
    assert any(re.search(r"accuracy .* [01]\S* .* 0\.\d+", line) for line in lines[2:])
    tensorboard, *where = shlex.split(lines[-1])
    assert where == ["--logdir", "runs"]
    assert shutil.which(tensorboard, path=os.environ["PATH"])


@pytest.mark.parametrize("arguments", [["--help"], ["configs/digits.yaml", *TINY_DIGITS]])
def test_a_reader_that_leaves_ends_nothing(arguments: list[str], tmp_path: Path) -> None:
    """As in `python -m train ... | head -1`: no traceback, and a run goes on to its end."""
    command = [sys.executable, "-m", "train", *arguments, "--workdir", str(tmp_path / "run")]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as left:
        done = subprocess.run(
            command,
            stdout=left,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=one_device(),
            check=False,
            timeout=100,
        )
    assert (done.stderr, done.returncode) == (b"", 0)
    assert (tmp_path / "run" / "results.json").exists() == ("--help" not in arguments)


def test_a_run_on_a_terminal_is_live(tmp_path: Path) -> None:
    """With a bar, which the table follows; the cursor is left as it was."""
    terminal, child = pty.openpty()
    command = [sys.executable, "-m", "train", "configs/digits.yaml", *TINY_DIGITS, "--workdir", str(tmp_path)]
    environment = {**one_device(), "TERM": "xterm", "COLUMNS": "120", "CI": ""}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=child, stderr=child) as process:
        os.close(child)
        output = _read_all(terminal)
    os.close(terminal)
    assert process.returncode == 0
    assert "\x1b[" in output
    assert "/12" in output
    before, _, after = output.partition("after 12 steps")
    assert "steps/s" in before
    assert "\x1b[J" in before
    assert "\x1b[J" not in after
    assert "\x1b[?25" not in output


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
def test_the_tensorboard_command_keeps_all_points(points: int, flag: str) -> None:
    """It samples a thousand of them otherwise."""
    command = viewing.of_folder(Path("my runs"), points=points)
    assert command.partition("tensorboard")[2] == f" --logdir 'my runs'{flag}"


def test_the_tensorboard_command_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder around it, but none that holds much else; by a path that a shell finds from here."""

    def where(folder: str) -> list[str]:
        return shlex.split(viewing.of_run(Path(folder), points=1))[1:]

    assert where("runs/mine") == ["--logdir", "runs"]
    assert where("mine") == ["--logdir", "."]
    assert where("/mine") == ["--logdir_spec", "mine:/mine"]
    assert where("/a:b") == ["--logdir", "/"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert where(f"{tmp_path}/mine") == ["--logdir_spec", f"mine:{tmp_path}/mine"]
    monkeypatch.setenv("PATH", "")
    python = tmp_path / "my venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.with_name("tensorboard").touch()
    monkeypatch.setattr("sys.executable", str(python))
    assert viewing.of_folder(Path("runs"), points=1) == f"'{python.parent}/tensorboard' --logdir runs"
    monkeypatch.chdir(tmp_path)
    assert viewing.of_folder(Path("runs"), points=1) == "'my venv/bin/tensorboard' --logdir runs"


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
