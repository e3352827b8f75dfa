"""Folded families: quantiles, the worst layer and a heat map in place of the scalars of each layer."""

import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sowlog
from sowlog._events import png
from sowlog._log.folding import Folding
from sowlog._log.pictures.heat_maps import HeatMaps
from sowlog._log.pictures.tiles import ABSENT
from sowlog._tree.layout import PresentTags
from sowlog.testing import MemoryWriter
from sowlog.writers import Console, Every, Record, TensorBoard


def log_all(metrics, **settings):
    """Return the records of a run that logs these metrics, step by step."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory], **settings) as log:
        for step, each in enumerate(metrics):
            log(step, each)
    return memory.records


def scalars(record):
    """Return the scalars of a record by tag."""
    return dict(zip(record.tags, record.values.tolist(), strict=True))


def oracle(values):
    """Return p50, p90, max and worst by NumPy, where NaN is larger than infinity."""
    indices = np.array([index for index, value in enumerate(values) if value is not None])
    present = np.array([value for value in values if value is not None], np.float32).astype(np.float64)
    order = np.nan_to_num(present, nan=1e300, posinf=1e200, neginf=-1e200)
    found = [np.percentile(order, q, method="inverted_cdf") for q in (50, 90, 100)]
    named = {1e300: np.nan, 1e200: np.inf, -1e200: -np.inf}
    return [*(named.get(each, each) for each in found), indices[np.flatnonzero(order == order.max())[0]]]


def record_of(values, step=0):
    """Return a record of layers of x, in which None is absent, with another scalar in front."""
    whole = ("loss", *(f"x/{index:02}" for index in range(len(values))))
    present = np.array([True, *(value is not None for value in values)])
    tags = whole if present.all() else PresentTags.of(whole, present)
    known = [0.25, *(value for value in values if value is not None)]
    return Record(step, 1.5, tags, np.array(known, np.float32))


@pytest.mark.parametrize(
    "values",
    [
        *[
            np.random.default_rng(size).normal(size=size).astype(np.float32)
            for size in (2, 3, 10, 11, 20, 24)
        ],
        [1.0, 3.0, 3.0, 2.0],
        [np.nan, 1.0, np.inf, np.nan, 2.0],
        [np.inf, 1.0, np.inf],
        [-np.inf, -np.inf, 1.0],
        [np.nan, np.nan],
        [None, -np.inf, -np.inf, None],
        [None, 2.0, None],
        [5.0, None, np.nan, None, 7.0, 1.0],
        [None, 1e38, -1e38, 3e38],
    ],
)
def test_the_scalars_of_a_family_are_numpys(values):
    """Over the layers that are present; the quantiles are those of the inverted CDF."""
    (folded,) = Folding(["x/*"], heat_map_every=None).fold(record_of(list(values)))
    assert folded.tags == ("loss", "x/p50", "x/p90", "x/max", "x/worst")
    np.testing.assert_array_equal(folded.values, np.array([0.25, *oracle(list(values))], np.float32))
    assert not folded.values.flags.writeable
    assert not folded.images


def test_families_of_several_lengths_and_absences_are_folded_at_once():
    """Each as by itself; a family without a value adds nothing."""
    rng, whole = np.random.default_rng(0), ["loss", "other/00"]
    whole += [f"{name}/{index:02}" for name, size in (("a", 2), ("b", 7), ("c", 4)) for index in range(size)]
    folding = Folding(["?/*"], heat_map_every=None)
    tuples = set()
    for step in range(50):
        values = rng.normal(size=len(whole)).astype(np.float32)
        values[rng.random(len(whole)) < 0.1] = np.nan
        present = rng.random(len(whole)) < (0.4 if step % 2 else 2)
        tags = PresentTags.of(tuple(whole), present) if step % 2 else FULL
        record = Record(step, 0.0, tags, values[present])
        known = dict(zip(record.tags, record.values, strict=True))
        expected = {tag: value for tag, value in known.items() if tag in ("loss", "other/00")}
        for name, size in (("a", 2), ("b", 7), ("c", 4)):
            layers = [known.get(f"{name}/{index:02}") for index in range(size)]
            if any(value is not None for value in layers):
                names = (f"{name}/{each}" for each in ("p50", "p90", "max", "worst"))
                expected |= dict(zip(names, oracle(layers), strict=True))
        (folded,) = folding.fold(record)
        assert folded.unfolded is record
        assert list(folded.tags) == list(expected)
        np.testing.assert_array_equal(folded.values, np.array(list(expected.values()), np.float32))
        if not step % 2:
            tuples.add(id(folded.tags))
    assert len(tuples) == 1


FULL = (
    "loss",
    "other/00",
    *(f"{name}/{i:02}" for name, n in (("a", 2), ("b", 7), ("c", 4)) for i in range(n)),
)


@jax.jit
def stacked_step(x):
    """Return the values of four layers, the second of which is NaN where x is 3."""

    def layer(x, index):
        sowlog.sow(
            "rms", jnp.where((index == 1) & (x == 3), jnp.nan, x + index), sowlog.mean, doc="Size [m]."
        )
        return x, None

    def model(x):
        with sowlog.scope("blocks"):
            return jax.lax.scan(sowlog.stacked(layer), x, jnp.arange(4.0))[0]

    return sowlog.pack(sowlog.collect(model)(x)[1]["metrics"])


def test_nonfinite_values_and_alerts_are_those_of_layers():
    """They are found in the records that are not folded."""
    origins, alerts = [], []
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory], fold="blocks/**", on_nonfinite=origins.append) as log:
        log.alert(sowlog.alerts.Range("blocks/rms/03", high=4.5), alerts.append)
        for step in range(4):
            log(step, stacked_step(float(step)))
    assert [(each.tag, each.layer) for each in origins] == [("blocks/rms/01", (1,))]
    assert [(each.tag, each.step) for each in alerts] == [("blocks/rms/03", 2)]
    assert scalars(next(each for each in memory.records if each.step == 2)) == {
        "blocks/rms/p50": 3.0,
        "blocks/rms/p90": 5.0,
        "blocks/rms/max": 5.0,
        "blocks/rms/worst": 3.0,
    }


def test_descriptions_are_kept(tmp_path):
    """The values of a family have the unit of its layers; the index of a layer has none."""
    with sowlog.Logger(tmp_path, fold="**") as log:
        log(0, stacked_step(1.0))
    events = EventAccumulator(str(tmp_path)).Reload()
    texts = {tag: found.summary_description for tag, found in events.summary_metadata.items()}
    assert set(texts) >= {f"blocks/rms/{name}" for name in ("p50", "p90", "max")}
    assert texts["blocks/rms/max"].startswith("Size [m].")
    assert "blocks/rms/worst" not in texts


def test_pictures_are_written_at_the_cadence_and_by_close(tmp_path):
    """As PNG that TensorBoard shows, with the steps of their last columns."""
    with sowlog.Logger(tmp_path, fold="blocks/**", heat_map_every=2) as log:
        for step in (0, 10, 20):
            log(step, stacked_step(float(step)))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["blocks/rms/layers"]
    images = events.Images("blocks/rms/layers")
    assert [image.step for image in images] == [10, 20]
    picture = Image.open(io.BytesIO(images[-1].encoded_image_string))
    assert picture.mode == "RGB"
    colours = {colour for _, colour in picture.getcolors()}
    assert {(68, 1, 84), (253, 231, 37)} < colours


def test_a_resumed_run_begins_a_new_picture(tmp_path):
    """Its columns are those of the process; the scalars go on, without a warning."""
    widths = []
    for begin, end in ((0, 30), (20, 22)):
        with sowlog.Logger(tmp_path, fold="x/*", resume_from=begin or None) as log:
            for step in range(begin, end):
                log(step, {"x": [0.0, float(step)]})
        images = EventAccumulator(str(tmp_path)).Reload().Images("x/layers")
        widths.append((images[-1].step, images[-1].width))
    assert [step for step, _ in widths] == [29, 21]
    assert widths[0][1] - widths[1][1] > 300
    assert sowlog.read(tmp_path).scalars["x/max"].values.tolist() == list(map(float, range(22)))


def test_all_writers_have_the_folded_records(tmp_path):
    """In an event file, on a terminal, at a cadence and in memory, of numbers on the host as well."""
    memory, lines = MemoryWriter(), io.StringIO()
    writers = [TensorBoard(tmp_path), Every(2, memory), Console("**", file=lines, interval=0)]
    with sowlog.Logger("unused", writers=writers, fold=["layers_*/x", "h/**"]) as log:
        for step in range(4):
            layers = {f"layers_{layer}": {"x": 1.0 + layer, "y": 2.0} for layer in range(3)}
            log(step, {**layers, "h": [1.0, 2.0] if step else [], "loss": 0.5})
    assert [record.step for record in memory.records if record.tags] == [0, 2]
    tags = ["h/max", "layers/x/max", "layers_2/y", "loss"]
    assert set(tags) < set(sowlog.read(tmp_path).scalars)
    assert not {"layers_0/x", "h/00"} & set(sowlog.read(tmp_path).scalars)
    assert "layers/x/worst 2" in lines.getvalue()


def test_steps_with_other_layers_are_one_picture():
    """A family that lacks a layer at a step, of numbers on the host, goes on in its rows."""
    steps = [{f"layers_{layer}": {"x": 1.0} for layer in range(3) if layer != step} for step in range(4)]
    (last,) = [record for record in log_all(steps, fold="**") if record.images]
    assert (last.step, list(last.images)) == (3, ["layers/x/layers"])
    absent = (last.images["layers/x/layers"] == ABSENT).all(axis=-1)
    assert absent.sum() == 3 * 16 * 16


def test_tags_that_are_in_use_are_not_folded():
    """A warning names both; all values are written."""
    metrics = {"x": [1.0, 2.0], "y": [3.0, 4.0]} | {
        "x/max": 5.0,
        "z_0": 1.0,
        "z_1": 2.0,
        "z": {"0": 1.0, "1": 2.0},
    }
    with pytest.warns(sowlog.TagWarning, match="another value has") as issued:
        records = log_all([metrics, metrics], fold="**")
    assert [str(each.message) for each in issued] == [
        "the scalars of x/* are not folded, since another value has the tag x/max; the scalars of z_* are "
        "not folded, since another value has the name of z/*, z: give one of them another name, or leave it "
        "out of fold=."
    ]
    assert {"x/00", "x/01", "x/max", "y/max", "z/p50", "z_0", "z_1"} < set(records[1].tags)
    with pytest.warns(sowlog.TagWarning) as issued:
        log_all([{"a": [1.0, 2.0], "a/max": 1.0}, {"b": [1.0, 2.0], "b/p50": 1.0}], fold="**")
    assert sum(str(each.message).count("the scalars of a/*") for each in issued) == 1
    assert not {"y/00", "z/0", "x/p50"} & set(records[1].tags)


OTHERS = {
    "scalar": (lambda log, step: log(step, {"x": {"max": 9.0}}), "x/max"),
    "text": (lambda log, step: log.text(step, "x/worst", "text"), "x/worst"),
    "image": (lambda log, step: log.image(step, "x/layers", np.zeros((2, 2))), "x/layers"),
    "curve": (lambda log, step: log.pr_curve(step, "x/p50", np.ones(1, bool), np.ones(1)), "x/p50"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_tag_of_another_call_ends_the_folding(kind, is_first):
    """Of each kind of value, before the family or after; another family goes on, and so does the run."""
    memory, (other, tag) = MemoryWriter(), OTHERS[kind]
    metrics = {"x": [1.0, 2.0], "y": [3.0, 4.0]}
    how = "not folded" if is_first else "no longer folded"
    log = sowlog.Logger("unused", writers=[memory], fold="**")
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        if not is_first:
            log(0, metrics)
        other(log, 1)
        for step in (2, 3):
            log(step, metrics)
        log.close()
    assert [str(each.message) for each in issued] == [
        f"the scalars of x/* are {how}, since another value has the tag {tag}: give one of them another "
        f"name, or leave it out of fold=."
    ]
    layers = {record.step for record in memory.records if {"x/00", "y/max"} <= set(record.tags)}
    assert layers == {2, 3}
    (shown,) = [record.images for record in memory.records if record.is_of_logger and record.step == 3]
    assert list(shown) == ["y/layers"]
    maps = [tag for record in memory.records if record.is_of_logger for tag in record.images]
    assert ("x/layers" in maps) == (not is_first and kind != "image")


def test_a_single_layer_of_a_known_family_is_folded():
    """Of layers that come and go; the axis of a family stays the one that was the largest."""
    records = log_all([{"l_0": 1.0, "l_3": 2.0}, {"l_3": 5.0}, {"l_1": 4.0, "loss": 0.5}], fold="l_*")
    scalar = {"l/p50": 5.0, "l/p90": 5.0, "l/max": 5.0, "l/worst": 3.0}
    assert scalars(records[1]) == scalar
    assert scalars(records[2])["l/worst"] == 1.0
    wide = {f"a_{a}": {f"b_{b}": a + 10.0 * b for b in range(2)} for a in range(3)}
    records = log_all([wide, {"a_1": wide["a_1"]}], fold="**")
    assert {tag.rpartition("/")[0] for tag in records[1].tags} == {"a/b_0", "a/b_1"}
    assert scalars(records[1])["a/b_1/max"] == 11.0


@pytest.mark.parametrize("at", ["add", "last_pictures"])
def test_a_failure_of_a_heat_map_loses_no_record(monkeypatch, at):
    """As without memory: families are folded without pictures, and the writers are closed."""

    def fail(*_):
        raise MemoryError("no room for 9999 rows")

    monkeypatch.setattr(HeatMaps, at, fail)
    memory = MemoryWriter()
    log = sowlog.Logger("unused", writers=[memory], fold="**")
    for step in range(3):
        log(step, {"x": [1.0, float(step)]})
    with pytest.warns(sowlog.TagWarning) as issued:
        log.close()
    assert [str(each.message) for each in issued] == [
        "no further heat maps are drawn, which failed with MemoryError: no room for 9999 rows: leave the "
        "largest families out of fold=."
    ]
    assert [scalars(record)["x/max"] for record in memory.records] == [1.0, 1.0, 2.0]
    assert memory.closed


def test_a_cadence_without_an_end_has_the_picture_of_close():
    """It is longer than any number of records."""
    records = log_all([{"x": [1.0, 2.0]}] * 2, fold="**", heat_map_every=10**30)
    assert [len(record.images) for record in records] == [0, 0, 1]


def test_without_pillow_there_are_scalars_and_no_pictures(monkeypatch):
    """Pillow is an optional dependency."""
    monkeypatch.setattr(png.importlib.util, "find_spec", lambda name: None)
    records = log_all([{"x": [1.0, 2.0]}] * 3, fold="**", heat_map_every=1)
    assert [list(record.images) for record in records] == [[]] * 3
    assert scalars(records[0]) == {"x/p50": 1.0, "x/p90": 2.0, "x/max": 2.0, "x/worst": 1.0}


def test_records_without_a_family_are_unchanged():
    """Neither globs that match no family nor records without scalars cost anything."""
    folding = Folding(["x/00", "loss"], heat_map_every=1)
    for record in (record_of([1.0, 2.0]), Record(0, 0.0, texts={"a": "b"})):
        assert folding.fold(record) == (record,)
    assert not list(folding.last_pictures())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"fold": [3]}, TypeError, "fold of Logger has 3, of type int: give globs of tags"),
        ({"fold": None}, TypeError, r"fold of Logger is None; give a glob of tags or a list of them"),
        ({"fold": b"x"}, TypeError, r"fold of Logger is b'x'; give a glob"),
        ({"fold": "blocks//x"}, ValueError, "fold of Logger has 'blocks//x', with an empty part"),
        ({"heat_map_every": 0}, ValueError, "heat_map_every is 0; it must be 1 record or more"),
        ({"heat_map_every": 1.5}, TypeError, "heat_map_every is 1.5, a float; it must be an integer"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, settings, error, message):
    """Before a file is made."""
    with pytest.raises(error, match=message):
        sowlog.Logger(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_a_stalled_writer_gets_each_record_once():
    """A record is folded once, and kept as it is for another attempt."""

    class Stalling(MemoryWriter):
        def write(self, record):
            if record.step == 1 and not self.records[-1].images and self.attempts < 3:
                self.attempts += 1
                raise sowlog.writers.StalledError("later")
            super().write(record)

        attempts = 0

    writer = Stalling()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sowlog.LossWarning)
        with sowlog.Logger("unused", writers=[writer], fold="**") as log:
            for step in range(5):
                log(step, {"x": [1.0, float(step)]})
    steps = [record.step for record in writer.records]
    assert steps == [0, 1, 2, 3, 4, 4]
    assert [record.values[2] for record in writer.records[:-1]] == [1, 1, 2, 3, 4]
