import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.train.running import CONFIGS, ROOT
from train.config import fields, yaml_reading
from train.config import file as config_file
from train.config.data import FunctionData, TextData
from train.config.experiment import Config
from train.config.file import ConfigError, load
from train.config.optimizers import AdamWOptions, SgdOptions
from train.sweep.plan import plan

DIGITS = CONFIGS / "digits.yaml"
MOE = CONFIGS / "moe_lm.yaml"


def errors_of(path: Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError, match=": ") as caught:
        load(path, overrides)
    return caught.value.errors


def outcome_of(path: Path) -> Config | tuple[str, ...]:
    try:
        return load(path)
    except ConfigError as error:
        return error.errors


def write(folder: Path, text: str) -> Path:
    file = folder / "experiment.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_is_valid_and_survives_being_written(path: Path, tmp_path: Path) -> None:
    """A resolved configuration that was dumped loads back equal."""
    config = load(path)
    assert load(write(tmp_path, config_file.dump(config))) == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_states_its_purpose_and_command(path: Path) -> None:
    """The first comment names the command that runs the file, and what to expect."""
    comment = path.read_text().partition("\ntask:")[0]
    assert "python -m train" in comment
    assert "held-out" in comment


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", ".001", "0.001", "1.e-3", "+1e-3"])
def test_a_number_is_read_however_it_is_written(text: str) -> None:
    """YAML 1.1 alone would read 1e-3 as a string."""
    assert load(DIGITS, [f"optimizer.learning_rate={text}"]).optimizer.learning_rate == 0.001


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[no, No, on, off, yes, y, n]", ["no", "No", "on", "off", "yes", "y", "n"]),
        ("[true, True, FALSE]", [True, True, False]),
        ("[~, null, NULL, ]", [None, None, None]),
        ("[1234e56, 12e400, 1e3, 1E-3, -1e30]", ["1234e56", "12e400", 1000.0, 0.001, -1e30]),
        ("[12:30:45, 10:15]", ["12:30:45", "10:15"]),
        ("[1.10, 0123, 08, 0o17, 0x1f, 1_000]", [1.1, "0123", "08", 15, 31, 1000]),
        ("[=, <<, .5]", ["=", "<<", 0.5]),
        ("{no: 1, =: 2}", {"no": 1, "=": 2}),
    ],
)
def test_words_are_those_of_yaml_1_2(written: str, read: object, tmp_path: Path) -> None:
    """Alike in a file, on the command line and in a sweep; and they survive being written."""
    own = f"base: {DIGITS}\ndata: {{name: 'a:b', arguments: {{x: {written}}}}}\n"
    config = load(write(tmp_path, own))
    assert config.data == FunctionData(name="a:b", arguments={"x": read})
    assert load(DIGITS, ["data.name=a:b", f"data.arguments.x={written}"]) == config
    (point,) = plan(DIGITS, ["data.name=a:b"], [f"data.arguments.x={written}"], tmp_path / "sweep")
    assert point.config == config
    assert load(write(tmp_path, config_file.dump(config))) == config


def test_text_that_reads_as_something_else_is_written_in_quotes(tmp_path: Path) -> None:
    """Of YAML 1.1 as well, as other programs read it."""
    words = ["1e-3", "no", "1234", "0o17", "2024-01-31", "~", "", "true", "=", "1_000", ".inf", "a: b"]
    config = load(DIGITS, ["data.name=a:b", f"data.arguments.x={json.dumps(words)}"])
    assert config.data == FunctionData(name="a:b", arguments={"x": words})
    written = config_file.dump(config)
    assert load(write(tmp_path, written)) == config
    assert yaml.safe_load(written)["data"]["arguments"]["x"] == words


def test_every_field_is_documented() -> None:
    """Each field of the schema but the names of choices has a description."""
    for key in fields.all_keys():
        *section, name = key.split(".")
        for model in fields.models(tuple(section)):
            field = model.model_fields.get(name)
            assert field is None or (name == "name" and model is not FunctionData) or field.description, (
                f"{model.__name__}.{name}"
            )


def test_an_override_reaches_its_field_and_the_last_one_wins() -> None:
    """Overrides are typed as YAML values and applied in order."""
    config = load(MOE, ["steps=3", "data.path=/some/file", "steps=4", "optimizer.clip_norm=null"])
    assert (config.steps, config.optimizer.clip_norm) == (4, None)
    assert isinstance(config.data, TextData)
    assert config.data.path == "/some/file"


def test_another_name_drops_the_fields_of_the_old_choice() -> None:
    """The file's adamw settings do not stand in the way of sgd, in either order of the overrides."""
    before = load(DIGITS).optimizer
    assert isinstance(before, AdamWOptions)
    for overrides in (
        ["optimizer.name=sgd", "optimizer.momentum=0.5"],
        ["optimizer.momentum=0.5", "optimizer.name=sgd"],
    ):
        after = load(DIGITS, overrides).optimizer
        assert isinstance(after, SgdOptions)
        assert after.momentum == 0.5


def test_the_same_name_keeps_the_fields() -> None:
    """Naming the choice that the file made changes nothing."""
    assert load(DIGITS, ["optimizer.name=adamw"]) == load(DIGITS)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("stepz=3", "stepz: unknown key; did you mean steps?"),
        ("optimizer.learning_rat=1", "optimizer.learning_rat: unknown key; did you mean learning_rate?"),
        ("momentum=1", "momentum: unknown key; did you mean optimizer.momentum?"),
        ("optimizer.zzz=1", "optimizer.zzz: unknown key; the keys here are learning_rate, schedule"),
        ("steps=ten", 'steps: must be a whole number, got "ten"'),
        ("steps=1.5", "steps: must be a whole number, got 1.5"),
        ("steps=true", "steps: must be a whole number, got True"),
        ("steps=", "steps: must be a whole number, got null"),
        ('steps="3"', 'steps: must be a whole number, got "3"'),
        ("steps=0", "steps: must be greater than or equal to 1, got 0"),
        ("seed=-1", "seed: must be greater than or equal to 0, got -1"),
        ("seed=99999999999999999999999", "seed: must be less than 4294967296, got 99999999999999999999999"),
        ("task.dropout=1", "task.dropout: must be less than 1, got 1"),
        ("optimizer.learning_rate=.nan", "optimizer.learning_rate: must be a finite number, got nan"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: must be a finite number, got inf"),
        ("optimizer.schedule=cosin", "must be one of constant, cosine, got \"cosin\"; did you mean cosine?"),
        ("optimizer.name=adamm", 'must be one of adam, adamw, sgd, got "adamm"; did you mean adam?'),
        ("optimizer.name=[1]", "optimizer.name: must be one of adam, adamw, sgd, got [1]"),
        ("optimizer={learning_rate: 1}", "optimizer.name: missing; one of adam, adamw, sgd"),
        ("optimizer=3", "optimizer: must be a mapping of settings, got 3"),
        ("eval=3", "eval: must be a mapping of settings, got 3"),
        ("steps.x=3", "steps.x: steps is 400, which has no keys"),
        ("data.name=text", 'data.name: the task digits learns from "digits", got "text"'),
        ("steps=[", "steps: broken YAML: "),
        ("steps", "steps: not of the form key=value, such as steps=100"),
        ("=3", "=3: not of the form key=value"),
        ("a..b=3", "a..b=3: not of the form key=value"),
        ("--steps=3", "--steps=3: unknown option; settings have no dashes: steps=3"),
        ("optimizer=!!python/object/apply:os.getcwd []", "broken YAML: could not determine a constructor"),
    ],
)  # fmt: skip
def test_an_error_on_the_command_line_is_one_line(override: str, line: str) -> None:
    """The line names the command line, the full key, the cause and a suggestion."""
    (error,) = errors_of(DIGITS, override)
    assert error.startswith("command line: ")
    assert line in error
    assert "\n" not in error


def test_fields_that_disagree_are_named() -> None:
    """An error of two fields together is reported at one of them."""
    (error,) = errors_of(MOE, "task.top_k=9")
    assert error == "command line: task.top_k: 9 experts a token, but experts is 8."
    (error,) = errors_of(MOE, "task.width=66")
    assert "task.heads: 4 heads do not divide the width of 66" in error


def test_all_errors_are_reported_at_once_with_their_places(tmp_path: Path) -> None:
    """Those of the file with their lines, those of the command line, and missing fields."""
    file = write(
        tmp_path,
        "task: {name: digitz}\n"
        "data:\n"
        "  name: digits\n"
        '  batch_size: "64"\n'
        "  batch_size: 32\n"
        "optimizer: {name: sgd, learning_rat: 1}\n"
        "steps: 0\n",
    )
    assert errors_of(file, "seed=x", "nonsense") == (
        "command line: nonsense: not of the form key=value, such as steps=100.",
        f"{file}:5: data.batch_size: stands here a second time; it is already at {file}:4.",
        f"{file}:1: task.name: must be one of digits, digits_nnx, gru, moe_lm, vae, vqvae, module:Class, "
        'got "digitz"; did you mean digits?',
        f"{file}:6: optimizer.learning_rat: unknown key; did you mean learning_rate?",
        f"{file}:7: steps: must be greater than or equal to 1, got 0.",
        'command line: seed: must be a whole number, got "x".',
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [\n", ":3: broken YAML: "),
        ("a: 1\n\tb: 2\n", ":2: broken YAML: "),
        ("- 1\n- 2\n", ": holds [1, 2] where a mapping of settings belongs"),
        ("just words\n", ': holds "just words" where a mapping'),
        ("a: !!python/name:os.system x\n", ":1: broken YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", ":2: broken YAML: but found another document"),
        ("? {a: 1}\n: 2\n", ":1: broken YAML: found unhashable key"),
        ("a: 2026-99-99\n", ": broken YAML: month must be in 1..12"),
        ("[" * 3000, ": broken YAML: nested too deeply"),
        ("a: \x00", ": broken YAML: "),
        ("", ": task: missing"),
        ("1: 2\n", ":1: 1: unknown key"),
    ],
)
def test_a_broken_file_is_reported_in_a_line(text: str, line: str, tmp_path: Path) -> None:
    """With the line where there is one."""
    file = write(tmp_path, text)
    assert any(error.startswith(f"{file}{line}") for error in errors_of(file)), errors_of(file)


def test_an_absent_file_is_reported_with_a_suggestion(tmp_path: Path) -> None:
    """The names of the files beside it are the suggestions."""
    file = write(tmp_path, "")
    (error,) = errors_of(tmp_path / "experimant.yaml")
    assert error == f"{tmp_path / 'experimant.yaml'}: no such file; did you mean {file}?"
    (error,) = errors_of(tmp_path)
    assert "cannot be read" in error


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A binary file ends in a line, not a traceback."""
    file = tmp_path / "binary.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    (error,) = errors_of(file)
    assert error.startswith(f"{file}: cannot be read: ")


def test_an_error_is_reported_before_jax_is_imported() -> None:
    """In a fresh interpreter: status 2, the lines on standard error, no traceback, no jax."""
    code = (
        "import sys; from train.__main__ import main; status = main(['stepz=3', 'seed=x']);"
        "sys.exit(99 if 'jax' in sys.modules else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        'command line: seed: must be a whole number, got "x".',
        "command line: stepz: unknown key; did you mean steps?",
    ]
    assert done.stdout == ""


def test_a_float_survives_being_written() -> None:
    """Small and large numbers come back bit for bit."""
    for value in (1e-7, 1e-5, 0.1, math.pi, 1e17, 123456789.0):
        config = load(DIGITS, [f"optimizer.learning_rate={value!r}"])
        again = yaml.load(config_file.dump(config), yaml_reading._Loader)
        assert again["optimizer"]["learning_rate"] == value
