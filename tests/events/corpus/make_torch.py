"""Write the corpus of torch.utils.tensorboard: `python make_torch.py FOLDER`.

It needs torch, tensorboard, Pillow and moviepy<2.
"""

import numpy as np
import torch
from making import ODD_TAGS, ODD_VALUES, PIXELS, STEPS, TIME, make, wait_for_the_clock
from torch.utils.tensorboard import SummaryWriter


def scalars(folder):
    """Steps that are negative, huge and out of order; odd values and tags; both forms, single and double."""
    with SummaryWriter(folder) as writer:
        for number, step in enumerate(STEPS):
            for style, form in (
                ("old", {}),
                ("new", {"new_style": True}),
                ("double", {"new_style": True, "double_precision": True}),
            ):
                writer.add_scalar(style, 0.1 * number, step, walltime=TIME - number, **form)
        for step, value in enumerate(ODD_VALUES):
            writer.add_scalar("odd/old", value, step, walltime=TIME)
            writer.add_scalar("odd/new", value, step, walltime=TIME, new_style=True)
        for tag in ODD_TAGS:
            writer.add_scalar(tag, 1.0, 0, walltime=TIME)
        writer.add_scalar("array", np.array([[2.5]]), 0, walltime=TIME)
        writer.add_scalar("half", torch.tensor(0.1, dtype=torch.bfloat16), 0, walltime=TIME)
        writer.add_scalar("no step", 1.0, walltime=TIME)


def tensors(folder):
    """Of each dtype that the writer takes, without dimensions, with one and two, and empty."""
    names = (
        "half",
        "float",
        "double",
        "bfloat16",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "bool",
        "cfloat",
    )
    with SummaryWriter(folder) as writer:
        for name in names:
            dtype = getattr(torch, name)
            for shape in ((), (3,), (2, 3), (0,)):
                tensor = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape).to(dtype)
                try:
                    writer.add_tensor(f"{name}/{len(shape)}{shape}", tensor, 3, walltime=TIME)
                except (RuntimeError, TypeError, ValueError, NotImplementedError, KeyError) as error:
                    print("left out:", name, shape, error)


def histograms(folder):
    """With the buckets of TensorBoard and of NumPy, raw ones, of one value, of integers, without values."""
    values = np.linspace(-3, 5, 50) ** 3
    with SummaryWriter(folder) as writer:
        for step in range(3):
            writer.add_histogram("tensorflow", values * step, step, max_bins=40, walltime=TIME + step)
            writer.add_histogram("auto", values + step, step, bins="auto", walltime=TIME + step)
            writer.add_histogram("seven", values, step, bins=7, max_bins=3, walltime=TIME + step)
        writer.add_histogram("one", np.full(9, 2.0), 0, bins=5, walltime=TIME)
        writer.add_histogram("integers", np.arange(20), 0, walltime=TIME)
        writer.add_histogram("large", np.array([-1e30, 1e30, 1e19]), 0, walltime=TIME)
        raw = {"min": -1.0, "max": 4.0, "num": 6, "sum": 9.0, "sum_squares": 21.0}
        for tag, limits, counts in (
            ("raw", [0.0, 1.0, 4.0], [1, 2, 3]),
            ("raw/holes", [-5.0, 0.0, 1.0, 4.0, 9.0], [0, 1, 0, 5, 0]),
            ("raw/all empty", [0.0, 1.0], [0, 0]),
            ("raw/no buckets", [], []),
            ("raw/negative", [0.0, 1.0, 4.0], [1, -2, 3]),
            ("raw/not sorted", [4.0, 0.0, 1.0], [1, 2, 3]),
            ("raw/nan", [0.0, float("nan"), float("inf")], [1, 2, 3]),
        ):
            writer.add_histogram_raw(tag, bucket_limits=limits, bucket_counts=counts, **raw, walltime=TIME)


def media(folder):
    """Images, a GIF, audio, texts, a curve, meshes, a layout, a graph, an embedding."""
    with SummaryWriter(folder) as writer:
        for step in range(2):
            writer.add_image("image", PIXELS + step, step, dataformats="HWC", walltime=TIME)
            writer.add_text("text", f"*step* {step} ö", step, walltime=TIME)
        writer.add_image("gray", PIXELS[..., 0] / 255.0, 0, dataformats="HW", walltime=TIME)
        writer.add_images("images", np.stack([PIXELS, PIXELS]), 0, dataformats="NHWC", walltime=TIME)
        boxes = np.array([[0, 0, 2, 2]])
        writer.add_image_with_boxes("boxes", PIXELS, boxes, 0, dataformats="HWC", walltime=TIME)
        video = torch.from_numpy(np.stack([PIXELS, PIXELS[::-1]])).permute(0, 3, 1, 2)[None]
        writer.add_video("video", video, 0, walltime=TIME)
        writer.add_audio("audio", torch.linspace(-1, 1, 32), 0, sample_rate=8000, walltime=TIME)
        writer.add_pr_curve(
            "curve", np.array([0, 1, 1]), np.array([0.2, 0.4, 0.9]), 1, num_thresholds=7, walltime=TIME
        )
        writer.add_mesh("mesh", torch.arange(9.0).reshape(1, 3, 3), global_step=0, walltime=TIME)
        writer.add_custom_scalars({"all": {"loss": ["Multiline", ["loss/train", "loss/test"]]}})
        writer.add_graph(torch.nn.Linear(2, 1), torch.ones(1, 2))
        writer.add_scalar("loss/train", 1.0, 0, walltime=TIME)


def long_tag(folder):
    """A tag of 100 kB."""
    with SummaryWriter(folder) as writer:
        writer.add_scalar("long/" + "ö" * 50_000, 0.5, 7, walltime=TIME)


def hparams(folder):
    """A tree: the run, and one for the hyperparameters and one for each of several scalars."""
    with SummaryWriter(folder) as writer:
        settings = {"lr": 0.1, "layers": 3, "name": "adam ö", "nesterov": True, "tensor": torch.tensor([2.0])}
        writer.add_hparams(settings, {"hparam/accuracy": 0.5}, run_name="trial")
        writer.add_scalars("losses", {"train": 1.0, "test": 2.0}, 1, walltime=TIME)
        writer.add_scalar("x", 1.0, 1, walltime=TIME)


def purge(folder):
    """Two restarts with purge_step, the second behind the end of the run; several kinds."""
    for first, last in ((None, 6), (3, 5), (9, 11)):
        with SummaryWriter(folder, purge_step=first) as writer:
            for step in range(first or 0, last):
                writer.add_scalar("a", 100.0 * (first or 0) + step, step, walltime=TIME + step)
                writer.add_scalar("b", step, step, walltime=TIME + step, new_style=True)
                writer.add_text("note", f"{first} {step}", step, walltime=TIME + step)
                writer.add_histogram("h", np.arange(4.0) * step, step, bins=3, walltime=TIME + step)
            if first is None:
                writer.add_scalar("only before", 1.0, 5, walltime=TIME)
        wait_for_the_clock()


def restart(folder):
    """Two writers one after the other without purge_step, so that steps go back."""
    for last in (4, 3):
        with SummaryWriter(folder) as writer:
            for step in range(last):
                writer.add_scalar("a", 10.0 * last + step, step, walltime=TIME + last + step)
        wait_for_the_clock()


def two_writers(folder):
    """Two files that were open at once, with events in turn."""
    one, two = SummaryWriter(folder), SummaryWriter(folder, filename_suffix=".second")
    for step in range(4):
        one.add_scalar("one", step, step, walltime=TIME + step)
        two.add_scalar("two", step, step, walltime=TIME + step)
        two.add_scalar("both", step + 0.5, step, walltime=TIME + step)
        one.add_scalar("both", step, step, walltime=TIME + step)
    one.close()
    two.close()


def empty(folder):
    """A writer that was closed at once."""
    SummaryWriter(folder).close()


make(
    {
        case.__name__: case
        for case in (
            *(scalars, tensors, histograms, media, long_tag),
            *(hparams, purge, restart, two_writers, empty),
        )
    }
)
