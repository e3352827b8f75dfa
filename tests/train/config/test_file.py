import os
from pathlib import Path

import pytest

from tests.train.config.test_experiment import errors_of, write
from tests.train.running import CONFIGS
from train.config.file import dump, load
from train.config.optimizers import AdamWOptions, SgdOptions

DIGITS = CONFIGS / "digits.yaml"


def files(folder: Path, **texts: str) -> Path:
    """Write a file of each name, and return the folder."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_a_file_is_laid_over_its_base(tmp_path: Path) -> None:
    """Fields that it leaves out are the base's, within sections too."""
    file = write(tmp_path, f"base: {DIGITS}\nsteps: 7\noptimizer: {{warmup: 3}}\n")
    expected = load(DIGITS, ["steps=7", "optimizer.warmup=3"])
    assert load(file) == expected
    assert "base" not in dump(expected)


def test_a_base_is_found_beside_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the program runs, and through folders."""
    (tmp_path / "deep").mkdir()
    files(tmp_path, digits=DIGITS.read_text(), middle="base: digits.yaml\nseed: 5\n")
    file = write(tmp_path / "deep", "base: ../middle.yaml\nsteps: 7\n")
    monkeypatch.chdir("/")
    assert load(file) == load(DIGITS, ["seed=5", "steps=7"])


def test_of_several_bases_the_later_wins(tmp_path: Path) -> None:
    """And the file itself over all of them; a base that two others share is no cycle."""
    files(
        tmp_path,
        one=f"base: {DIGITS}\nsteps: 1\nseed: 1\neval: {{every: 1}}\n",
        two=f"base: {DIGITS}\nsteps: 2\nseed: 2\n",
    )
    file = write(tmp_path, "base: [one.yaml, two.yaml]\nseed: 3\n")
    # The second base repeats digits.yaml whole, and so takes back the changes of the first.
    assert load(file) == load(DIGITS, ["steps=2", "seed=3"])
    files(tmp_path, two="steps: 2\nseed: 2\n")
    assert load(file) == load(DIGITS, ["steps=2", "seed=3", "eval.every=1"])


def test_another_name_in_a_file_drops_the_fields_of_its_base(tmp_path: Path) -> None:
    """As on the command line; the same name keeps them."""
    other = load(write(tmp_path, f"base: {DIGITS}\noptimizer: {{momentum: 0.5, name: sgd}}\n"))
    assert isinstance(other.optimizer, SgdOptions)
    assert (other.optimizer.momentum, other.optimizer.learning_rate) == (0.5, 1e-3)
    same = load(write(tmp_path, f"base: {DIGITS}\noptimizer: {{name: adamw, b1: 0.5}}\n"))
    assert isinstance(same.optimizer, AdamWOptions)
    assert (same.optimizer.b1, same.optimizer.learning_rate) == (0.5, 3e-3)


def test_a_field_of_the_old_choice_in_the_new_file_is_reported_there(tmp_path: Path) -> None:
    """The place is that of the file that says it, not of the base."""
    file = write(tmp_path, f"base: {DIGITS}\noptimizer:\n  name: sgd\n  b1: 0.5\n")
    (error,) = errors_of(file)
    assert error.startswith(f"{file}:4: optimizer.b1: unknown key")


def test_an_error_in_a_base_is_reported_at_its_place(tmp_path: Path) -> None:
    """Unless the file over it sets the key right."""
    text = DIGITS.read_text().replace("steps: 400", "steps: many")
    files(tmp_path, wrong=text)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if row.startswith("steps"))
    (error,) = errors_of(write(tmp_path, "base: wrong.yaml\n"))
    assert error == f'{tmp_path}/wrong.yaml:{line}: steps: must be a whole number, got "many".'
    assert load(write(tmp_path, "base: wrong.yaml\nsteps: 400\n")) == load(DIGITS)


def test_a_cycle_is_reported_with_its_chain(tmp_path: Path) -> None:
    """From the file that was asked for, link by link, to the one that comes again."""
    files(tmp_path, a="base: b.yaml\n", b="steps: 1\nbase: [c.yaml]\n", c="base: ./a.yaml\n")
    a, b, c = (tmp_path / f"{name}.yaml" for name in "abc")
    (error,) = errors_of(a)
    assert error == f"{c}:1: base: leads back to itself: {a} -> {b} -> {c} -> {a}."
    (error,) = errors_of(write(tmp_path, "base: experiment.yaml\n"))
    assert "leads back to itself" in error


@pytest.mark.parametrize(
    ("base", "line"),
    [
        ("nothing.yaml", "nothing.yaml: no such file; did you mean"),
        ("3", "experiment.yaml:1: base: must be a file or a list of files, relative to this one, got 3"),
        ("[[a]]", "base: must be a file or a list of files, relative to this one, got ['a']"),
        ('""', 'base: must be a file or a list of files, relative to this one, got ""'),
        ('"a\\0b"', "base: must be a file or a list of files"),
        ('"\\ud800\\udc00"', "base: must be a file or a list of files"),
        (".", ": cannot be read: "),
    ],
)
def test_a_base_that_is_no_file_is_one_error(base: str, line: str, tmp_path: Path) -> None:
    """Nothing is said of the settings that it may have held."""
    (error,) = errors_of(write(tmp_path, f"base: {base}\nsteps: 3\n"))
    assert line in error


def test_a_base_on_the_command_line_is_refused() -> None:
    """The file itself is the argument there."""
    (error,) = errors_of(DIGITS, "base=other.yaml")
    assert error == "command line: base: stands in files only; give the file itself: other.yaml."


def test_a_list_is_set_whole_or_by_the_item(tmp_path: Path) -> None:
    """An item that is not there, or that has no keys, is a error."""
    file = write(tmp_path, f"base: {DIGITS}\ndata: {{name: 'a:b', arguments: {{sizes: [1, 2, {{x: 3}}]}}}}\n")

    def sizes(*overrides: str) -> object:
        return load(file, overrides).data.arguments["sizes"]

    assert sizes("data.arguments.sizes=[4, 5]") == [4, 5]
    assert sizes("data.arguments.sizes.1=7", "data.arguments.sizes.2.x=8") == [1, 7, {"x": 8}]
    (error,) = errors_of(file, "data.arguments.sizes.3=7")
    assert error == "command line: data.arguments.sizes.3: the list has 3 items, of which the first is 0."
    (error,) = errors_of(file, "data.arguments.sizes.0.x=7")
    assert error == "command line: data.arguments.sizes.0.x: data.arguments.sizes.0 is no list or mapping."
    for index in ("-1", "²", "9" * 5000):
        assert "the list has 3 items" in errors_of(file, f"data.arguments.sizes.{index}=7")[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: &x 1\nb: *x\n", ":2: broken YAML: an alias; write the value out, or keep it in a file"),
        ("a: &x {b: *x}\n", ":1: broken YAML: an alias"),
        (f"steps: 0x{'f' * 5000}\n", ":1: broken YAML: a whole number of 20000 bits"),
        (f"steps: {'9' * 5000}\n", ": broken YAML: "),
    ],
)  # fmt: skip
def test_yaml_that_could_grow_without_end_is_refused(text: str, line: str, tmp_path: Path) -> None:
    """Aliases, which may hold themselves, and numbers that cannot be printed."""
    file = write(tmp_path, text)
    assert errors_of(file)[0].startswith(f"{file}{line}")


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("2026-01-01", "must be text, numbers, true, false or null, got datetime.date(2026, 1, 1)"),
        (".nan", "must be finite numbers, got nan"),
        ("[.inf]", "must be text, numbers, true, false or null, got inf"),
        ("{1: 2}", "a key must be text, got 1"),
        ("[" * 25 + "]" * 25, "nested too deeply"),
    ],
)
def test_an_argument_that_would_not_survive_being_written_is_refused(value: str, line: str) -> None:
    """A function's arguments are those in the run folder."""
    (error,) = errors_of(DIGITS, "data.name=a:b", f"data.arguments.x={value}")
    assert error == f"command line: data.arguments: {line}."


@pytest.mark.parametrize("name", ["a:", ":b", "a:b:c", "a.:b", "a b:c", "a:b.c", "1a:b"])
def test_a_function_is_named_by_module_and_name(name: str) -> None:
    """Anything else with a colon is refused at once, and not imported."""
    (error,) = errors_of(DIGITS, f'data.name="{name}"')
    assert error == f'command line: data.name: must be of the form module:function, got "{name}".'


def test_bases_that_name_each_other_without_end_are_refused(tmp_path: Path) -> None:
    """Nine files, each of which names the next eight times, are 8^8 readings."""
    for level in range(9):
        (tmp_path / f"{level}.yaml").write_text(f"base: [{', '.join([f'{level + 1}.yaml'] * 8)}]\n")
    (tmp_path / "9.yaml").write_text(DIGITS.read_text())
    (error,) = errors_of(tmp_path / "0.yaml")
    assert error.startswith(f"{tmp_path}/0.yaml: base: leads to more than 100 files")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("base", ["/dev/zero", "fifo", "huge.yaml", "."])
def test_a_base_that_has_no_end_is_refused(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As is such a file itself: a device, a pipe without a writer, one of gigabytes, a folder."""
    monkeypatch.setattr("train.system.files.PATIENCE", 0.1)
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "huge.yaml").open("wb") as huge:
        huge.truncate(2**34)
    for file in (write(tmp_path, f"base: {base}\n"), tmp_path / base):
        (error,) = errors_of(file)
        assert ": cannot be read: " in error
