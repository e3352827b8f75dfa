"""Write the corpus of TensorFlow 2, Flax and clu: `python make_tensorflow.py FOLDER`.

It needs tensorflow-cpu, tensorboard, flax and clu. Times are the clock's: `tf.summary` takes no others.
"""

import ml_dtypes
import numpy as np
import tensorflow as tf
from clu import metric_writers
from flax.metrics import tensorboard as flax_tensorboard
from making import ODD_TAGS, ODD_VALUES, PIXELS, STEPS, make, wait_for_the_clock
from tensorboard.plugins.hparams import api

SOUND = np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 32, 1)
DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64", "complex64"),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4),
)


def scalars(folder):
    """Steps that are negative, huge and out of order; odd values and tags; values of each dtype."""
    with tf.summary.create_file_writer(str(folder)).as_default():
        for number, step in enumerate(STEPS):
            tf.summary.scalar("steps", 0.1 * number, step)
        for step, value in enumerate(ODD_VALUES):
            tf.summary.scalar("odd", value, step)
        for tag in ODD_TAGS:
            tf.summary.scalar(tag, 1.0, 0)
        for dtype in DTYPES[:12]:
            tf.summary.scalar(f"dtype/{dtype}", np.ones((), dtype), 0)
        tf.summary.scalar("dtype/bfloat16", tf.constant(0.1, tf.bfloat16), 0)
        with tf.name_scope("outer"), tf.name_scope("inner"):
            tf.summary.scalar("scoped", 2.0, 0, description="A *description*, ö.")
        tf.summary.experimental.set_step(9)
        tf.summary.scalar("default step", 3.0)


def raw_scalars(folder):
    """Values of the scalar plugin by `tf.summary.write`: of any dtype, with and without dimensions."""
    from tensorboard.plugins.scalar import metadata  # noqa: PLC0415 - it is TensorBoard's

    with tf.summary.create_file_writer(str(folder)).as_default():
        for dtype in DTYPES:
            name = np.dtype(dtype).name
            of_scalars = metadata.create_summary_metadata(display_name=None, description="")
            for step in range(3):
                value = tf.constant(np.array(step, dtype))
                tf.summary.write(f"scalar/{name}", value, step, metadata=of_scalars)
        for step, shape in enumerate(((), (1,), (1, 1), (2,), (0,))):
            of_scalars = metadata.create_summary_metadata(display_name=None, description="")
            tf.summary.write(f"shape/{step}", tf.ones(shape), step, metadata=of_scalars)
        for step in range(2):
            tf.summary.write("no metadata", tf.constant(0.5), step)
        for step, value in enumerate((1.0, np.ones(2, np.float32), b"text", 2.0)):
            tf.summary.write("mixed", tf.constant(value), step, metadata=of_scalars if step == 0 else None)


def tensors(folder):
    """Of each dtype and of strings, without dimensions, with one and two, empty, and repeated."""
    with tf.summary.create_file_writer(str(folder)).as_default():
        for dtype in DTYPES:
            name = np.dtype(dtype).name
            for shape in ((), (3,), (2, 3), (0,), (2, 0)):
                array = (np.arange(np.prod(shape)) + 1).reshape(shape).astype(dtype)
                tf.summary.write(f"{name}/{len(shape)}/{array.size}", tf.constant(array), 1)
            tf.summary.write(f"{name}/same", tf.constant(np.full((4, 4), 1, dtype)), 1)
        for step, text in enumerate((b"a", [b"a", b"\xff\x00"], [["ö", ""], ["c", "d"]], [])):
            tf.summary.write("string", tf.constant(text, tf.string), step)
        tf.summary.write("quantized", tf.quantization.quantize([0.0, 1.0], 0.0, 1.0, tf.quint8)[0], 0)


def histograms(folder):
    """With several numbers of buckets, of one value, of none, of integers; steps that go back."""
    values = np.linspace(-3, 5, 50) ** 3
    with tf.summary.create_file_writer(str(folder)).as_default():
        for step in (0, 4, 2):
            tf.summary.histogram("thirty", values * step, step)
            tf.summary.histogram("three", values + step, step, buckets=3, description="Three buckets.")
        tf.summary.histogram("one value", np.full(9, 2.0), 0)
        tf.summary.histogram("one bucket", values, 0, buckets=1)
        tf.summary.histogram("none", np.zeros(0), 0)
        tf.summary.histogram("no bucket", values, 0, buckets=0)
        tf.summary.histogram("integers", np.arange(20), 0, buckets=4)
        tf.summary.histogram("large", np.array([-1e300, 1e300]), 0, buckets=2)


def media(folder):
    """Images, also none of a batch and with alpha; audio; texts without dimensions and in tables; a trace."""
    with tf.summary.create_file_writer(str(folder)).as_default():
        for step in range(2):
            tf.summary.image("images", np.stack([PIXELS + step] * 4), step, max_outputs=2)
            tf.summary.text("text", f"*step* {step} ö", step)
            tf.summary.text("table", [["a", "b"], ["c", f"{step}"]], step)
        tf.summary.image("none", np.zeros((0, 2, 2, 3), np.uint8), 0)
        tf.summary.image("gray", np.linspace(0, 1, 20).reshape(1, 4, 5, 1), 0)
        tf.summary.image("alpha", np.concatenate([PIXELS, PIXELS[..., :1]], -1)[None], 0)
        tf.summary.image("deep", np.arange(12, dtype=np.uint16).reshape(1, 2, 2, 3) * 5000, 0)
        tf.summary.text("list", ["x", "y"], 0)
        tf.summary.text("no text", tf.constant([], tf.string), 0)
        tf.summary.audio("audio", SOUND, 8000, 0)
        tf.summary.trace_on(graph=True)
        tf.function(lambda x: x + 1)(tf.constant(1.0))
        tf.summary.trace_export("trace", 0)


def hparams(folder):
    """The plugin's configuration at the root, and two runs with settings of all types."""
    rate, name = api.HParam("lr", api.RealInterval(0.0, 1.0)), api.HParam("name", api.Discrete(["a", "ö"]))
    with tf.summary.create_file_writer(str(folder)).as_default():
        api.hparams_config([rate, name], metrics=[api.Metric("accuracy", display_name="Accuracy")])
    for number in range(2):
        with tf.summary.create_file_writer(str(folder / "trials" / f"{number}")).as_default():
            api.hparams(
                {rate: 0.5 * number, name: "ö", "fast": bool(number), "layers": 3}, trial_id=f"t{number}"
            )
            tf.summary.scalar("accuracy", 0.5, 1)


def compat(folder):
    """The summaries of TensorFlow 1 with a start of a session, then another file that supersedes."""
    for first in (0, 3):
        with tf.Graph().as_default():
            write_compat(tf.compat.v1.summary.FileWriter(str(folder)), first)
        wait_for_the_clock()


def write_compat(writer, first):
    """Write one file."""
    v1 = tf.compat.v1
    if first:
        writer.add_session_log(v1.SessionLog(status=v1.SessionLog.START), first)
    for step in range(first, first + 4):
        values = [v1.Summary.Value(tag="loss", simple_value=step + 0.1 * first)]
        values.append(v1.Summary.Value(node_name="node", tensor=tf.make_tensor_proto([1.0 * step])))
        writer.add_summary(v1.Summary(value=values), step)
    writer.add_summary(v1.Summary(), first + 4)
    with v1.Session() as session:
        data = tf.constant(SOUND)
        made = v1.summary.merge(
            [
                v1.summary.histogram("histogram", np.arange(9.0)),
                v1.summary.image("image", PIXELS[None]),
                v1.summary.text("text", tf.constant("old")),
                v1.summary.tensor_summary("tensor", tf.constant([[1, 2]])),
                v1.summary.audio("audio", data, 8000),
                v1.summary.scalar("scalar", tf.constant(first)),
            ]
        )
        writer.add_graph(tf.Graph())
        writer.add_summary(session.run(made), first)
    writer.close()


def nothing(folder):
    """A writer without a summary."""
    tf.summary.create_file_writer(str(folder)).close()


def tree(folder):
    """Runs of training and validation, each in two files, of which the later one repeats steps."""
    for run in ("train", "nested/validation"):
        for last in (4, 3):
            with tf.summary.create_file_writer(str(folder / run)).as_default():
                for step in range(last):
                    tf.summary.scalar("epoch_loss", 1.0 * last + step, step)
            wait_for_the_clock()


def clu(folder):
    """All that clu's writer takes."""
    writer = metric_writers.SummaryWriter(str(folder))
    writer.write_hparams({"lr": 0.1, "model": {"layers": 3, "name": "ö"}, "fast": True, "shape": (1, 2)})
    for step in range(3):
        writer.write_scalars(step, {"loss": 1.0 / (step + 1), "array": np.ones((), np.float64), "int": step})
        writer.write_images(step, {"image": np.stack([PIXELS, PIXELS])})
        writer.write_texts(step, {"text": f"step {step}"})
        writer.write_histograms(step, {"h": np.arange(9.0) * step}, num_buckets={"h": 4})
        writer.write_summaries(step, {"raw": np.arange(3.0) * step}, {"raw": tf.compat.v1.SummaryMetadata()})
    writer.write_audios(0, {"audio": SOUND}, sample_rate=8000)
    writer.close()


def flax(folder):
    """All that Flax's own writer takes."""
    writer = flax_tensorboard.SummaryWriter(str(folder))
    writer.hparams({"lr": 0.1, "model": {"layers": 3, "name": "ö"}})
    for step in range(2):
        writer.scalar("loss", 0.5 * step, step)
        writer.image("image", PIXELS, step)
        writer.text("text", f"step {step}", step)
        writer.histogram("h", np.arange(9.0) * step, step, bins=4)
        writer.write("raw", np.arange(4, dtype=np.int64) * step, step)
    writer.audio("audio", SOUND, 0, sample_rate=8000)
    writer.close()


make(
    {
        case.__name__: case
        for case in (
            *(scalars, raw_scalars, tensors, histograms, media, hparams, compat, nothing, tree, clu, flax),
        )
    }
)
