"""Write the corpus of tensorboardX: `python make_tensorboardx.py FOLDER`.

It needs tensorboardX, Pillow, soundfile and moviepy<2.
"""

import numpy as np
from making import ODD_TAGS, ODD_VALUES, PIXELS, STEPS, TIME, make, wait_for_the_clock
from tensorboardX import SummaryWriter


def scalars(folder):
    """Steps that are negative, huge and out of order; odd values and tags; names and descriptions."""
    with SummaryWriter(str(folder)) as writer:
        for number, step in enumerate(STEPS):
            writer.add_scalar("steps", 0.1 * number, step, walltime=TIME - number)
        for step, value in enumerate(ODD_VALUES):
            writer.add_scalar("odd", value, step, walltime=TIME)
        for tag in ODD_TAGS:
            writer.add_scalar(tag, 1.0, 0, walltime=TIME)
        writer.add_scalar("named", 1.0, 0, TIME, display_name="Name", summary_description="A description, ö.")
        writer.add_scalar("array", np.array([[2.5]], np.float16), 0, walltime=TIME)


def media(folder):
    """Histograms, images, a GIF, audio, texts, a curve, meshes, a layout."""
    with SummaryWriter(str(folder)) as writer:
        for step in range(2):
            writer.add_image("image", PIXELS + step, step, walltime=TIME, dataformats="HWC")
            writer.add_text("text", f"*step* {step} ö", step, walltime=TIME)
            writer.add_histogram("h", np.arange(9.0) * step, step, bins=4, walltime=TIME)
            writer.add_histogram("odd", np.array([-1e30, 1e30, 1e19]), step, bins="auto", walltime=TIME)
        writer.add_histogram("tensorflow", np.arange(9.0), 0, bins="tensorflow", max_bins=20, walltime=TIME)
        raw = {"min": -1.0, "max": 4.0, "num": 6, "sum": 9.0, "sum_squares": 21.0}
        writer.add_histogram_raw("raw", bucket_limits=[4.0, 0.0], bucket_counts=[1, 5], walltime=TIME, **raw)
        writer.add_images("images", np.stack([PIXELS, PIXELS]), 0, walltime=TIME, dataformats="NHWC")
        writer.add_image_with_boxes("box", PIXELS, np.array([[0, 0, 2, 2]]), 0, TIME, dataformats="HWC")
        video = np.stack([PIXELS, PIXELS[::-1]]).transpose(0, 3, 1, 2)[None]
        writer.add_video("video", video, 0, walltime=TIME)
        writer.add_audio("audio", np.linspace(-1, 1, 32)[:, None], 0, sample_rate=8000, walltime=TIME)
        scores = np.array([0.2, 0.4, 0.9])
        writer.add_pr_curve("curve", np.array([0, 1, 1]), scores, 1, num_thresholds=7, walltime=TIME)
        writer.add_mesh("mesh", np.arange(9.0).reshape(1, 3, 3), global_step=0, walltime=TIME)
        writer.add_custom_scalars({"all": {"loss": ["Multiline", ["loss/train", "loss/test"]]}})


def hparams(folder):
    """A tree: the run, and one for the hyperparameters and one for each of several scalars."""
    with SummaryWriter(str(folder)) as writer:
        settings = {"lr": 0.1, "layers": 3, "name": "adam ö", "nesterov": True}
        writer.add_hparams(settings, {"hparam/accuracy": 0.5}, name="trial", global_step=1)
        writer.add_scalars("losses", {"train": 1.0, "test": 2.0}, 1, walltime=TIME)


def purge(folder):
    """Three restarts with purge_step, the last of them at a step that none has reached."""
    for first, last in ((None, 6), (3, 5), (4, 7), (20, 22)):
        with SummaryWriter(str(folder), purge_step=first) as writer:
            for step in range(first or 0, last):
                writer.add_scalar("a", 100.0 * (first or 0) + step, step, walltime=TIME + step)
                writer.add_text("note", f"{first} {step}", step, walltime=TIME + step)
                writer.add_histogram("h", np.arange(4.0) * step, step, bins=3, walltime=TIME + step)
        wait_for_the_clock()


def restart(folder):
    """Two writers one after the other without purge_step, so that steps go back."""
    for last in (4, 3):
        with SummaryWriter(str(folder)) as writer:
            for step in range(last):
                writer.add_scalar("a", 10.0 * last + step, step, walltime=TIME + last + step)
        wait_for_the_clock()


make({case.__name__: case for case in (scalars, media, hparams, purge, restart)})
