"""Several runs or loggers in one folder: the points that a resume supersedes, and that later steps hide."""

import os
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX import SummaryWriter

import sowlog
from sowlog import Logger, LossWarning, read
from sowlog._events.framing import frame, read_head, read_payloads, read_tail
from sowlog.writers import Every, TensorBoard
from sowlog.writers._step_order import StepOrder, last_steps
from tests.support.tensorboard_reading import (
    data_server,
    data_server_series,
    tbparse_steps,
    tensorboard_scalars,
)
from tests.support.waiting import wait_until_equal


def test_two_loggers_resume_in_one_folder(tmp_path):
    """The restart of the second hides no point of the first; both continue, and each step is shown once."""
    for first, options in ((0, {}), (5, {"resume_from": 5})):
        with Logger(tmp_path, **options) as train, Logger(tmp_path, **options) as evaluation:
            for step in range(first, first + 8):
                train(step, {"train": float(first)})
                evaluation(step, {"eval": float(first)})
    hides = pytest.warns(LossWarning, match="points of eval in .*, from step 12 to step 12, are hidden")
    with hides, Logger(tmp_path, resume_from=12) as train:
        train(12, {"train": 12.0})
    expected = (list(range(13)), [0.0] * 5 + [5.0] * 7 + [12.0])
    series = tensorboard_scalars(tmp_path)
    assert series["train"][:2] == expected
    assert series["eval"][:2] == (expected[0][:12], expected[1][:12])
    assert {tag: steps.tolist() for tag, (steps, _) in read(tmp_path).scalars.items()} == {
        tag: points.steps for tag, points in series.items()
    }


def test_a_resume_beside_a_new_logger_warns_of_points_shown_twice(tmp_path):
    """No point is hidden; the warning has the line of the user and the correct call."""
    with Logger(tmp_path) as log:
        log(4, {"train": 0.0})
    with Logger(tmp_path) as evaluation:
        evaluation(4, {"eval": 1.0})
        message = r"would hide its points.*Write: resume_from=3 for the first Logger"
        with pytest.warns(LossWarning, match=message) as caught, Logger(tmp_path, resume_from=3) as train:
            train(4, {"train": 1.0})
    assert caught[0].filename == __file__
    series = tensorboard_scalars(tmp_path)
    assert series["eval"].steps == [4]
    assert series["train"][:2] == ([4, 4], [0.0, 1.0])


def test_readers_of_resumed_runs_agree_as_the_documents_say(tmp_path):
    """TensorBoard's reader, its server and `sowlog.read` show each step once; tbparse shows it twice."""
    for name, loggers in (("one", 1), ("two", 2)):
        for first, options in ((0, {}), (5, {"resume_from": 5})):
            logs = [Logger(tmp_path / name, **options) for _ in range(loggers)]
            for step in range(first, first + 8):
                for number, log in enumerate(logs):
                    log(step, {f"x{number}": float(first)})
            for log in logs:
                log.close()
    runs = {"one": ["x0"], "two": ["x0", "x1"]}
    expected = (list(range(13)), [0.0] * 5 + [5.0] * 8)
    for run, tags in runs.items():
        ours, theirs = read(tmp_path / run).scalars, tensorboard_scalars(tmp_path / run)
        for tag in tags:
            assert (ours[tag].steps.tolist(), ours[tag].values.tolist()) == expected
            assert theirs[tag][:2] == expected
            assert sorted(tbparse_steps(tmp_path, tag)[run]) == sorted([*range(8), *range(5, 13)])
    with data_server(tmp_path) as server:

        def shown():
            read = {tag: data_server_series(server, tag) for tag in ("x0", "x1")}
            return {
                run: [read[tag][run][:2] for tag in tags if run in read[tag]] for run, tags in runs.items()
            }

        wait_until_equal(shown, {"one": [expected], "two": [expected] * 2})


def said(log_all, logdir, **options):
    """Return the warnings of a logger, and check the line of each."""
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        with Logger(logdir, **options) as log:
            log_all(log)
            log.flush()
    assert all(each.category is LossWarning and each.filename == __file__ for each in issued)
    return [str(each.message) for each in issued]


def steps_of(*steps, tag="loss"):
    """Return a function that logs these steps of a tag."""

    def log_all(log):
        for step in steps:
            log(step, {tag: float(step)})

    return log_all


def test_a_second_run_in_one_folder_warns_once(tmp_path):
    """At its first step, at the line of the user, with both remedies."""
    assert said(steps_of(*range(10)), tmp_path) == []
    (message,) = said(steps_of(*range(6)), tmp_path)
    assert f"step 0 of loss is logged to {tmp_path}, where an earlier run reached step 9" in message
    assert "write Logger(logdir, resume_from=0); or use a folder for each run." in message


@pytest.mark.parametrize(
    ("steps", "step", "last"),
    [((1, 5, 3, 6), 3, 5), ((0, 1, 2, 0, 1, 2), 0, 2), ((3, 3), 3, 3), ((-3, -4), -4, -3)],
)
def test_steps_that_go_back_warn_once(tmp_path, steps, step, last):
    """A late step, epochs that begin again at 0, a repeated step."""
    (message,) = said(steps_of(*steps), tmp_path)
    assert f"step {step} of loss is logged to {tmp_path}, after its step {last}:" in message


def test_points_below_the_warned_step_are_hidden_by_the_default_server(tmp_path):
    """The server confirms the warning; it shows a resumed run whole, which does not warn."""
    assert said(steps_of(0, 1, 2, 3), tmp_path / "twice") == []
    assert len(said(steps_of(1, 2), tmp_path / "twice")) == 1
    assert said(steps_of(0, 1, 2, 3), tmp_path / "resumed") == []
    assert said(steps_of(2, 3, 4), tmp_path / "resumed", resume_from=2) == []
    expected = {"twice": [0, 1, 2], "resumed": [0, 1, 2, 3, 4]}
    with data_server(tmp_path) as server:

        def shown():
            return {run: series.steps for run, series in data_server_series(server, "loss").items()}

        wait_until_equal(shown, expected)


def test_runs_that_hide_nothing_do_not_warn(tmp_path):
    """Other tags, later steps, evaluation beside training, a cadence, images and histograms, hparams."""

    def log_all(log):
        log.hparams({"a": 1})
        for step in range(20, 30):
            log(step, {"loss": 1.0, "h": sowlog.histogram.of(np.ones(3))})
            log(step, {"rate": 1.0})
            log.image(step, "image", np.zeros((2, 2), np.uint8))
            if step % 4 == 0:
                log(step - 4, {"late": 1.0})

    assert said(steps_of(*range(20)), tmp_path) == []
    assert said(log_all, tmp_path) == []
    assert said(steps_of(*range(5), tag="offline"), tmp_path) == []
    with Logger(tmp_path) as log:
        steps_of(30, 31)(log)
        assert said(steps_of(*range(25), tag="beside"), tmp_path) == []
        steps_of(32)(log)
    assert said(steps_of(*range(25, 40)), tmp_path, resume_from=25) == []
    writers = [Every(2, TensorBoard(tmp_path)), Every(4, TensorBoard(tmp_path))]
    assert said(steps_of(*range(40, 50)), tmp_path, writers=writers) == []


def test_a_step_below_the_resumed_one_warns(tmp_path):
    """A resume supersedes no step below its own."""
    assert said(steps_of(*range(10)), tmp_path) == []
    (message,) = said(steps_of(3, 4), tmp_path, resume_from=5)
    assert "where an earlier run reached step 4" in message


def log_other(log, step, kind, tag="x", **metrics):
    """Log an image or a histogram."""
    if kind == "image":
        log.image(step, tag, np.zeros((2, 2), np.uint8))
    if kind == "histogram" or metrics:
        histogram = {tag: sowlog.histogram.of(np.ones(3))} if kind == "histogram" else {}
        log(step, {**histogram, **metrics})


@pytest.mark.parametrize("kind", ["image", "histogram"])
def test_images_and_histograms_are_hidden_as_well(tmp_path, kind):
    """Within one logger."""

    def log_back(log):
        for step in (1, 0):
            log_other(log, step, kind)

    (message,) = said(log_back, tmp_path / "one")
    assert "step 0 of x is logged to" in message
    assert "after its step 1:" in message


@pytest.mark.parametrize("beside", [{}, {"renamed": 1.0}], ids=["alone", "beside scalars"])
@pytest.mark.parametrize("kind", ["image", "histogram"])
def test_images_and_histograms_of_an_earlier_run_are_hidden_as_well(tmp_path, kind, beside):
    """The remedy removes the warning; a later step, and scalars of another name beside them, hide nothing."""

    def log_steps(*steps, **metrics):
        def log_all(log):
            for step in steps:
                log_other(log, step, kind, **metrics)

        return log_all

    for options in ({}, {"resume_from": 0}):
        assert said(log_steps(*range(8)), tmp_path, **options) == []
    (message,) = said(log_steps(3, 4, **beside), tmp_path)
    assert f"step 3 of x is logged to {tmp_path}, where an earlier run reached step 7" in message
    assert "write Logger(logdir, resume_from=3); or use a folder for each run." in message
    assert said(log_steps(8, 9, **beside), tmp_path) == []


def test_images_of_another_logger_that_a_resume_hides_are_named(tmp_path):
    """As scalars are: a restart hides points of every kind."""
    with Logger(tmp_path) as log, Logger(tmp_path) as pictures:
        for step in range(4):
            log(step, {"loss": 1.0})
            log_other(pictures, step, "image")
    (message,) = said(steps_of(2, 3, 4), tmp_path, resume_from=2)
    assert f"the points of x in {tmp_path}, from step 2 to step 3, are hidden" in message


def test_a_notebook_cell_that_runs_again_warns(tmp_path):
    """Its first logger is still open; the suggested call removes the warning."""
    with Logger(tmp_path) as first:
        steps_of(*range(10))(first)
        first.flush()
        (message,) = said(steps_of(*range(10)), tmp_path)
        assert f"step 0 of loss is logged to {tmp_path}, where another Logger, still open, has" in message
        assert "has reached step 9:" in message
        assert "Close that Logger first, and write Logger(logdir, resume_from=0) to repeat steps" in message
        assert said(steps_of(*range(10), tag="eval"), tmp_path) == []
    assert said(steps_of(*range(10)), tmp_path / "again") == []
    with Logger(tmp_path / "again", resume_from=0) as first:
        steps_of(*range(10))(first)
        first.flush()
        (message,) = said(steps_of(5, 6), tmp_path / "again", resume_from=5)
        assert "step 5 of loss" in message


def test_loggers_that_resume_one_after_the_other_warn_of_hidden_points(tmp_path):
    """At the close, by tag, with both remedies; a second resume of the same tags does not warn."""
    with Logger(tmp_path) as log:
        for step in range(10):
            log(step, {"loss": 1.0, "eval": 1.0})
    for _ in range(2):
        assert said(steps_of(*range(5, 15)), tmp_path, resume_from=5) == []
    assert read(tmp_path).scalars["loss"].steps.tolist() == list(range(15))
    (message,) = said(steps_of(*range(5, 15), tag="eval"), tmp_path, resume_from=5)
    assert read(tmp_path).scalars["loss"].steps.tolist() == list(range(5))
    assert f"the points of loss in {tmp_path}, from step 5 to step 14, are hidden" in message
    assert (
        "make both, each with resume_from=5, before the first is closed; or use a folder for each" in message
    )
    # Points hidden by an earlier restart are not reported again.
    assert said(steps_of(*range(5, 15), tag="eval"), tmp_path, resume_from=5) == []


def test_a_resume_that_replaces_all_hidden_points_does_not_warn(tmp_path):
    """A resume that ended early, that lacks some tags, or that runs beside another logger, open or closed."""
    with Logger(tmp_path) as train, Logger(tmp_path) as evaluation:
        for step in range(10):
            train(step, {"loss": 1.0, "rare": 1.0})
        evaluation(9, {"eval": 1.0})
    assert said(steps_of(5, 6, 7, 8), tmp_path, resume_from=5) == []
    both = {"resume_from": 4}
    with Logger(tmp_path, **both) as train, Logger(tmp_path, **both) as evaluation:
        steps_of(*range(4, 12))(train)
        steps_of(9, tag="eval")(evaluation)
    train, evaluation = Logger(tmp_path, **both), Logger(tmp_path, **both)
    steps_of(*range(4, 12))(train)
    train.close()
    steps_of(9, tag="eval")(evaluation)
    evaluation.close()


def test_a_writers_warning_passes_a_cadence_and_costs_nothing(tmp_path):
    """`Every` forwards it; if warnings are errors, the step of the call is logged nevertheless."""
    log = Logger(tmp_path, writers=[Every(1, TensorBoard(tmp_path))])
    steps_of(2, 1)(log)
    with pytest.raises(LossWarning, match="after its step 2"):
        log.flush()
    steps_of(0)(log)
    log.close()
    assert [point.step for point in sowlog.testing.read_events(tmp_path)] == [2, 1, 0]


def test_damaged_and_foreign_files_are_looked_at_as_far_as_they_go(tmp_path):
    """A torn, random or empty file, a FIFO, a folder, a file of another program: none stops a logger."""
    assert said(steps_of(*range(10)), tmp_path / "a") == []
    (path,) = (tmp_path / "a").iterdir()
    torn = path.read_bytes()[:-5]
    with SummaryWriter(str(tmp_path / "b")) as writer:
        writer.add_scalar("loss", 1.0, 5)
    for name, content in (("1", b""), ("2", b"rubbish" * 99), ("3", frame(b"\xff" * 9)), ("4", torn)):
        (tmp_path / "b" / f"events.out.tfevents.{name}.x").write_bytes(content)
    os.mkfifo(tmp_path / "b" / "events.out.tfevents.9.x")
    (tmp_path / "b" / "events.out.tfevents.8.x").mkdir()
    (message,) = said(steps_of(0), tmp_path / "b")
    assert "where an earlier run reached step 8" in message


def test_last_steps_are_those_that_restarts_leave(tmp_path):
    """Per tag, over several files, of which a later one supersedes the end of an earlier one."""
    steps_of(*range(10))(log := Logger(tmp_path))
    log.close()
    steps_of(3, tag="other")(log := Logger(tmp_path, resume_from=3))
    log.close()
    files = list(tmp_path.iterdir())
    assert last_steps(files, resume_from=None) == {"loss": 2, "other": 3}
    assert last_steps(files, resume_from=1) == {"loss": 0, "other": 0}


@given(
    payloads=st.lists(st.binary(max_size=60) | st.just(bytes(50)), max_size=12),
    cut=st.integers(0, 20),
    size=st.integers(0, 1000),
)
def test_the_tail_is_the_last_whole_records(payloads, cut, size, tmp_path_factory):
    """At any start, and although a payload may look like a record."""
    path = tmp_path_factory.mktemp("tail") / "file"
    whole = b"".join(map(frame, payloads))
    path.write_bytes(whole[: len(whole) - cut])
    kept = []
    while kept != payloads and len(b"".join(map(frame, [*kept, payloads[len(kept)]]))) <= len(whole) - cut:
        kept.append(payloads[len(kept)])
    tail = list(read_tail(path, size))
    assert tail == kept[len(kept) - len(tail) :]
    if size >= len(whole):
        assert tail == kept


def test_a_huge_file_costs_what_its_tail_does(tmp_path, monkeypatch):
    """A gigabyte is not read, for any number of such files."""
    assert said(steps_of(*range(10)), tmp_path) == []
    (path,) = tmp_path.iterdir()
    opening, *events = map(frame, read_payloads(path))
    with path.open("wb") as file:
        file.write(opening)
        file.truncate(1 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"".join(events))
    for number in range(2, 12):
        os.link(path, tmp_path / f"events.out.tfevents.{number}.x")
    read_bytes = []
    monkeypatch.setattr(
        sowlog.writers._step_order,
        "read_tail",
        lambda file, size: read_bytes.append(size) or read_tail(file, size),
    )
    assert last_steps(tmp_path.iterdir(), resume_from=None) == {"loss": 9}
    assert sum(read_bytes) <= 1 << 22
    assert read_head(path, 9) == [next(read_payloads(path))]


def test_many_sets_of_tags_are_distinguished_in_bounded_memory():
    """Absent values change the set from step to step; the order is checked per tag."""
    order, generator = StepOrder(dict), np.random.default_rng(0)
    last = {}
    for _ in range(3000):
        tags = tuple(f"t{number}" for number in np.flatnonzero(generator.random(8) < 0.5))
        if not tags:
            continue
        step = max((last.get(tag, -1) for tag in tags), default=-1) + 1
        assert order.check(tags, step) is None
        last.update(dict.fromkeys(tags, step))
        assert len(order._layouts) <= 64
        assert len(order._overlaps) <= 64 * 64 * 2
    back = order.check(("new", "t3"), last["t3"])
    assert (back.tag, back.step, back.last, back.is_earlier_run) == ("t3", last["t3"], last["t3"], False)
    assert order.check(("t3",), 0) is None
