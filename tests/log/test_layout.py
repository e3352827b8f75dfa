import re
import warnings

import pytest

import sowlog
from sowlog.testing import MemoryWriter, read_events
from tests.support.full_disk import file_size_limit
from tests.support.odd_writers import GatedWriter
from tests.support.tensorboard_reading import data_server, local_provider, shown_charts, shown_layout
from tests.support.waiting import wait_until, wait_until_equal

LOSS = {"loss": {"training and held-out": ["loss", "eval/loss"]}}


def log_run(logdir, layout=LOSS, *, tags=("loss", "eval/loss", "loss/weighted"), **options):
    """Log a run of three steps with a layout."""
    with sowlog.Logger(logdir, **options) as log:
        log.layout(layout)
        for step in range(3):
            log(step + (options.get("resume_from") or 0), dict.fromkeys(tags, 1.0))


def test_a_chart_has_its_tags_and_no_others(tmp_path):
    """A tag is whole: loss is no prefix of loss/weighted."""
    log_run(tmp_path / "run")
    assert shown_charts(local_provider(tmp_path), "run") == {
        ("loss", "training and held-out"): ["loss", "eval/loss"]
    }


@pytest.mark.parametrize(
    ("tag", "shown"),
    [
        ("a/*", {"a/b", "a/x.y"}),
        ("a/?", {"a/b"}),
        ("**/c", {"c", "a/b/c"}),
        ("a/**", {"a/b", "a/x.y", "a/b/c"}),
        ("**", {"c", "a/b", "a/x.y", "a/b/c", "a+b"}),
        ("*/b/*", {"a/b/c"}),
        ("a/x.y", {"a/x.y"}),
        ("a/b", {"a/b"}),
        ("a+b", {"a+b"}),
        (re.compile("c|a/b"), {"c", "a/b"}),
        (re.compile("(?i:A/B)"), {"a/b"}),
        ("b", set()),
    ],
)
def test_globs_and_expressions_match_whole_tags(tmp_path, tag, shown):
    """As TensorBoard's own plugin matches them."""
    log_run(tmp_path / "run", {"category": {"chart": [tag]}}, tags=["c", "a/b", "a/x.y", "a/b/c", "a+b"])
    assert set(shown_charts(local_provider(tmp_path), "run")["category", "chart"]) == shown


def test_a_later_layout_replaces_the_earlier(tmp_path):
    """In one run, and in a run that is resumed, for both servers of TensorBoard."""
    later = {"b": {"second": ["eval/loss"]}, "a": {"first": ["loss"], "other": ["x"]}}
    with sowlog.Logger(tmp_path / "run") as log:
        log.layout(LOSS)
        log(0, {"loss": 1.0})
        log.layout({"c": {"between": ["loss"]}})
        log(1, {"loss": 1.0})
    log_run(tmp_path / "run", later, resume_from=1)
    expected = {("b", "second"): ["^eval/loss$"], ("a", "first"): ["^loss$"], ("a", "other"): ["^x$"]}
    assert list(shown_layout(local_provider(tmp_path)).items()) == list(expected.items())
    with data_server(tmp_path) as server:
        wait_until_equal(lambda: shown_layout(server), expected)


def test_equal_charts_of_several_runs_are_one(tmp_path):
    """TensorBoard joins the layouts of runs by category."""
    log_run(tmp_path / "one")
    log_run(tmp_path / "two", {"loss": {**LOSS["loss"], "weighted": ["loss/weighted"]}})
    assert list(shown_layout(local_provider(tmp_path))) == [
        ("loss", "training and held-out"),
        ("loss", "weighted"),
    ]


@pytest.mark.parametrize(
    ("layout", "error", "message"),
    [
        (None, TypeError, "the layout is of type NoneType: give a dict"),
        ({}, ValueError, "the layout has no category"),
        ({"loss": ["loss"]}, TypeError, "the category loss of the layout is of type list: give a dict"),
        ({"loss": {}}, ValueError, "the category loss of the layout has no chart"),
        ({"loss": {"chart": "loss"}}, TypeError, "the chart chart of the layout is 'loss': give a list"),
        ({"loss": {"chart": 1}}, TypeError, "the chart chart of the layout is 1: give a list of tags"),
        ({"loss": {"chart": []}}, ValueError, "the chart chart of the layout has no tags"),
        ({"loss": {"chart": [1]}}, TypeError, "has the tag 1, of type int: pass a tag, a glob"),
        ({"loss": {"chart": [""]}}, ValueError, "has the tag '', with an empty part"),
        ({"loss": {"chart": ["a//b"]}}, ValueError, "has the tag 'a//b', with an empty part"),
        ({"loss": {"chart": [re.compile(b"x")]}}, TypeError, "has an expression of bytes"),
        ({"loss": {"chart": [re.compile("x", re.I)]}}, ValueError, r"'x' with flags.*\(\?i:loss\)"),
        ({"": {"chart": ["x"]}}, TypeError, "a category of the layout has the title ''"),
        ({"loss": {1: ["x"]}}, TypeError, "a chart of loss of the layout has the title 1"),
    ],
)
def test_an_invalid_layout_is_refused(layout, error, message):
    """At the call, with the form to write."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory]) as log, pytest.raises(error, match=message):
        log.layout(layout)
    assert memory.records == []


def test_a_layout_after_the_close_is_refused():
    """A closed logger refuses it."""
    log = sowlog.Logger("unused", writers=[])
    log.close()
    with pytest.raises(RuntimeError, match="this Logger is closed"):
        log.layout(LOSS)


def test_a_writer_sees_the_layout():
    """In a record of its own, read-only, at any cadence of the logger."""
    memory = MemoryWriter()
    with sowlog.Logger("unused", writers=[memory], every=5) as log:
        log.layout(LOSS)
    (record,) = memory.records
    assert (record.step, record.layout) == (0, {"loss": {"training and held-out": ("^loss$", "^eval/loss$")}})
    assert repr(record) == "<Record at step 0: layout ['loss']>"
    with pytest.raises(TypeError, match="does not support item assignment"):
        record.layout["loss"]["more"] = ()


@pytest.mark.parametrize("on_full", ["block", "drop_oldest", "error"])
def test_a_full_queue_neither_drops_nor_refuses_a_layout(on_full):
    """The number of dropped steps waits for the next step."""
    gate = GatedWriter()
    log = sowlog.Logger("unused", writers=[gate], queue_size=2, on_full=on_full)
    log(0, {"x": 0.0})
    wait_until(lambda: not log._background._queue)
    log.layout(LOSS)
    log(1, {"x": 0.0})
    if on_full == "drop_oldest":
        log(2, {"x": 0.0})
    log.layout(LOSS)
    gate.open.set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sowlog.LossWarning)
        log.close()
    assert [(bool(record.layout), record.tags) for record in gate.records] == [
        (False, ("x",)),
        (True, ()),
        (False, ("x", "sowlog/dropped") if on_full == "drop_oldest" else ("x",)),
        (True, ()),
    ]


def test_a_stalled_writer_keeps_a_layout_beyond_its_bound(tmp_path):
    """The oldest steps are dropped to bound the pending records."""
    log = sowlog.Logger(tmp_path / "run", queue_size=4)
    with file_size_limit(40), warnings.catch_warnings():
        warnings.simplefilter("ignore", sowlog.LossWarning)
        log.layout(LOSS)
        for step in range(20):
            log(step, {"loss": 1.0})
        with pytest.raises(sowlog.WriterError, match="lost 16 records, at steps 0 to 15"):
            log.flush()
    log.close()
    assert list(shown_layout(local_provider(tmp_path))) == [("loss", "training and held-out")]
    assert [point.step for point in read_events(tmp_path / "run")] == [16, 17, 18, 19]


def test_scalars_are_read_beside_a_layout(tmp_path):
    """A layout is no value that `sowlog.read` leaves out."""
    log_run(tmp_path)
    run = sowlog.read(tmp_path)
    assert (sorted(run.scalars), dict(run.left_out)) == (["eval/loss", "loss", "loss/weighted"], {})
