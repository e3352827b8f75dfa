import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.train.running import CONFIGS, digits, points, run, run_until, saved_arrays
from train import __main__ as program
from train import data
from train.config.data import FunctionData
from train.config.errors import RunWarning
from train.data.examples import DataError, DataWarning

HERE = "tests.train.data.test_own"


def arrays(examples: int = 40, *, shift: int = 0) -> dict[str, np.ndarray]:
    """Examples of which image and label hold the number."""
    numbers = np.arange(shift, shift + examples)
    return {
        "image": np.broadcast_to(numbers[:, None, None, None] / 64, (examples, 8, 8, 1)),
        "label": numbers % 10,
    }


def pair(held_out: int = 20) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return arrays(40), arrays(held_out, shift=100)


def batches(count: int = 1000) -> Iterator[dict[str, np.ndarray]]:
    for number in range(count):
        yield {name: array[None, number] for name, array in arrays(number + 1).items()}


def pair_of_batches(count: int = 1000) -> tuple[Iterator[dict], list[dict]]:
    return batches(count), [arrays(4, shift=200), arrays(4, shift=204)]


def one_changed(at: int = -1) -> dict[str, np.ndarray]:
    """The arrays above, of which one label is another."""
    examples = arrays(40)
    examples["label"] = np.where(np.arange(40) == at, 11, examples["label"])
    return examples


def unequal() -> dict[str, np.ndarray]:
    return {"image": np.zeros((3, 8, 8, 1)), "label": np.zeros(4)}


def scalars() -> dict[str, float]:
    return {"image": 1.0, "label": 2.0}


def words() -> dict[str, np.ndarray]:
    return {"image": np.array(["a"]), "label": np.array(["b"])}


def others() -> dict[str, np.ndarray]:
    return {"x": np.zeros(3)}


def growing() -> Iterator[dict[str, np.ndarray]]:
    return (arrays(size) for size in itertools.count(1))


def number() -> int:
    return 3


def mixed() -> tuple[dict, list]:
    return arrays(), [arrays()]


def few() -> list[dict]:
    return [arrays(2)] * 3


def sized(train: list[int], held_out: list[int]) -> tuple[list[dict], list[dict]]:
    """Batches of so many examples, numbered through; those held out from 100 on."""
    starts = (itertools.accumulate(sizes, initial=0) for sizes in (train, held_out))
    return tuple(
        [arrays(size, shift=base + start) for size, start in zip(sizes, begun, strict=False)]
        for sizes, begun, base in zip((train, held_out), starts, (0, 100), strict=True)
    )


SHUFFLE = np.random.default_rng(0)


def shuffled(fixed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batches in another order at each call, but for some in front."""
    for number in [*range(fixed), *(fixed + SHUFFLE.permutation(40 - fixed))]:
        yield {name: array[None, number] for name, array in arrays(40).items()}


def shuffled_pair() -> tuple[Iterator[dict], list[dict]]:
    return shuffled(), [arrays(4, shift=200)]


def shuffled_held_out() -> tuple[Iterator[dict], Iterator[dict]]:
    return batches(4), shuffled()


CALLS = itertools.count()


def shuffled_later() -> Iterator[dict[str, np.ndarray]]:
    """Twice the same batches, and at the third call others."""
    yield from itertools.islice(batches(), 4 if next(CALLS) % 3 == 2 else 0, 10)


def refilled() -> Iterator[dict[str, np.ndarray]]:
    """The batches of `batches`, all in the same two arrays."""
    held = arrays(1)
    held = {name: np.array(array) for name, array in held.items()}
    for batch in batches():
        for name, array in batch.items():
            held[name][...] = array
        yield held


def load(function: str, **options: object) -> data.Dataset:
    section = FunctionData.model_validate({"name": f"{HERE}:{function}", **options})
    return data.load(section, needs=("image", "label"))


def numbers(batch: dict[str, np.ndarray]) -> list[int]:
    return [round(64 * float(image[0, 0, 0])) for image in batch["image"].reshape(-1, 8, 8, 1)]


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
    """And into what is left over: every example once; of a pair, the second is held out whole."""
    dataset = load("pair", batch_size=size, arguments={"held_out": held_out})
    assert dataset.held_out()["image"].shape == (*whole, 8, 8, 1)
    assert [array.shape[:2] for array in dataset.remainder().values()] == [rest] * 2 * bool(rest)
    seen = [number for part in held_out_parts(dataset) for number in numbers(part)]
    assert seen == list(range(100, 100 + held_out))
    assert {number for step in range(50) for number in numbers(dataset.batch(0, step))} == set(range(40))


def held_out_parts(dataset: data.Dataset) -> list[dict[str, np.ndarray]]:
    return [part for part in (dataset.held_out(), dataset.remainder()) if part]


def test_a_digest_knows_every_example() -> None:
    """A run that goes on warns of other data wherever it differs: in a batch, held out, or neither."""
    digests = {load("one_changed", batch_size=8, arguments={"at": at}).digest() for at in range(-1, 40)}
    assert len(digests) == 41


def test_batches_of_an_iterable_come_in_its_order() -> None:
    """Those after the held-out ones, each at its step, in whatever order they are asked for."""
    dataset = load("batches", eval_batches=3)
    assert numbers(dataset.held_out()) == [0, 1, 2]
    assert [numbers(dataset.batch(0, step)) for step in (0, 1, 1, 5, 2, 0)] == [[3], [4], [4], [8], [5], [3]]


def test_an_iterable_that_ends_is_begun_again() -> None:
    """Each epoch without the batches that are held out."""
    dataset = load("batches", eval_batches=2, arguments={"count": 5})
    assert [numbers(dataset.batch(0, step))[0] for step in range(7)] == [2, 3, 4, 2, 3, 4, 2]


def test_a_pair_of_iterables_trains_on_the_whole_first() -> None:
    """The second is held out, up to the number of batches asked for."""
    dataset = load("pair_of_batches", eval_batches=1)
    assert numbers(dataset.held_out()) == [200, 201, 202, 203]
    assert [numbers(dataset.batch(0, step)) for step in range(3)] == [[0], [1], [2]]


def test_a_loader_that_fills_its_buffers_again_is_that_of_new_ones() -> None:
    """Held-out batches are not all the last one, and a batch stays what it is as the next is drawn."""
    ours, expected = (load(function, eval_batches=3) for function in ("refilled", "batches"))
    np.testing.assert_array_equal(ours.held_out()["image"], expected.held_out()["image"])
    drawn = [ours.batch(0, step) for step in range(4)]
    assert [numbers(batch) for batch in drawn] == [[3], [4], [5], [6]]


@pytest.mark.parametrize(("function", "options"), [("shuffled", {}), ("shuffled", {"fixed": 2})])
def test_a_loader_that_shuffles_anew_is_told_before_its_held_out_examples_are_trained_on(
    function: str, options: dict[str, int]
) -> None:
    """With what to write in place of it: the next epoch would begin with others."""
    with pytest.raises(DataError, match=r"returns other batches each time.*Write: return train, held_out"):
        load(function, arguments=options, eval_batches=10)


def test_a_later_epoch_that_begins_with_other_batches_is_told() -> None:
    """As soon as it begins; the examples of the first were never among those trained on."""
    dataset = load("shuffled_later", eval_batches=3)
    assert [numbers(dataset.batch(0, step)) for step in range(7)] == [[number] for number in range(3, 10)]
    for _ in range(2):
        with pytest.raises(DataError, match=r"\(batch 0 differs\): the first 3 are held out"):
            dataset.batch(0, 7)
        next(CALLS), next(CALLS)


@pytest.mark.parametrize(
    ("function", "arguments", "what"),
    [
        ("shuffled_pair", {}, "training"),
        ("shuffled_held_out", {}, "held-out"),
        ("shuffled", {"fixed": 10}, "training"),
    ],
)
def test_a_loader_that_a_resumed_run_would_not_repeat_is_told(
    function: str, arguments: dict[str, int], what: str
) -> None:
    """Before training: what is held out stays apart, and the run goes on in the order of the first call."""
    match = f"returns other {what} batches each time.* bit for bit. Write: a fixed seed"
    with pytest.warns(DataWarning, match=match) as caught:
        dataset = load(function, arguments=arguments, eval_batches=10)
    assert len(caught) == 1
    held_out = {*numbers(dataset.held_out())}
    trained = {number for step in range(100) for number in numbers(dataset.batch(0, step))}
    assert function == "shuffled_held_out" or not trained & held_out


def test_the_warning_of_a_loader_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the program's own, before anything else is said."""
    command = [str(CONFIGS / "digits.yaml"), f"data.name={HERE}:shuffled_pair", "--dry-run"]
    assert program.main(command) == 0
    assert capsys.readouterr().err.startswith(
        f"warning: data.name={HERE}:shuffled_pair returns other training"
    )


def test_a_given_held_out_set_is_not_cut_in_silence() -> None:
    """Where no number was chosen, and more is there than the default; one that was chosen is no news."""
    sizes = {"train": [2] * 3, "held_out": [2] * 33}
    with pytest.warns(DataWarning, match=r"more held-out batches than the 32 .*Write: data\.eval_batches=N"):
        dataset = load("sized", arguments=sizes)
    assert dataset.held_out()["image"].shape[:2] == (32, 2)
    assert load("sized", arguments=sizes, eval_batches=32).held_out()["image"].shape[:2] == (32, 2)
    assert load("sized", arguments=sizes, eval_batches=40).held_out()["image"].shape[:2] == (33, 2)


@pytest.mark.parametrize(
    ("sizes", "whole", "rest"),
    [([4, 4, 3], (2, 4), (1, 3)), ([4, 4], (2, 4), ()), ([3], (1, 3), ()), ([4, 4, 0], (2, 4), ())],
)
def test_the_last_held_out_batch_may_be_smaller(
    sizes: list[int], whole: tuple[int, int], rest: tuple[int, ...]
) -> None:
    """It is kept as it is; every example is looked at once."""
    dataset = load("sized", arguments={"train": [4, 4], "held_out": sizes})
    assert dataset.held_out()["image"].shape[:2] == whole
    assert [array.shape[:2] for array in dataset.remainder().values()] == [rest] * 2 * bool(rest)
    seen = [number for part in held_out_parts(dataset) for number in numbers(part)]
    assert seen == list(range(100, 100 + sum(sizes)))


def test_a_smaller_batch_at_the_end_of_a_pass_is_left_out_with_a_warning() -> None:
    """Once, however many passes there are; the next pass begins."""
    dataset = load("sized", arguments={"train": [4, 4, 4, 4, 3], "held_out": [4]})
    with pytest.warns(
        DataWarning, match=r"a batch of 3 examples, where the first has 4: it is not"
    ) as caught:
        sizes = [len(dataset.batch(0, step)["label"]) for step in range(9)]
    assert sizes == [4] * 9
    assert len(caught) == 1


def test_a_smaller_batch_within_a_pass_is_trained_on_with_a_warning() -> None:
    """Once, as a second step is compiled for its shape."""
    line = r"a batch of 2 examples in the middle of a pass, where the first has 4: a step of another shape"
    with pytest.warns(DataWarning, match=line) as caught:
        dataset = load("sized", arguments={"train": [4, 2, 4, 3, 4], "held_out": [4]})
    assert len(caught) == 1
    sizes = [len(dataset.batch(0, step)["label"]) for step in range(9)]
    assert sizes == [4, 2, 4, 3, 4, 4, 2, 4, 3]


@pytest.mark.parametrize(
    ("function", "options", "line"),
    [
        ("unequal", {}, r"differ in their number of examples: \{'image': 3, 'label': 4\}"),
        ("scalars", {}, r"differ in their number of examples: \{'image': None, 'label': None\}"),
        ("words", {}, r"arrays that hold no numbers: .*<U1"),
        ("others", {}, "gives the arrays x; the task also needs image, label"),
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
def test_data_of_another_form_is_told(function: str, options: dict[str, object], line: str) -> None:
    """With what there is and what was needed."""
    with pytest.raises(DataError, match=line):
        load(function, **options).batch(0, 0)


def test_a_module_that_is_not_there_is_told_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """With where it was looked for."""
    assert program.main([str(CONFIGS / "digits.yaml"), "data.name=no.such:data"]) == 2
    assert "data.name=no.such:data: there is no module no; it is looked for in" in capsys.readouterr().err


def test_a_module_is_found_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what fails within it is its own error, not ours."""
    (tmp_path / "sowlog_test_data.py").write_text("def make():\n    import no_such_thing\n")
    (tmp_path / "sowlog_test_broken.py").write_text("import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    for name in ("sowlog_test_data:make", "sowlog_test_broken:make"):
        with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
            data.load(FunctionData(name=name))


def test_a_run_on_an_iterable_is_taken_up_where_it_was(tmp_path: Path) -> None:
    """Bit for bit, where each call of the function gives the same; drawn batches are drawn again."""
    config = digits(f"data.name={HERE}:batches", "data.eval_batches=2", "steps=6")
    run(config, tmp_path / "straight")
    run_until(config, tmp_path / "stopped", 2)
    run(config, tmp_path / "stopped")
    assert points(tmp_path / "stopped") == points(tmp_path / "straight")
    assert saved_arrays(tmp_path / "stopped", 6) == saved_arrays(tmp_path / "straight", 6)


def until(at: int, file: str) -> Iterator[dict[str, np.ndarray]]:
    """Batches, of which one cannot be had as long as there is no file."""
    for number, batch in enumerate(batches()):
        if number == at and not Path(file).exists():
            raise FileNotFoundError(f"{file} is away")
        yield batch


def test_data_that_fails_on_its_way_costs_no_update(tmp_path: Path) -> None:
    """What was trained is saved before the error ends the run, which then goes on with mended data."""
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


def test_microbatches_that_do_not_divide_a_users_batches_are_told_with_status_2(
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
