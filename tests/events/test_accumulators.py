"""`read` beside TensorBoard's EventAccumulator, on the files of other programs and on random ones."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX import SummaryWriter

import sowlog
from tests.support import event_shapes as shapes
from tests.support.event_shapes import VERSION, Event, Summary, event, start, write_file
from tests.support.tensorboard_reading import EventAccumulator, as_series, plugin_tensors, tensorboard_scalars

EVERYTHING = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}


def accumulated(path):
    """Return the accumulator's values of scalars, histograms and images, by kind and tag."""
    reader = EventAccumulator(str(path), size_guidance=EVERYTHING)
    reader.Reload()
    tags = reader.Tags()
    histograms = {
        tag: [
            (point.step, point.wall_time, point.histogram_value.min, point.histogram_value.max)
            for point in reader.Histograms(tag)
        ]
        for tag in tags["histograms"]
    }
    images = {
        tag: [(p.step, p.wall_time, p.encoded_image_string, p.width, p.height) for p in reader.Images(tag)]
        for tag in tags["images"]
    }
    return {
        "scalars": {tag: series for tag, series in tensorboard_scalars(path).items() if series.steps},
        "histograms": {tag: points for tag, points in histograms.items() if points},
        "images": {tag: points for tag, points in images.items() if points},
    }


def found(run):
    """Return the same of a run."""
    histograms = {
        tag: [
            (step, time, value.min, value.max)
            for (step, value), time in zip(media, media.wall_times.tolist(), strict=True)
        ]
        for tag, media in run.histograms.items()
    }
    images = {
        tag: [
            (step, time, *image.encoded, image.width, image.height)
            for (step, image), time in zip(media, media.wall_times.tolist(), strict=True)
        ]
        for tag, media in run.images.items()
    }
    return {
        "scalars": {tag: series for tag, series in as_series(run).items() if series.steps},
        "histograms": {tag: points for tag, points in histograms.items() if points},
        "images": {tag: points for tag, points in images.items() if points},
    }


TAGS = ["a", "b", "a/b", "ö"]
values = st.one_of(
    st.builds(shapes.plain, st.sampled_from(TAGS), st.floats(width=32, allow_nan=False)),
    st.builds(
        lambda tag, counts: shapes.histogram_v1(
            tag, counts, [float(i) for i in range(len(counts))], -1.0, 9.0
        ),
        st.sampled_from(["h", "a"]),
        st.lists(st.integers(0, 3), min_size=1, max_size=4),
    ),
    st.builds(
        lambda tag, data: shapes.image_v1(tag, data, 3, 2), st.sampled_from(["i", "b"]), st.binary(max_size=9)
    ),
)
steps = st.integers(0, 9) | st.integers(-(2**63), 2**63 - 1)
summaries = st.builds(lambda step, made: event(step, *made), steps, st.lists(values, max_size=4))
bare = st.builds(lambda step: Event(step=step, wall_time=0.5, graph_def=b"graph"), steps)
starts = st.builds(start, steps)
versions = st.sampled_from(["brain.Event:2", "brain.Event:1", "odd"]).map(
    lambda version: Event(wall_time=1.0, file_version=version)
)
files = st.lists(
    st.tuples(st.none() | versions, st.lists(st.one_of(summaries, summaries, bare, starts))), max_size=3
)


near = st.integers(0, 3)
mixed = st.one_of(
    st.builds(
        lambda step, tags: event(step, *(shapes.plain(t, step) for t in tags)),
        near,
        st.lists(st.sampled_from("ab")),
    ),
    st.builds(
        lambda step, tag: event(step, shapes.histogram_v1(tag, [1], [0.0], 0.0, 0.0)),
        near,
        st.sampled_from("ab"),
    ),
    st.builds(lambda step: event(step, Summary.Value(tag="a", audio=Summary.Audio())), near),
    st.builds(lambda step: Event(step=step, wall_time=0.5, graph_def=b"graph"), near),
)


@given(events=st.lists(mixed, min_size=4, max_size=12), version=st.integers(0, 30))
def test_steps_that_go_back_without_a_version_drop_what_tensorboard_drops(events, version, tmp_path_factory):
    """By tag, of all kinds; an event without a summary sets the step anew; a version ends it."""
    folder = tmp_path_factory.mktemp("run")
    events.insert(version, VERSION)
    write_file(folder, events)
    assert found(sowlog.read(folder)) == accumulated(folder)


def write_files(folder, files):
    """Write files with or without a version."""
    for number, (version, events) in enumerate(files):
        opening = [] if version is None else [version]
        write_file(folder, [*opening, *events], name=f"events.out.tfevents.{number}.host")


@given(files=files)
def test_random_files_are_read_as_tensorboard_reads_them(files, tmp_path_factory):
    """Restarts, steps that go back in files without a version, events without a summary, kinds of one tag."""
    folder = tmp_path_factory.mktemp("run")
    write_file(folder, [VERSION], name="events.out.tfevents.9.host")
    write_files(folder, files)
    run = sowlog.read(folder)
    assert run.damage == ()
    assert found(run) == accumulated(folder)


@given(files=st.lists(st.lists(st.one_of(summaries, starts)), max_size=3))
def test_tensors_of_random_files_are_those_of_the_plugins(files, tmp_path_factory):
    """The accumulator behind TensorBoard's tabs, which migrates values of all kinds to tensors."""
    folder = tmp_path_factory.mktemp("run")
    # It takes the first start for the beginning of the run.
    write_file(folder, [VERSION, start(0)], name="events.out.tfevents.0.host")
    for number, events in enumerate(files):
        made = [
            event(
                one.step, *(shapes.tensor(f"{v.tag}/t", np.arange(3) * one.step) for v in one.summary.value)
            )
            if one.HasField("summary")
            else one
            for one in events
            if abs(one.step) < 2**31
        ]
        write_file(folder, [VERSION, *made], name=f"events.out.tfevents.{number + 1}.host")
    run = sowlog.read(folder)
    expected = {
        tag: [(step, array.tolist()) for step, array in points]
        for tag, points in plugin_tensors(folder).items()
        if points
    }
    assert {
        tag: [(step, array.tolist()) for step, array in media]
        for tag, media in run.tensors.items()
        if len(media)
    } == expected


def test_an_out_of_order_step_drops_the_later_points_of_its_tags_alone(tmp_path):
    """As in the files of TensorFlow before version 2; a version declares restarts, so all points stay."""
    events = [event(step, shapes.plain("a", step), shapes.plain("b", step)) for step in range(4)]
    events += [event(1, shapes.plain("a", 10)), event(2, shapes.plain("a", 20))]
    write_file(tmp_path / "old", events)
    write_file(tmp_path / "new", [VERSION, *events])
    old, new = sowlog.read(tmp_path / "old"), sowlog.read(tmp_path / "new")
    assert old.scalars["a"].values.tolist() == [0.0, 10.0, 20.0]
    assert old.scalars["b"].values.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert new.scalars["a"].values.tolist() == [0.0, 1.0, 2.0, 3.0, 10.0, 20.0]
    assert found(old) == accumulated(tmp_path / "old")
    assert found(new) == accumulated(tmp_path / "new")


def test_an_event_without_a_summary_sets_the_step_anew(tmp_path):
    """Such as the graph of a session that begins at step 0."""
    graph = Event(step=0, wall_time=0.5, graph_def=b"graph")
    write_file(tmp_path, [event(5, shapes.plain("a", 5.0)), graph, event(3, shapes.plain("a", 3.0))])
    run = sowlog.read(tmp_path)
    assert run.scalars["a"].steps.tolist() == [5, 3]
    assert found(run) == accumulated(tmp_path)


def test_the_files_of_tensorboardx_are_read(tmp_path):
    """Scalars, histograms, images, texts, curves and hyperparameters; pixels are those that were written."""
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(3):
            writer.add_scalar("loss", 1.0 / (step + 1), step)
            writer.add_histogram("weights", np.arange(10.0) + step, step, bins=4)
            writer.add_image("picture", pixels + step, step, dataformats="HWC")
            writer.add_text("note", f"step {step}", step)
        writer.add_pr_curve("curve", np.array([0, 1]), np.array([0.25, 0.75]), 2, num_thresholds=5)
        experiment, begin, end = _hparams()
        for summary in (experiment, begin, end):
            writer.file_writer.add_summary(summary)
    run = sowlog.read(tmp_path)
    assert found(run) == accumulated(tmp_path)
    for step, image in run.images["picture"]:
        np.testing.assert_array_equal(image.pixels(), pixels + step)
    histogram = run.histograms["weights"].values[2]
    assert (histogram.count, histogram.min, histogram.max, histogram.sum) == (10.0, 2.0, 11.0, 65.0)
    assert list(run.texts["note/text_summary"]) == [(step, f"step {step}") for step in range(3)]
    assert run.pr_curves["curve"].values[0].shape == (6, 5)
    assert run.hparams == {"model.depth": 2.0, "model.name": "mlp", "fast": True}
    assert run.config == {"model": {"depth": 2.0, "name": "mlp"}, "fast": True}


def _hparams():
    from tensorboardX.summary import hparams  # noqa: PLC0415 - beside its only use

    return hparams({"model.depth": 2, "model.name": "mlp", "fast": True}, {"loss": 0.5})


def test_the_files_of_tensorflow_2_and_clu_are_read(tmp_path):
    """Of each tag only the first value has metadata; histograms, images and texts are tensors of plugins."""
    events = [shapes.as_tensorflow_2(step, is_first=step == 0) for step in range(3)]
    write_file(tmp_path, [VERSION, event(0, shapes.keras_hparams({"lr": 0.1, "name": "adam"})), *events])
    run = sowlog.read(tmp_path)
    assert run.scalars["loss"].values.tolist() == [1.0, 0.5, np.float32(1 / 3)]
    assert list(run.texts["note"]) == [(step, f"step {step}") for step in range(3)]
    assert [image.encoded for image in run.images["samples"].values] == [(b"first", b"second")] * 3
    assert [(image.width, image.height) for image in run.images["samples"].values] == [(4, 2)] * 3
    tensors = plugin_tensors(tmp_path)
    for (_, histogram), (_, expected) in zip(run.histograms["weights"], tensors["weights"], strict=True):
        rows = np.stack([histogram.lefts, histogram.rights, histogram.counts], axis=1)
        np.testing.assert_array_equal(rows, expected)
        assert (histogram.count, histogram.sum) == (5.0, None)
    np.testing.assert_array_equal(run.tensors["matrix"].values[2], np.full((2, 3), 2.0))
    assert run.hparams == {"lr": 0.1, "name": "adam"}
    assert (list(run.scalars), run.left_out, run.damage) == (["loss"], {}, ())


def test_buckets_are_those_that_tensorboard_shows(tmp_path):
    """It cuts empty buckets off and puts the extremes in place of the outermost limits."""
    outermost = float(np.finfo(np.float64).max)
    made = [
        shapes.histogram_v1("many", [0, 2, 0, 3, 0], [-1.0, 0.5, 1.0, 2.0, outermost], 0.25, 1.5),
        shapes.histogram_v1("one", [0, 7, 0], [0.5, 1.5, outermost], 1.0, 1.0),
        shapes.histogram_v1("empty", [0, 0], [0.5, outermost], 0.0, 0.0),
    ]
    write_file(tmp_path, [VERSION, event(0, *made)])
    run, expected = sowlog.read(tmp_path), plugin_tensors(tmp_path)
    for tag in ("many", "one", "empty"):
        ((_, histogram),) = run.histograms[tag]
        rows = np.stack([histogram.lefts, histogram.rights, histogram.counts], axis=1)
        np.testing.assert_array_equal(rows.astype(np.float32), expected[tag][0][1])


def test_text_tensors_are_strings_and_tables(tmp_path):
    """A table is an object array of the same shape, and bytes that are no UTF-8 break nothing."""
    table = np.array([[b"a", b"b"], [b"c", b"\xff"]], object)
    made = [shapes.tensor("table", table, plugin="text"), shapes.tensor("bytes", table)]
    write_file(tmp_path, [VERSION, event(0, *made)])
    run = sowlog.read(tmp_path)
    assert run.texts["table"].values[0].tolist() == [["a", "b"], ["c", "�"]]
    assert run.tensors["bytes"].values[0].tolist() == table.tolist()


@pytest.mark.parametrize("shape", [(10**9,), (10**6, 10**6)])
def test_a_repeated_number_needs_no_memory(tmp_path, shape):
    """Protobuf's shorthand may claim any shape; a repeated text of that size is an error."""
    number, text = (
        shapes.tensor("n", np.float32(7)),
        shapes.tensor("t", np.array(b"t", object), plugin="text"),
    )
    for value in (number, text):
        for size in shape:
            value.tensor.tensor_shape.dim.add(size=size)
    write_file(tmp_path, [VERSION, event(0, number, text)])
    run = sowlog.read(tmp_path)
    array = run.tensors["n"].values[0]
    assert (array.shape, array.strides, float(array[0].ravel()[0])) == (shape, (0,) * len(shape), 7.0)
    with pytest.raises(ValueError, match=r"a value of t, .* repeats one text\.$"):
        run.texts["t"].values[0]


def test_audio_and_values_without_data_are_left_out_by_name(tmp_path):
    """Their tags are listed, and the events beside them are read."""
    audio = Summary.Value(tag="sound", audio=Summary.Audio(encoded_audio_string=b"RIFF"))
    old = Summary.Value(tag="old", obsolete_old_style_histogram=b"old")
    write_file(tmp_path, [VERSION, event(0, audio, old, Summary.Value(tag="none"), shapes.plain("x", 1.0))])
    run = sowlog.read(tmp_path)
    assert (dict(run.left_out), list(run.scalars)) == (
        {"old": "obsolete_old_style_histogram", "sound": "audio"},
        ["x"],
    )


def test_a_tensor_of_tensorflow_1_has_its_tag_in_the_name_of_its_node(tmp_path):
    """TensorBoard supports it, too."""
    value = shapes.tensor("", np.arange(3))
    value.node_name = "node"
    write_file(tmp_path, [VERSION, event(0, value)])
    assert list(sowlog.read(tmp_path).tensors) == ["node"] == list(_tensor_tags(tmp_path))


def _tensor_tags(path):
    reader = EventAccumulator(str(path), size_guidance=EVERYTHING)
    reader.Reload()
    return reader.Tags()["tensors"]


def test_descriptions_and_the_first_hyperparameters_count(tmp_path):
    """As in TensorBoard: a resumed run may log both again."""
    for number, rate in enumerate((0.1, 0.2)):
        with sowlog.Logger(tmp_path, resume_from=number or None) as log:
            log.hparams({"rate": rate})
            _, updates = sowlog.collect(partial(sowlog.sow, "x", 1.0, doc=f"number {number}"))()
            log(number, updates["metrics"])
    run = sowlog.read(tmp_path)
    assert run.hparams == {"rate": 0.1}
    assert "number 0" in run.descriptions["x"]
