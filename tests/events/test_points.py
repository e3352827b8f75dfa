"""Scalars written as tensors, as by TensorFlow 2."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX import SummaryWriter

import sowlog
from sowlog._events.file import create_event_file
from sowlog._events.framing import frame
from sowlog.testing import read_events
from tests.support.tensorboard_reading import tensorboard_points

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tensorboard.compat.proto.event_pb2 import Event as TensorBoardEvent
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.histogram import summary_v2 as histogram
    from tensorboard.plugins.scalar import summary_v2 as scalar
    from tensorboard.plugins.text import summary_v2 as text
    from tensorboard.util import tensor_util

DTYPES = [np.float32, np.float64, np.float16, jnp.bfloat16, np.int8, np.int16, np.int32, np.int64]
DTYPES += [np.uint8, np.uint16, np.uint32, np.uint64, np.bool_]


def write(folder, *summaries):
    """Write an event file in the form of TensorFlow 2, with one summary a step."""
    events = [TensorBoardEvent(file_version="brain.Event:2")]
    events += [
        TensorBoardEvent(wall_time=1.5 + step, step=step, summary=summary)
        for step, summary in enumerate(summaries)
    ]
    file = create_event_file(folder, b"".join(frame(event.SerializeToString()) for event in events))
    file.close()


def tensor_of(array):
    """Return a tensor that lists its elements; TensorBoard's stub of TensorFlow has no bfloat16."""
    if array.dtype != jnp.bfloat16:
        return tensor_util.make_tensor_proto(array)
    tensor = tensor_util.make_tensor_proto(array.astype(np.float16))
    tensor.dtype = 14
    tensor.half_val[:] = array.view(np.uint16).ravel().tolist()
    return tensor


def scalar_of(tensor, *, plugin="scalars"):
    """Return a summary of a tensor."""
    summary = Summary(value=[Summary.Value(tag="x", tensor=tensor)])
    summary.value[0].metadata.plugin_data.plugin_name = plugin
    return summary


def test_scalars_of_tensorflow_2_are_read_beside_other_kinds(tmp_path):
    """Written by TensorBoard's own plugins."""
    values = [1.0, 0.5, -0.25]
    summaries = [scalar.scalar_pb("loss", value) for value in values]
    for summary in summaries:
        summary.value.extend(histogram.histogram_pb("weights", [1.0, 2.0]).value)
        summary.value.extend(text.text_pb("note", "text").value)
    write(tmp_path, *summaries)
    run = sowlog.read(tmp_path)
    assert list(run.scalars) == ["loss"]
    assert run.scalars["loss"].steps.tolist() == [0, 1, 2]
    assert run.scalars["loss"].values.tolist() == values
    assert run.wall_times["loss"].tolist() == [1.5, 2.5, 3.5]
    assert run.damage == ()
    assert (list(run.texts), list(run.histograms), run.left_out) == (["note"], ["weights"], {})
    points = tensorboard_points(tmp_path)["tensors", "loss"]
    assert [(step, tensor_util.make_ndarray(tensor).item()) for step, tensor in points] == [
        *enumerate(values)
    ]
    assert [(point.step, point.value) for point in read_events(tmp_path)] == [*enumerate(values)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_tensors_of_every_numeric_dtype_are_read(tmp_path, dtype, shape):
    """In both forms of protobuf: listed elements and raw bytes."""
    element = np.full(shape, 1, dtype)
    raw = tensor_of(element)
    for field, _ in raw.ListFields():
        if field.name.endswith("_val"):
            raw.ClearField(field.name)
    raw.tensor_content = element.tobytes()
    summaries = [scalar_of(raw)]
    if dtype not in (np.uint32, np.uint64):  # tensorboardX knows no such lists.
        summaries += [scalar_of(tensor_of(element))]
    write(tmp_path, *summaries)
    assert sowlog.read(tmp_path).scalars["x"].values.tolist() == [1.0] * len(summaries)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.5, 0.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, jnp.bfloat16])
def test_floats_come_back(tmp_path, value, dtype):
    """NaN, infinity, a negative number, and zero, which may be left out."""
    write(tmp_path, scalar_of(tensor_of(np.array(value, dtype))))
    np.testing.assert_array_equal(sowlog.read(tmp_path).scalars["x"].values, [value])


@pytest.mark.parametrize(
    ("tensor", "plugin"),
    [
        (np.zeros(3, np.float32), "scalars"),
        (np.array(b"text", object), "scalars"),
        (np.zeros(3, np.float32), ""),
        (np.array(1.0, np.float32), "mine"),
        (np.array(1j, np.complex64), ""),
    ],
)
def test_tensors_that_are_no_scalar_are_read_as_tensors(tmp_path, tensor, plugin):
    """Vectors, text, complex numbers, and values of another plugin."""
    write(tmp_path, scalar_of(tensor_util.make_tensor_proto(tensor), plugin=plugin))
    run = sowlog.read(tmp_path)
    assert (dict(run.scalars), run.left_out, run.damage) == ({}, {}, ())
    (value,) = run.tensors["x"].values
    np.testing.assert_array_equal(value, tensor)
    assert value.dtype == tensor.dtype


def test_odd_tensors_break_nothing(tmp_path):
    """The bytes have another length than the dtype."""
    tensor = tensor_util.make_tensor_proto(np.array(1.0, np.float64))
    tensor.ClearField("double_val")
    tensor.tensor_content = b"123"
    write(tmp_path, scalar_of(tensor))
    run = sowlog.read(tmp_path)
    assert (list(run.scalars), list(run.tensors)) == ([], ["x"])
    with pytest.raises(ValueError, match=r"a value of x, at byte \d+ of .* float64 has 3 bytes\.$"):
        run.tensors["x"].values[0]


def test_our_other_kinds_are_read(tmp_path):
    """Images, histograms, text and hyperparameters."""
    with sowlog.Logger(tmp_path) as log:
        log.hparams({"a": 1})
        log(0, {"loss": 1.0, "h": sowlog.histogram.of(np.ones(3))})
        log.image(0, "image", np.zeros((2, 2), np.uint8))
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_text("note", "text", 0)
    run = sowlog.read(tmp_path)
    kinds = (run.scalars, run.histograms, run.images, run.texts, run.tensors, run.left_out)
    assert [list(kind) for kind in kinds] == [["loss"], ["h"], ["image"], ["note/text_summary"], [], []]
    assert run.hparams == {"a": 1.0}
