import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import sowlog
from sowlog.testing import MemoryWriter
from tests.support.odd_writers import GatedWriter, StallingWriter
from tests.support.tensorboard_reading import data_server, data_server_texts, tensorboard_texts
from tests.support.waiting import wait_until, wait_until_equal

MIB = 1 << 20


def test_tensorboard_shows_the_markdown(tmp_path):
    """As HTML of the Text tab, at each step, with every letter of Unicode."""
    with sowlog.Logger(tmp_path) as log:
        log.text(0, "samples/prompt", "**bold** Ω")
        log(1, {"loss": 0.5})
        log.text(3, "samples/prompt", "```\n a: 1\n   b: 2\n```")
    assert tensorboard_texts(tmp_path) == {
        ("samples/prompt", 0): "<p><strong>bold</strong> Ω</p>",
        ("samples/prompt", 3): "<pre><code> a: 1\n   b: 2\n</code></pre>",
    }


def test_the_data_server_shows_the_same_texts(tmp_path):
    """The Rust server of `tensorboard` agrees with its Python reader, for a resumed run as well."""
    for resume_from in (None, 2):
        with sowlog.Logger(tmp_path / "run", resume_from=resume_from) as log:
            for step in range(resume_from or 0, 4):
                log.text(step, "sample", f"from {resume_from}")
    expected = {("sample", step): f"<p>from {start}</p>" for step, start in enumerate((None, None, 2, 2))}
    assert tensorboard_texts(tmp_path / "run") == expected
    with data_server(tmp_path) as server:
        wait_until_equal(lambda: data_server_texts(server, "run"), expected)


def test_scalars_are_read_beside_texts(tmp_path):
    """`sowlog.read` returns both."""
    with sowlog.Logger(tmp_path) as log:
        log(0, {"loss": 0.5})
        log.text(0, "sample", "text")
    run = sowlog.read(tmp_path)
    assert (sorted(run.scalars), dict(run.left_out), run.damage) == (["loss"], {}, ())
    assert list(run.texts["sample"]) == [(0, "text")]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b"bytes", TypeError, r"the text sample has type bytes: give a str, of bytes text.decode\(\)"),
        (None, TypeError, "the text sample has type NoneType"),
        (0.5, TypeError, "the text sample has type float"),
        ("x" * 10 * MIB, ValueError, "the text sample has 10485760 bytes, and an entry holds 1048576"),
        ("Ω" * (MIB // 2 + 1), ValueError, "the text sample has 1048578 bytes"),
    ],
)
def test_an_invalid_text_is_refused(text, error, message):
    """On the training thread, at the call, and at steps that are not logged."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory], every=2) as log:
        for step in (0, 1):
            with pytest.raises(error, match=message):
                log.text(step, "sample", text)
    assert memory.records == []


def test_a_text_of_the_bound_is_written(tmp_path):
    """1 MiB in one block of code."""
    text = "```\n" + "x" * (MIB - 8) + "\n```"
    with sowlog.Logger(tmp_path) as log:
        log.text(0, "long", text)
    ((_, html),) = tensorboard_texts(tmp_path).items()
    assert len(html) > MIB


def test_a_text_needs_a_tag_and_a_step():
    """Metrics have the same rules."""
    with sowlog.Logger("unused", writers=[]) as log:
        with pytest.raises(ValueError, match=r"the text has the tag '': give it a name, log\.text\("):
            log.text(0, "", "text")
        with pytest.raises(TypeError, match=r"the step is a jax\.Array"):
            log.text(jnp.int32(1), "sample", "text")
    with pytest.raises(RuntimeError, match="this Logger is closed"):
        log.text(0, "sample", "text")


def test_lone_surrogates_are_escaped(tmp_path):
    """A file name that is not UTF-8 is shown, and ends no run."""
    with sowlog.Logger(tmp_path) as log:
        log.text(0, "name\udcff", "data\udcff")
    assert tensorboard_texts(tmp_path) == {("name\\udcff", 0): "<p>data\\udcff</p>"}


def test_every_holds_for_texts():
    """Texts of the other steps are checked and not written."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory], every=2) as log:
        for step in range(4):
            log.text(step, "sample", f"at {step}")
    assert [(record.step, dict(record.texts)) for record in memory.records] == [
        (0, {"sample": "at 0"}),
        (2, {"sample": "at 2"}),
    ]
    assert repr(memory.records[0]) == "<Record at step 0: text sample>"


IMAGES = np.zeros((2, 2, 2, 1), np.uint8)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("scalar", "text", "x/00 is logged as text and was a metric before"),
        ("packed", "text", "x/00 is logged as text and was a metric before"),
        ("histogram", "image", "x/00 is logged as an image and was a metric before"),
        ("text", "scalar", "x/00 is logged as a metric and was text before"),
        ("text", "packed", "x/00 is logged as a metric and was text before"),
        ("text", "image", "x/00 is logged as an image and was text before"),
        ("image", "text", "x/00 is logged as text and was an image before"),
        ("image", "histogram", "x/00 is logged as a metric and was an image before.*use another tag"),
    ],
)
def test_a_tag_of_two_kinds_is_refused(first, second, message):
    """TensorBoard shows one of them alone. The values of the first kind go on."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory]) as log:
        calls = {
            "scalar": lambda step: log(step, {"x/00": 1.0}),
            "packed": lambda step: log(step, sowlog.pack({"x": {"00": 1.0}})),
            "histogram": lambda step: log(step, {"x/00": sowlog.histogram.of([1.0])}),
            "text": lambda step: log.text(step, "x/00", "text"),
            "image": lambda step: log.image(step, "x", IMAGES),
        }
        calls[first](0)
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                calls[second](1)
        calls[first](2)
    assert [record.step for record in memory.records] == [0, 2]


def test_the_prefix_of_a_batch_may_be_the_tag_of_a_text():
    """The images of a batch have tags of their own."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory]) as log:
        log.image(0, "samples", IMAGES)
        log.text(0, "samples", "two images")
    assert [(*record.images, *record.texts) for record in memory.records] == [
        ("samples/00", "samples/01"),
        ("samples",),
    ]


def test_queued_texts_are_bounded_by_their_bytes(monkeypatch):
    """`on_full` applies to them before the queue holds `queue_size` steps; scalars still have room."""
    monkeypatch.setattr(sowlog._log.pending, "MAX_PENDING_BYTES", 100)
    writer = GatedWriter()
    log = sowlog.Logger("unused", writers=[writer], on_full="error")
    log.text(0, "held", "x" * 60)
    wait_until(lambda: not log._background._queue)
    with pytest.raises(sowlog.QueueFullError, match=r"images and texts of \d+ MiB wait for the writers"):
        log.text(1, "refused", "x" * 60)
    log(2, {"x": 1.0})
    writer.open.set()
    with pytest.warns(sowlog.LossWarning, match="the full queue dropped 1 step"):
        log.close()
    assert [record.step for record in writer.records] == [0, 2]


def test_texts_of_a_stalled_writer_are_bounded_by_their_bytes(monkeypatch):
    """The scalars of the same steps are kept."""
    monkeypatch.setattr(sowlog._log.sinks, "MAX_PENDING_BYTES", 100)
    writer = StallingWriter()
    writer.stalled = True
    log = sowlog.Logger("unused", writers=[writer])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sowlog.LossWarning)
        for step in range(3):
            log(step, {"x": 1.0})
            log.text(step, "late", "x" * 60)
        with pytest.raises(sowlog.WriterError, match="lost 2 records, at steps 0 to 1"):
            log.flush()
    writer.stalled = False
    log.close()
    assert [(r.step, *r.texts) for r in writer.records] == [(0,), (1,), (2,), (2, "late")]


def test_a_text_that_goes_back_has_a_warning(tmp_path):
    """TensorBoard's default server hides the entries before, as it hides points."""
    log = sowlog.Logger(tmp_path)
    log.text(2, "sample", "later")
    log.text(1, "sample", "earlier")
    with pytest.warns(sowlog.LossWarning, match="step 1 of sample is logged"):
        log.close()
