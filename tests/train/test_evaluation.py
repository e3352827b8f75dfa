"""Held-out data in batches and a remainder, through the program's loop and on several devices."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sowlog
from tests.train.running import CONFIGS, digits
from train import __main__ as program
from train import data, dry_run, evaluation, step, tasks
from train.config.errors import ConfigError
from train.parallel import devices

HERE = "tests.train.test_evaluation"


def poisoned() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Examples, and as many held-out ones as fill a batch and a half, of which the last holds a NaN."""
    image = np.random.default_rng(0).random((12, 8, 8, 1), np.float32)
    held_out = image.copy()
    held_out[-1, 0, 0] = np.nan
    label = np.arange(12) % 10
    return {"image": image, "label": label}, {"image": held_out, "label": label}


def test_an_evaluation_is_that_of_each_example_by_itself() -> None:
    """Of 357 held-out digits, in batches of 100 that four devices share, and 57 left over that each has."""
    config = digits("data.batch_size=100")
    task, dataset = tasks.build(config.task), data.load(config.data)
    variables = step.make_init(task, optax.sgd(0.1), config)(dataset.batch(0, 0)).variables
    held_out = dataset.held_out()
    remainder = {name: array[:, :57] for name, array in dataset.remainder().items()}
    on = devices.Devices("replicated", jax.devices()[:4])
    placed = [on.place_held_out(part) for part in (held_out, remainder)]
    assert [part["label"].addressable_shards[0].data.shape for part in placed] == [(3, 25), (1, 57)]
    variables = jax.device_put(variables, on.everywhere)
    summary = evaluation.make_evaluate(task, config, sharding=on.everywhere)(variables, *placed)
    image, label = (
        np.concatenate([part[name].reshape(-1, *part[name].shape[2:]) for part in (held_out, remainder)])
        for name in ("image", "label")
    )
    assert len(label) == 357
    whole = task.forward(jax.device_get(variables), {"image": image, "label": label}, None)
    assert float(summary.shown["loss"]) == pytest.approx(float(whole.loss), rel=1e-5)
    accuracy = float(whole.metrics["accuracy"].compute())
    assert float(summary.shown["accuracy"]) == pytest.approx(accuracy, rel=1e-6)
    assert whole.confusion is not None
    assert summary.confusion is not None
    counts = np.asarray(whole.confusion.compute())
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(label, minlength=10))
    assert counts.trace() == round(357 * accuracy)
    # A digit whose two best logits are equal to the last bit may be read as either.
    assert np.abs(np.asarray(summary.confusion) - counts).sum() <= 2


def test_a_dry_run_lists_the_shapes_of_an_evaluation() -> None:
    """Of its batches and of the remainder, if there is one."""
    for size, lines in {
        100: [
            "held out, 3 of: image float32[100, 8, 8, 1], label int32[100]",
            "held out, left over: image float32[60, 8, 8, 1], label int32[60]",
        ],
        40: ["held out, 9 of: image float32[40, 8, 8, 1], label int32[40]"],
    }.items():
        config = digits(f"data.batch_size={size}")
        text = dry_run.describe(config, data.load(config.data)).splitlines()
        assert [line for line in text if line.startswith("held out")] == lines


def test_a_held_out_nan_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That names the column and the step; it is in the examples that are left over."""
    own = [f"data.name={HERE}:poisoned", "task.width=2", "data.batch_size=8", "steps=1"]
    assert program.main([str(CONFIGS / "digits.yaml"), *own, "--workdir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("warning")] == [
        "warning: eval/loss is nan at step 0.",
        "warning: eval/loss is nan at step 1.",
    ]


def test_a_confusion_matrix_counts_labels_by_predictions() -> None:
    """Of any shape and of several batches; a label beyond the classes, as of padding, is not counted."""
    labels, predicted = jnp.array([[0, 0, 1], [2, -1, 3]]), jnp.array([[0, 1, 1], [0, 0, 0]])
    counts = tasks.confusion(labels, predicted, 3)
    twice = sowlog.merge({"": counts}, {"": counts})[""]
    np.testing.assert_array_equal(twice.compute(), [[2, 2, 0], [0, 2, 0], [2, 0, 0]])


def test_a_result_that_lies_deeper_is_named() -> None:
    """A `*` is within one part of a tag, so a glob of the last parts needs `**/` in front."""
    config = digits()
    task = tasks.build(config.task)
    task.results = ("*/dead_units",)
    tags = ["eval/accuracy", "eval/encoder/block_0/dead_units"]
    with pytest.raises(ConfigError, match=r'"\*/dead_units"; did you mean \*\*/\*/dead_units\?'):
        evaluation.check_results(config, task, tags)
    task.results = ("**/dead_units", "accuracy")
    assert evaluation.check_results(config, task, tags) == ("encoder/block_0/dead_units", "accuracy")
