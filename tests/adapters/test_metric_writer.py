"""The interface of clu's metric writers over a logger, read back from the event file."""

import ast
import importlib.util
import inspect
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog.adapters import MetricWriter


def test_a_program_of_clu_writes_by_a_logger(tmp_path):
    """All kinds arrive under their tags and steps."""
    writer = MetricWriter(sowlog.Logger(tmp_path))
    writer.write_hparams({"learning_rate": 0.1, "model": "mlp"})
    writer.write_scalars(0, {"train/loss": jnp.float32(0.5), "rate": np.ones((1,), np.float32)})
    writer.write_scalars(0, {"eval/loss": 2})
    writer.write_scalars(np.int64(1), {"train/loss": 0.25})
    writer.write_images(0, {"one": np.zeros((1, 4, 5, 3), np.float32), "two": jnp.zeros((2, 4, 5, 1))})
    writer.write_texts(0, {"note": "**hello**"})
    writer.write_histograms(0, {"weights": jnp.arange(10.0)}, num_buckets={"weights": 5})
    writer.flush()
    run = sowlog.read(tmp_path)
    assert {tag: series.values.tolist() for tag, series in run.scalars.items()} == {
        "train/loss": [0.5, 0.25],
        "rate": [1.0],
        "eval/loss": [2.0],
    }
    assert sorted(run.images) == ["one", "two/00", "two/01"]
    assert list(run.texts["note"]) == [(0, "**hello**")]
    assert run.histograms["weights"].values[0].count == 10
    assert run.hparams == {"learning_rate": 0.1, "model": "mlp"}
    writer.close()
    with pytest.raises(RuntimeError, match="closed"):
        writer.write_scalars(2, {"x": 1.0})


def test_a_scalar_is_one_number(tmp_path):
    """An array of several elements is an error, where a logger would write a tag for each."""
    with (
        sowlog.Logger(tmp_path) as log,
        pytest.raises(ValueError, match=r"the scalar x has shape \(2,\)"),
    ):
        MetricWriter(log).write_scalars(0, {"x": np.ones(2)})


def test_kinds_that_a_logger_lacks_warn_once(tmp_path):
    """Each at its first call, with the tags and the way on; training goes on."""
    writer = MetricWriter(sowlog.Logger(tmp_path))
    calls = {
        "videos": lambda: writer.write_videos(3, {"clip": np.zeros((1, 2, 4, 4, 3))}),
        "audio": lambda: writer.write_audios(3, {"clip": np.zeros((1, 8, 1))}, sample_rate=8000),
        "summaries of TensorFlow": lambda: writer.write_summaries(3, {"clip": np.zeros(2)}, {"clip": None}),
    }
    for kind, call in calls.items():
        with pytest.warns(
            sowlog.LossWarning, match=f"of step 3: a logger has no {kind}, so clip and all later"
        ):
            call()
        call()
    writer.close()


def test_the_methods_are_those_of_clu():
    """With the same arguments, by the source, as the import needs TensorFlow."""
    (folder,) = importlib.util.find_spec("clu").submodule_search_locations
    source = Path(folder, "metric_writers", "interface.py").read_text()
    (theirs,) = (node for node in ast.parse(source).body if getattr(node, "name", "") == "MetricWriter")
    methods = [node for node in theirs.body if isinstance(node, ast.FunctionDef)]
    assert len(methods) > 8
    for method in methods:
        ours = inspect.signature(getattr(MetricWriter, method.name)).parameters
        assert list(ours) == [each.arg for each in (*method.args.args, *method.args.kwonlyargs)]
