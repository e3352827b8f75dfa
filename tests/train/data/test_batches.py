from pathlib import Path

import numpy as np
import pytest

from tests.train.data.loaders import CALLS, HERE, held_out_parts, load, numbers
from tests.train.running import CONFIGS
from train import __main__ as program
from train.data.examples import DataError, DataWarning


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
    """Held-out batches are not all the last one, and a batch stays the same as the next is drawn."""
    ours, expected = (load(function, eval_batches=3) for function in ("refilled", "batches"))
    np.testing.assert_array_equal(ours.held_out()["image"], expected.held_out()["image"])
    drawn = [ours.batch(0, step) for step in range(4)]
    assert [numbers(batch) for batch in drawn] == [[3], [4], [5], [6]]


@pytest.mark.parametrize(("function", "options"), [("shuffled", {}), ("shuffled", {"fixed": 2})])
def test_a_loader_that_shuffles_anew_is_refused_before_its_held_out_examples_are_trained_on(
    function: str, options: dict[str, int]
) -> None:
    """With what to write in place of it: the next epoch would begin with others."""
    with pytest.raises(DataError, match=r"returns other batches each time.*Write: return train, held_out"):
        load(function, arguments=options, eval_batches=10)


def test_a_later_epoch_that_begins_with_other_batches_is_refused() -> None:
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
def test_a_loader_that_a_resumed_run_would_not_repeat_is_reported(
    function: str, arguments: dict[str, int], what: str
) -> None:
    """Before training: held-out batches stay apart, and the run goes on in the order of the first call."""
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
