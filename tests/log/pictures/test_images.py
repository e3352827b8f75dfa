import sys
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog.testing import MemoryWriter
from tests.support.odd_writers import GatedWriter, StallingWriter
from tests.support.tensorboard_reading import tensorboard_images
from tests.support.waiting import wait_until

RAMP = np.linspace(0, 1, 48, dtype=np.float32)


def as_bytes(image):
    """Return pixels from 0 to 1 as 8 bits a channel."""
    return np.rint(255 * np.asarray(image, np.float64)).astype(np.uint8)


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (4, 4, 3), (3, 4, 4)])
def test_tensorboard_shows_the_pixels(tmp_path, place, shape):
    """Grey, RGB and RGBA, from the device or the host, bit for bit."""
    image = RAMP.reshape(shape)
    with sowlog.Logger(tmp_path) as log:
        log.image(5, "ramp", place(image))
        log.image(6, "ramp", place(as_bytes(image)))
    read = tensorboard_images(tmp_path)
    assert list(read) == [("ramp", 5), ("ramp", 6)]
    expected = as_bytes(image)[..., 0] if shape[-1] == 1 else as_bytes(image)
    np.testing.assert_array_equal(read["ramp", 5], expected)
    np.testing.assert_array_equal(read["ramp", 6], expected)


def test_a_batch_becomes_tags_that_sort(tmp_path):
    """Each image has a tag, in the order of the batch."""
    batch = np.stack([np.full((2, 3, 3), value, np.uint8) for value in range(12)])
    with sowlog.Logger(tmp_path) as log:
        log.image(0, "samples", batch)
    read = tensorboard_images(tmp_path)
    assert sorted(read) == [(f"samples/{index:02}", 0) for index in range(12)]
    assert [int(pixels[0, 0, 0]) for _, pixels in sorted(read.items(), key=lambda item: item[0])] == [
        *range(12)
    ]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ([[-0.5, 0.0, 0.25, 1.0, 1.5]], [[0, 0, 64, 255, 255]]),
        ([[np.nan, np.inf, -np.inf, 0.5]], [[0, 255, 0, 128]]),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float32, np.float64])
def test_floating_pixels_are_clipped_to_black_and_white(tmp_path, given, shown, dtype):
    """In every precision; NaN is black, and there is no warning."""
    memory = MemoryWriter()
    with sowlog.Logger(tmp_path, writers=[memory]) as log:
        log.image(0, "pixels", np.array(given, dtype))
    np.testing.assert_array_equal(memory.records[0].images["pixels"][..., 0], shown)


def test_a_mask_is_black_and_white(tmp_path):
    """True is white."""
    memory = MemoryWriter()
    with sowlog.Logger(tmp_path, writers=[memory]) as log:
        log.image(0, "mask", jnp.array([[True, False]]))
    assert memory.records[0].images["mask"].tolist() == [[[255], [0]]]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((3,)), ValueError, r"shape \[3\]: it must be \[H, W\]"),
        (np.zeros((2, 3, 5)), ValueError, r"shape \[2, 3, 5\].*image\[..., None\], \[2, 3, 5, 1\]"),
        (np.zeros((1, 2, 3, 2)), ValueError, r"shape \[1, 2, 3, 2\]: it must be"),
        (np.zeros((1, 1, 2, 3, 3)), ValueError, r"shape \[1, 1, 2, 3, 3\]: it must be"),
        (np.zeros((0, 3)), ValueError, r"shape \[0, 3\], which has no pixels"),
        (np.zeros((0, 2, 2, 3)), ValueError, "which has no pixels"),
        (np.zeros((2, 2), np.int32), TypeError, r"dtype int32.*image.astype\(np.uint8\)"),
        (np.zeros((2, 2), np.complex64), TypeError, "dtype complex64"),
        ([[0.0]], TypeError, r"has type list: give a JAX or NumPy array"),
    ],
)
def test_an_invalid_image_is_refused(tmp_path, image, error, message):
    """On the training thread, at the call."""
    with sowlog.Logger(tmp_path) as log, pytest.raises(error, match=f"the image pixels .*{message}"):
        log.image(0, "pixels", image)


def test_an_image_needs_a_tag_and_a_step(tmp_path):
    """Metrics have the same rules."""
    with sowlog.Logger(tmp_path) as log:
        with pytest.raises(ValueError, match="give it a name"):
            log.image(0, "", np.zeros((2, 2)))
        with pytest.raises(TypeError, match=r"the step is a jax\.Array"):
            log.image(jnp.int32(1), "pixels", np.zeros((2, 2)))


def test_a_tracer_is_no_image(tmp_path):
    """Pixels have no values inside jit."""
    with sowlog.Logger(tmp_path) as log, pytest.raises(TypeError, match="pixels is a tracer: return it"):
        jax.jit(lambda x: log.image(0, "pixels", x))(jnp.zeros((2, 2)))


def test_every_holds_for_images(tmp_path):
    """Images of the other steps are checked and not written."""
    memory = MemoryWriter()
    with sowlog.Logger(tmp_path, writers=[memory], every=2) as log:
        for step in range(4):
            log.image(step, "pixels", jnp.zeros((2, 2)))
        with pytest.raises(ValueError, match="it must be"):
            log.image(1, "pixels", jnp.zeros(2))
    assert [record.step for record in memory.records] == [0, 2]


def test_the_training_thread_waits_for_nothing(tmp_path):
    """It returns while the writer hangs, and a later change of the array does not change the image."""
    gate = GatedWriter()
    frame = np.zeros((2, 2), np.uint8)
    with sowlog.Logger(tmp_path, writers=[gate]) as log, jax.transfer_guard_device_to_host("disallow"):
        for step in range(4):
            frame[:] = step
            log.image(step, "host", frame)
            log.image(step, "device", jnp.full((2, 2), step, jnp.uint8))
        frame[:] = 99
        assert gate.records == []
        gate.open.set()
    shown = [(record.step, *record.images, *record.images.values()) for record in gate.records]
    assert [(step, tag, pixels.max()) for step, tag, pixels in shown] == [
        (step, tag, step) for step in range(4) for tag in ("host", "device")
    ]
    with pytest.raises(ValueError, match="read-only"):
        shown[0][2][:] = 0


def held(writer, **options):
    """Return a logger whose thread is held by the gated writer, and room for two images of 48 bytes."""
    log = sowlog.Logger("unused", writers=[writer], **options)
    log.image(0, "held", np.zeros((6, 8), np.uint8))
    wait_until(lambda: not log._background._queue)
    log.image(1, "waits", np.zeros((6, 8), np.uint8))
    return log


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_queued_images_are_bounded_by_their_bytes(monkeypatch, place):
    """`on_full` applies to them before the queue holds `queue_size` steps; scalars still have room."""
    monkeypatch.setattr(sowlog._log.pending, "MAX_PENDING_BYTES", 100)
    image, writer = place(np.zeros((6, 8), np.uint8)), GatedWriter()
    log = held(writer, on_full="error")
    with pytest.raises(sowlog.QueueFullError, match=r"images and texts of \d+ MiB wait for the writers"):
        log.image(2, "refused", image)
    log(2, {"x": 1.0})
    writer.open.set()
    log.flush()
    log.image(3, "fits", image)
    log.flush()
    log.image(4, "large", place(np.zeros((60, 80), np.uint8)))
    with pytest.warns(sowlog.LossWarning, match="the full queue dropped 1 step"):
        log.close()
    assert [record.step for record in writer.records] == [0, 1, 2, 3, 4]


def test_a_large_image_waits_alone_and_blocks_until_there_is_room(monkeypatch):
    """By default no image is lost: the training thread waits for the encoder."""
    monkeypatch.setattr(sowlog._log.pending, "MAX_PENDING_BYTES", 100)
    writer = GatedWriter()
    log = held(writer)
    threading.Timer(0.05, writer.open.set).start()
    log.image(2, "large", np.zeros((60, 80), np.uint8))
    assert writer.open.is_set()
    log.close()
    assert [record.step for record in writer.records] == [0, 1, 2]


def test_the_oldest_images_are_dropped_for_new_ones(monkeypatch):
    """Scalars are kept, since they hold few bytes."""
    monkeypatch.setattr(sowlog._log.pending, "MAX_PENDING_BYTES", 100)
    writer = GatedWriter()
    log = held(writer, on_full="drop_oldest")
    for step in range(2, 6):
        log(step, {"x": 1.0})
        log.image(step, "newer", np.zeros((6, 8), np.uint8))
    writer.open.set()
    with pytest.warns(sowlog.LossWarning, match="the full queue dropped 4 steps"):
        log.close()
    assert [(record.step, *record.images) for record in writer.records] == [
        (0, "held"),
        (2,),
        (3,),
        (4,),
        (5,),
        (5, "newer"),
    ]


def test_images_of_a_stalled_writer_are_bounded_by_their_bytes(monkeypatch, tmp_path):
    """The scalars of the same steps are kept."""
    monkeypatch.setattr(sowlog._log.sinks, "MAX_PENDING_BYTES", 100)
    writer = StallingWriter()
    writer.stalled = True
    log = sowlog.Logger(tmp_path, writers=[writer])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sowlog.LossWarning)
        for step in range(5):
            log(step, {"x": 1.0})
            log.image(step, "late", np.zeros((6, 8), np.uint8))
        with pytest.raises(sowlog.WriterError, match="lost 3 records, at steps 0 to 2"):
            log.flush()
    writer.stalled = False
    log.close()
    assert [(r.step, *r.images) for r in writer.records] == [
        (0,),
        (1,),
        (2,),
        (3,),
        (3, "late"),
        (4,),
        (4, "late"),
    ]


def test_images_and_scalars_share_a_stall(tmp_path):
    """Late records are written first, in order and once each."""
    writer = StallingWriter()
    writer.stalled = True
    log = sowlog.Logger(tmp_path, writers=[writer])
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        log.image(0, "pixels", np.zeros((2, 2)))
        log(1, {"x": 1.0})
        with pytest.raises(sowlog.WriterError, match="could not write 2 records yet, at steps 0 to 1"):
            log.flush()
    writer.stalled = False
    log.close()
    assert [(record.step, *record.images, *record.tags) for record in writer.records] == [
        (0, "pixels"),
        (1, "x"),
    ]


def test_a_resumed_run_shows_each_image_once(tmp_path):
    """A SessionLog START supersedes images as it does scalars."""
    for resume_from, value in ((None, 1), (2, 2)):
        with sowlog.Logger(tmp_path, resume_from=resume_from) as log:
            for step in range(resume_from or 0, 4):
                log.image(step, "pixels", np.full((1, 1), value, np.uint8))
    read = tensorboard_images(tmp_path)
    assert [(step, int(pixels[0, 0])) for (_, step), pixels in read.items()] == [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 2),
    ]


def test_scalars_are_read_beside_images(tmp_path):
    """`sowlog.read` returns both, with the pixels that were logged."""
    with sowlog.Logger(tmp_path) as log:
        for step in range(3):
            log.image(step, "pixels", np.full((64, 64), step, np.uint8))
            log(step, {"x": float(step)})
    run = sowlog.read(tmp_path)
    assert list(run.scalars) == ["x"]
    assert run.scalars["x"].steps.tolist() == [0, 1, 2]
    assert run.damage == ()
    for step, image in run.images["pixels"]:
        np.testing.assert_array_equal(image.pixels(), np.full((64, 64, 1), step))


def test_without_pillow_the_first_image_names_the_package(tmp_path, monkeypatch):
    """The error is raised on the training thread; the rest of the logger works without Pillow."""
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with sowlog.Logger(tmp_path) as log:
        log(0, {"x": 1.0})
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'sowlog\[images\]'"):
            log.image(0, "pixels", np.zeros((2, 2)))
