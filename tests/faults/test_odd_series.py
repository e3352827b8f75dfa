import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog._tree.layout import ABSENT
from tests.support.tensorboard_reading import (
    data_server,
    data_server_series,
    tensorboard_points,
    tensorboard_scalars,
)
from tests.support.waiting import wait_until

VALUES = np.array(
    [0.0, -0.0, 1e-45, -1e-40, 1.1754944e-38, 3.4028235e38, np.inf, -np.inf, np.nan], np.float32
)
REDUCERS = (sowlog.sum, sowlog.mean, sowlog.min, sowlog.max, sowlog.last)


def test_every_float32_survives_the_way_from_the_device(tmp_path):
    """Reduced and packed under jit, logged, and read by TensorBoard, each float32 has the same bits."""
    step_metrics = jax.jit(
        lambda x: sowlog.pack({"plain": x, **{f"{i}": reducer.of(x) for i, reducer in enumerate(REDUCERS)}})
    )
    with sowlog.Logger(tmp_path, on_nonfinite="ignore") as log:
        for step, value in enumerate(VALUES):
            log(step, step_metrics(value))
    series = tensorboard_scalars(tmp_path)
    assert len(series) == 1 + len(REDUCERS)
    for tag, points in series.items():
        assert points.steps == list(range(len(VALUES))), tag
        assert np.array(points.values, np.float32).tobytes() == VALUES.tobytes(), tag


def test_a_nan_with_the_bits_of_the_absent_is_a_point(tmp_path):
    """A sown NaN with any payload is shown."""
    nan = np.array(ABSENT).view(np.float32)[()]
    with sowlog.Logger(tmp_path, on_nonfinite="ignore") as log:
        log(0, {"host": nan, "device": jnp.asarray(nan)})
        log(1, jax.jit(lambda x: sowlog.pack({"mean": sowlog.mean.of(x), "plain": x}))(nan))
    steps = {tag: points.steps for tag, points in tensorboard_scalars(tmp_path).items()}
    assert steps == {"host": [0], "device": [0], "mean": [1], "plain": [1]}


def test_steps_are_logged_as_they_are_given(tmp_path):
    """Steps that repeat, go back, are negative or beyond 2^31 are written in the order of the calls."""
    steps = [3, 3, 1, -5, 2**31, 2**40, 7]
    log = sowlog.Logger(tmp_path)
    with log._background._lock:  # So that the warning comes at the close.
        for number, step in enumerate(steps):
            log(step, {"x": float(number)})
    with pytest.warns(sowlog.LossWarning, match="step 3 of x is logged .* after its step 3"):
        log.close()
    assert tensorboard_scalars(tmp_path)["x"][:2] == (steps, list(range(7)))
    assert sowlog.read(tmp_path).scalars["x"].steps.tolist() == steps


def test_a_tag_whose_kind_changes_keeps_the_points_of_each_kind(tmp_path):
    """The file has each kind at its own steps: a scalar, the elements of a vector, a histogram."""
    x = jnp.arange(10.0)
    kinds = [lambda: jnp.float32(1), lambda: jnp.ones(2), lambda: sowlog.histogram.of(x)]
    with sowlog.Logger(tmp_path / "run") as log:
        for step in range(9):
            log(step, {"x": kinds[step % 3](), "y": 1.0})
    points = tensorboard_points(tmp_path / "run")
    steps = {key: [step for step, _ in series] for key, series in points.items()}
    assert steps == {
        ("scalars", "x"): [0, 3, 6],
        ("scalars", "x/00"): [1, 4, 7],
        ("scalars", "x/01"): [1, 4, 7],
        ("histograms", "x"): [2, 5, 8],
        ("scalars", "y"): list(range(9)),
    }
    scalars = {tag: at for (kind, tag), at in steps.items() if kind == "scalars"}
    read = sowlog.read(tmp_path / "run").scalars
    assert {tag: series.steps.tolist() for tag, series in read.items()} == scalars
    with data_server(tmp_path) as server:
        wait_until(lambda: len(data_server_series(server, "y").get("run", [[]])[0]) == 9)
        assert {tag: data_server_series(server, tag)["run"].steps for tag in scalars} == scalars
