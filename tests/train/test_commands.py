"""The commands that train nothing."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.support.tensorboard_reading import tensorboard_scalars
from tests.train.running import CONFIGS, ROOT, TINY_DIGITS, TINY_MOE, digits, run
from train import __main__ as program
from train import data, dry_run
from train.config import fields, help
from train.config.file import load

DIGITS = str(CONFIGS / "digits.yaml")


def printed_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert program.main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_printed_config_loads_back_equal(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the overrides in it, so that it is the experiment."""
    printed = tmp_path / "printed.yaml"
    printed.write_text(printed_by(capsys, str(path), "--print-config", "seed=5"))
    assert load(printed) == load(path, ["seed=5"])


def test_a_config_with_an_error_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, as for a run."""
    assert program.main([DIGITS, "--print-config", "seed=x"]) == 2
    assert capsys.readouterr().out == ""


def test_the_list_shows_each_config_with_its_purpose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the working folder, then those of the program; one that cannot be read says so."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("# My own\n# experiment.\n#\n# More.\nsteps: 3\n")
    (tmp_path / "configs" / "odd.yaml").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "configs" / "pipe.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    lines = printed_by(capsys, "--list").splitlines()
    assert " ".join(lines[0].split()) == "configs/mine.yaml My own experiment."
    assert "cannot be read" in lines[1]
    text = " ".join(" ".join(lines).split())
    assert "configs/pipe.yaml cannot be read: [Errno 22] Not a regular file" in text
    for path in CONFIGS.glob("*.yaml"):
        assert f"{path} {help.purpose(path)}" in text
        assert len(help.purpose(path)) > 20
    monkeypatch.chdir(ROOT)
    assert printed_by(capsys, "--list").count("configs/digits.yaml") == 1


def test_help_shows_every_field_with_type_default_and_meaning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under each choice that has it, as the schema has it."""
    monkeypatch.setenv("COLUMNS", "110")
    text = " ".join(printed_by(capsys, "--help").split())
    for key in fields.all_keys():
        *section, name = key.split(".")
        for model in fields.models(tuple(section)):
            field = model.model_fields.get(name)
            if field is None or fields.choices(field) or not field.description:
                continue
            default = "required" if field.is_required() else "default"
            assert f"{key}: {fields.describe_type(field)}; {default}" in text
            assert " ".join(field.description.split()) in text
    for name in fields.names(("task",)):
        assert f"task.name={name}: " in text
    assert "task.dropout: number >= 0, < 1; default 0.1" in text
    assert "optimizer.eps: number > 0; default 1.0e-08" in text


@pytest.mark.parametrize("columns", [80, 110])
def test_the_help_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No line is longer but for commands to copy, and no option is cut at its hyphens."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert program.main(["--help"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "  python -m train" not in line]
    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if line.endswith("-")]


@pytest.mark.parametrize("flags", [["--help"], ["--list"], ["--print-config"]])
def test_help_and_lists_need_no_jax(flags: list[str]) -> None:
    """In a fresh interpreter, where importing it, or what imports it, would fail."""
    modules = ["jax", "flax", "optax", "orbax", "sowlog", "sklearn"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({modules}));"
        f"from train.__main__ import main; sys.exit(main({flags}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_dry_run_lists_what_a_run_logs(tmp_path: Path) -> None:
    """Every tag with its reducer, and the bytes of the buffer; the parameters as they are counted."""
    config = digits("steps=1")
    run(config, tmp_path)
    lines = dry_run.describe(config, data.load(config.data)).splitlines()
    listed = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    logged = tensorboard_scalars(tmp_path)
    assert set(listed) == set(logged)
    assert listed["block_0/activation_rms"] == listed["eval/block_0/activation_rms"] == "rms"
    assert listed["objective"] == "as computed"
    training = [tag for tag in logged if not tag.startswith("eval/")]
    assert f"each step: {len(training)} tags in one buffer of {4 * len(training)} bytes" in lines
    weights = 3 * 3 * 2 + 2 * 2 + 3 * 3 * 2 * 4 + 2 * 4 + (4 * 4 * 4 + 1) * 10
    assert lines[0] == f"parameters: {weights} numbers, {4 * weights:,} bytes"
    assert "batch: image float32[8, 8, 8, 1], label int32[8]" in lines


def test_a_dry_run_compiles_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It only looks at shapes, and makes no run folder."""
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
    )
    monkeypatch.chdir(tmp_path)
    out = printed_by(
        capsys, str(CONFIGS / "moe_lm.yaml"), "--dry-run", *TINY_MOE, "task.width=10", "task.heads=5"
    )
    seen = list(compiled)
    assert "  losses/total" in out
    assert seen == []
    assert list(tmp_path.iterdir()) == []
    jax.jit(lambda x: x + np.float32(len(seen)))(1.0)
    assert compiled, "the listener hears nothing, so the test shows nothing"


_KEYS = sorted({key.rpartition(".")[2] for key in fields.all_keys()})
_TREE = load(CONFIGS / "digits.yaml").model_dump()
_NAMES = [name for key in ("task", "data", "optimizer") for name in fields.names((key,))]
_JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.dates()
    | st.sampled_from([*_NAMES, "no.such.module:f", "tests:nothing", "cosine", "digits.yaml", "mine.yaml"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def _broken_trees(draw: st.DrawFn) -> dict[str, object]:
    """Draw a good configuration in which up to four things are put in, taken out or replaced."""
    tree = json.loads(json.dumps(_TREE))
    for _ in range(draw(st.integers(1, 4))):
        section = draw(st.sampled_from([tree, *(part for part in tree.values() if isinstance(part, dict))]))
        key = draw(st.sampled_from([*section, *_KEYS, "base"]) if section else st.sampled_from(_KEYS))
        if draw(st.booleans()):
            section.pop(key, None)
        else:
            section[key] = draw(_JUNK)
    return tree


@st.composite
def _broken_texts(draw: st.DrawFn) -> str:
    """Draw YAML of a broken tree, at times with characters changed."""
    text = json.dumps(draw(_broken_trees()), default=str, indent=1)  # which is YAML too
    for _ in range(draw(st.sampled_from([0, 0, 1, 5]))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.text(max_size=2)) + text[at + draw(st.integers(0, 2)) :]
    return text


# A thousand by `make faults`, as each costs 30 ms.
BROKEN = int(os.environ.get("SOWLOG_BROKEN", "100"))


@hypothesis.settings(max_examples=BROKEN)
@hypothesis.given(
    text=_broken_texts(), override=st.sampled_from(["", "seed=1"]) | st.text(max_size=12).map("s{}".format)
)
def test_a_broken_config_ends_with_status_2_and_lines(
    text: str, override: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Never a traceback, always a line that names the place."""
    file = tmp_path_factory.getbasetemp() / "mine.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = program.main([str(file), *([override] if override else []), "--print-config"])
    hypothesis.assume(status)
    assert (status, out.getvalue()) == (2, "")
    lines = err.getvalue().removesuffix("\n").split("\n")
    assert all(line.startswith((str(file.parent), "command line: ")) for line in lines), lines


def test_the_tiny_settings_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    """The settings that these tests rely on are those of the schema."""
    assert "batch_size: 8" in printed_by(capsys, DIGITS, "--print-config", *TINY_DIGITS)
