from pathlib import Path

import pytest

from tests.train.data.loaders import HERE, held_out_parts, load, numbers
from tests.train.running import CONFIGS, digits, points, run, run_until, saved_arrays
from train import __main__ as program
from train import data
from train.config.data import FunctionData
from train.config.errors import RunWarning
from train.data.examples import DataError


def test_arrays_are_split_and_drawn_from() -> None:
    """Every example is in one of the parts; a batch is a pure function of seed and step, without repeats."""
    dataset, other = (load("arrays", batch_size=8) for _ in range(2))
    held_out = numbers(dataset.held_out())
    drawn = {number for step in range(50) for number in numbers(dataset.batch(0, step))}
    assert len(held_out) == 8
    assert drawn | set(held_out) == set(range(40))
    assert not drawn & set(held_out)
    assert numbers(dataset.batch(3, 7)) == numbers(other.batch(3, 7)) != numbers(other.batch(3, 8))
    assert len(set(numbers(dataset.batch(3, 7)))) == 8


@pytest.mark.parametrize(
    ("held_out", "size", "whole", "rest"),
    [(20, 8, (2, 8), (1, 4)), (16, 8, (2, 8), ()), (5, 8, (1, 5), ()), (17, 16, (1, 16), (1, 1))],
)
def test_held_out_arrays_are_cut_into_batches_of_the_size_asked_for(
    held_out: int, size: int, whole: tuple[int, int], rest: tuple[int, ...]
) -> None:
    """And into a remainder: every example once; of a pair, the second is held out whole."""
    dataset = load("pair", batch_size=size, arguments={"held_out": held_out})
    assert dataset.held_out()["image"].shape == (*whole, 8, 8, 1)
    assert [array.shape[:2] for array in dataset.remainder().values()] == [rest] * 2 * bool(rest)
    seen = [number for part in held_out_parts(dataset) for number in numbers(part)]
    assert seen == list(range(100, 100 + held_out))
    assert {number for step in range(50) for number in numbers(dataset.batch(0, step))} == set(range(40))


def test_a_digest_knows_every_example() -> None:
    """A run that goes on warns of other data wherever it differs: in a batch, held out, or neither."""
    digests = {load("one_changed", batch_size=8, arguments={"at": at}).digest() for at in range(-1, 40)}
    assert len(digests) == 41


@pytest.mark.parametrize(
    ("function", "options", "line"),
    [
        ("unequal", {}, r"differ in their number of examples: \{'image': 3, 'label': 4\}"),
        ("scalars", {}, r"differ in their number of examples: \{'image': None, 'label': None\}"),
        ("words", {}, r"arrays that hold no numbers: .*<U1"),
        ("others", {}, "returns the arrays x; the task also needs image, label"),
        ("growing", {}, "held-out batches of different shapes"),
        ("number", {}, "returned int: it must be a dict of arrays, an iterable"),
        ("mixed", {}, r"returned \(dict, list\): it must be a dict"),
        ("few", {}, "no batch to train on"),
        ("batches", {"arguments": {"count": 0}}, "no batch to evaluate on"),
        ("arrays", {"batch_size": 33}, "32 examples to train on and 8 held out, and data.batch_size is 33"),
        ("arrays", {"arguments": {"size": 3}}, "does not fit: got an unexpected keyword argument"),
        ("no_such", {}, f"the module {HERE} has no function no_such"),
        ("HERE", {}, f"the module {HERE} has no function HERE"),
    ],
)  # fmt: skip
def test_data_of_another_form_is_refused(function: str, options: dict[str, object], line: str) -> None:
    """With the arrays and the needs of the task."""
    with pytest.raises(DataError, match=line):
        load(function, **options).batch(0, 0)


def test_an_absent_module_is_reported_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """With where it was looked for."""
    assert program.main([str(CONFIGS / "digits.yaml"), "data.name=no.such:data"]) == 2
    assert "data.name=no.such:data: there is no module no; it is looked for in" in capsys.readouterr().err


def test_a_module_is_found_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And an exception within it is its own error, not ours."""
    (tmp_path / "sowlog_test_data.py").write_text("def make():\n    import no_such_thing\n")
    (tmp_path / "sowlog_test_broken.py").write_text("import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    for name in ("sowlog_test_data:make", "sowlog_test_broken:make"):
        with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
            data.load(FunctionData(name=name))


def test_a_run_on_an_iterable_is_taken_up_where_it_was(tmp_path: Path) -> None:
    """Bit for bit, where each call of the function returns the same; drawn batches are drawn again."""
    config = digits(f"data.name={HERE}:batches", "data.eval_batches=2", "steps=6")
    run(config, tmp_path / "straight")
    run_until(config, tmp_path / "stopped", 2)
    run(config, tmp_path / "stopped")
    assert points(tmp_path / "stopped") == points(tmp_path / "straight")
    assert saved_arrays(tmp_path / "stopped", 6) == saved_arrays(tmp_path / "straight", 6)


def test_arrays_that_differ_at_each_call_are_asked_for_once(tmp_path: Path) -> None:
    """Of one call no example is in both parts; a run that is taken up makes another, and warns of it."""
    config = digits(f"data.name={HERE}:shuffled_arrays", "data.batch_size=8", "steps=6")
    dataset = data.load(config.data)
    drawn = {number for step in range(50) for number in numbers(dataset.batch(0, step))}
    assert sorted([*drawn, *(number for part in held_out_parts(dataset) for number in numbers(part))]) == [
        *range(40)
    ]
    run_until(config, tmp_path, 2)
    line = (
        r"with other data than before: .* holds out now may have been trained on before\. Write: a fixed seed"
    )
    with pytest.warns(RunWarning, match=line):
        run(config, tmp_path)


def test_data_that_fails_on_its_way_costs_no_update(tmp_path: Path) -> None:
    """The updates are saved before the error ends the run, which then goes on with mended data."""
    own = ("data.eval_batches=2", "data.arguments.at=8", f"data.arguments.file={tmp_path / 'file'}")
    config = digits(f"data.name={HERE}:until", *own, "steps=10", "eval.every=4", "checkpoint.every=4")
    with (
        pytest.warns(RunWarning, match=r"no batch for step 6\. The last checkpoint is of step 6: mend"),
        pytest.raises(FileNotFoundError, match="is away"),
    ):
        run(config, tmp_path / "failed")
    (tmp_path / "file").touch()
    assert run(config, tmp_path / "failed").updates == 4
    run(config, tmp_path / "straight")
    assert points(tmp_path / "failed") == points(tmp_path / "straight")
    assert saved_arrays(tmp_path / "failed", 10) == saved_arrays(tmp_path / "straight", 10)


def test_microbatches_that_do_not_divide_a_users_batches_are_refused_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line; a folder that was made for the run is gone again, one that was there is left as it was."""
    (tmp_path / "there").mkdir()
    own = [f"data.name={HERE}:arrays", "data.batch_size=6", "microbatches=4"]
    for name in ("new", "there"):
        command = [str(CONFIGS / "digits.yaml"), *own, "--workdir", str(tmp_path / name)]
        assert program.main(command) == 2
        assert "6 examples do not spread evenly" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert [path.name for path in (tmp_path / "there").iterdir()] == [".lock"]
