import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

import sowlog
from sowlog.writers import Record
from train.show import display


def shown(
    capsys: pytest.CaptureFixture[str], results: Sequence[str], *steps: tuple[int, Mapping[str, float]]
) -> list[str]:
    """Return the lines of a run of ten steps, which takes no time."""
    writers = display.writers(results, steps=10)
    for step, values in steps:
        record = Record(step, 0.0, tags=tuple(values), values=np.array([*values.values()], np.float32))
        for writer in writers:
            writer.write(record)
    for writer in writers:
        writer.flush()
        writer.close()
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_a_held_out_value_that_is_not_finite_has_a_line(capsys) -> None:
    """It names the value and the step, also of a single layer; only results have one."""
    values = {"eval/block/x": math.inf, "eval/loss": math.nan, "eval/accuracy": 0.5, "eval/other": math.nan}
    steps = [(5, values), (6, {"loss": math.nan}), (10, values)]
    assert [line for line in shown(capsys, ["loss", "accuracy", "block/x"], *steps) if "warning" in line] == [
        "warning: eval/block/x is inf at step 5.",
        "warning: eval/loss is nan at step 5.",
        "warning: eval/block/x is inf at step 10.",
        "warning: eval/loss is nan at step 10.",
    ]


def test_a_held_out_layer_that_is_not_finite_has_a_line_if_its_family_is_folded(capsys) -> None:
    """NaN and both infinities, of which the scalars of the family show only the largest."""
    writer = display.Messages(f"eval/x/{layer:02}" for layer in range(3))
    with sowlog.Logger("unused", writers=[writer], fold="eval/**", on_nonfinite="ignore") as log:
        log(5, {"eval": {"x": [-math.inf, 1.0, 2.0], "y": [math.nan, 0.0]}})
    assert capsys.readouterr().out == "warning: eval/x/00 is -inf at step 5.\n"


def test_every_evaluation_is_shown_however_fast_the_steps_are(capsys) -> None:
    """Under its step, the most important result first, without the values of single layers."""
    evaluation = {"eval/block_0/dead": 1.0, "eval/loss": 2.0, "eval/accuracy": 0.5}
    steps = [(0, evaluation), (4, evaluation), (8, evaluation)]
    assert shown(capsys, ["accuracy", "loss", "block_0/dead"], *steps) == [
        f"step {step}/10  eval/accuracy 0.5000  eval/loss 2.000" for step in (0, 4, 8)
    ]


def test_training_is_shown_beside_its_evaluations(capsys) -> None:
    """The first step, and the last before an evaluation; an interval has no others."""
    training = [(step, {"loss": float(step), "norm/grads": 1.0}) for step in range(8)]
    steps = [*training[:4], (4, {"eval/loss": 9.0}), *training[4:]]
    assert shown(capsys, ["loss"], *steps) == [
        "step 0/10  loss 0.000",
        "step 3/10  loss 3.000",
        "step 4/10  eval/loss 9.000",
        "step 7/10  loss 7.000",
    ]


def test_a_task_whose_results_are_of_layers_shows_its_loss(capsys) -> None:
    """Each task has one."""
    assert shown(capsys, ["usage/00"], (0, {"usage/00": 1.0, "loss": 2.0})) == ["step 0/10  loss 2.000"]
