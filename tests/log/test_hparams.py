import enum
import functools
import math
import os
import warnings
from argparse import Namespace
from pathlib import Path
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

import sowlog
from sowlog.testing import MemoryWriter, read_events
from sowlog.writers.record import Record
from tests.support.full_disk import file_size_limit
from tests.support.hparams_reading import Row, hparams_table, provided_table
from tests.support.odd_writers import FailingWriter, GatedWriter
from tests.support.tensorboard_reading import data_server
from tests.support.waiting import wait_until, wait_until_equal


class Colour(enum.Enum):
    """A setting that is not a number."""

    RED = 1


class ConfigDict:
    """A mapping by its methods only, as that of ml_collections."""

    def __init__(self, values):
        self._values = {
            name: ConfigDict(value) if isinstance(value, dict) else value for name, value in values.items()
        }

    def keys(self):
        return list(self._values)

    def __getitem__(self, name):
        return self._values[name]


HOLDS_ITSELF = {"a": {}}
HOLDS_ITSELF["a"]["a"] = HOLDS_ITSELF["a"]


class Choice(enum.IntEnum):
    """A setting as an enumeration."""

    THIRD = 3


def log_run(logdir, values, *, metrics=(), last=0.5):
    """Log a run of three steps, whose loss ends at `last`."""
    with sowlog.Logger(logdir) as log:
        log.hparams(values, metrics)
        for step in range(3):
            log(step, {"eval": {"loss": last + 2 - step}, "norm": 1.0})


def test_the_table_has_a_row_per_run_with_its_last_metrics(tmp_path):
    """Bools, numbers and text keep their type; the table has the chosen metrics only, and no sub-run."""
    for seed in range(2):
        values = {"seed": seed, "optimizer": {"name": "sgd", "nesterov": seed == 0}, "lr": 1e-3}
        log_run(tmp_path / f"seed={seed}", values, metrics=["eval/loss"], last=seed)
    table = hparams_table(tmp_path)
    assert sorted(table.hparams) == ["lr", "optimizer.name", "optimizer.nesterov", "seed"]
    assert table.metrics == ["eval/loss"]
    expected = {"seed": 1.0, "optimizer.name": "sgd", "optimizer.nesterov": False, "lr": 1e-3}
    assert table.rows["seed=1"] == Row(expected, {"eval/loss": 1.0}, "success")
    assert table.rows["seed=0"].hparams["optimizer.nesterov"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed=0", "seed=1"]


def test_the_data_server_shows_the_same_table(tmp_path):
    """The Rust server of `tensorboard` agrees with its Python reader, for a resumed run as well."""
    log_run(tmp_path / "one", {"seed": 1}, metrics=["eval/loss"])
    log_run(tmp_path / "two", {"seed": 2}, metrics=["eval/loss"])
    with sowlog.Logger(tmp_path / "two", resume_from=2) as log:
        log.hparams({"seed": 2}, ["eval/loss"])
        log(2, {"eval": {"loss": 0.125}})
    expected = hparams_table(tmp_path)
    assert expected.rows["two"] == Row({"seed": 2.0}, {"eval/loss": 0.125}, "success")
    with data_server(tmp_path) as server:
        wait_until_equal(lambda: provided_table(server), expected)


def test_without_metrics_the_table_has_all_scalars(tmp_path):
    """TensorBoard finds them by itself."""
    log_run(tmp_path / "run", {"seed": 1})
    assert hparams_table(tmp_path).rows["run"].metrics == {"eval/loss": 0.5, "norm": 1.0}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        ([64, 64], "[64, 64]"),
        ((1, "a"), "(1, 'a')"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (Choice.THIRD, 3.0),
        (2**40, 2.0**40),
        ("", ""),
        (np.dtype("float32"), "float32"),
        (jnp.bfloat16, "jax.numpy.bfloat16"),
        (math.log, "math.log"),
        (functools.partial(math.pow, 2), "math.pow(2)"),
        (dict, "builtins.dict"),
        (Colour.RED, "Colour.RED"),
        (Path("/data/x"), "/data/x"),
        ({3}, "{3}"),
        (2**2000, str(2**2000)),
        (os.fsdecode(b"/data/\xff"), "/data/\\udcff"),
    ],
)
def test_values_are_shown_with_their_type(tmp_path, value, shown):
    """Lists, None, NaN and infinity are text; numbers of NumPy and of enumerations are numbers."""
    log_run(tmp_path / "run", {"value": value})
    assert hparams_table(tmp_path).rows["run"].hparams == {"value": shown}


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({}, ValueError, "no hyperparameters were given"),
        ({"a": {}}, ValueError, "no hyperparameters were given"),
        ({"a.b": 1, "a": {"b": 2}}, ValueError, "two hyperparameters have the name a.b"),
        ({1: 2}, TypeError, "the hyperparameter 1 has a name of type int"),
        ({"a": {1: 2}}, TypeError, "the hyperparameter 1 in a has a name of type int"),
        ({"a": {"f": [object()]}}, TypeError, "the hyperparameter a.f is of type list"),
        (
            {"a": {"f": functools.partial(min, object())}},
            TypeError,
            "the hyperparameter a.f is of type partial",
        ),
        (HOLDS_ITSELF, ValueError, "the hyperparameter a.a contains itself"),
        (Namespace(seed=1), TypeError, r"of type Namespace: give a mapping .* vars\(args\)"),
        (None, TypeError, "of type NoneType: give a mapping"),
        ({"model": object()}, TypeError, "the hyperparameter model is of type object"),
        ({"lr": jnp.float32(1)}, TypeError, r"the hyperparameter lr .*array.item\(\)"),
    ],
)
def test_an_unsupported_hyperparameter_is_refused(tmp_path, values, error, message):
    """The error has its name and the supported types."""
    with sowlog.Logger(tmp_path) as log, pytest.raises(error, match=message):
        log.hparams(values)


@pytest.mark.parametrize(
    "values",
    [
        ConfigDict({"seed": 0, "model": {"width": 8}}),
        {"seed": 0, "model": ConfigDict({"width": 8})},
        {"seed": 0, "model": MappingProxyType({"width": 8})},
        FrozenDict({"seed": 0, "model": {"width": 8}}),
    ],
)
def test_any_mapping_is_taken(tmp_path, values):
    """Nested mappings too, and objects with the methods of a mapping."""
    log_run(tmp_path / "run", values)
    assert hparams_table(tmp_path).rows["run"].hparams == {"seed": 0.0, "model.width": 8.0}


@pytest.mark.parametrize("on_full", ["block", "drop_oldest", "error"])
def test_a_full_queue_neither_drops_nor_refuses_hparams(tmp_path, on_full):
    """They belong to the run and not to a step, and take no step's room in the queue."""
    gate = GatedWriter()
    log = sowlog.Logger(tmp_path, writers=[gate], queue_size=2, on_full=on_full)
    log(0, {"x": 0.0})
    wait_until(lambda: not log._background._queue)
    for step in (1, 2):
        log(step, {"x": 0.0})
    log.hparams({"lr": 1e-3})
    if on_full == "drop_oldest":
        log(3, {"x": 0.0})
        log(4, {"x": 0.0})
    elif on_full == "error":
        with pytest.raises(sowlog.QueueFullError, match="2 records wait"):
            log(3, {"x": 0.0})
    gate.open.set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sowlog.LossWarning)
        log.close()
    assert [record.hparams is not None for record in gate.records].count(True) == 1
    assert gate.records[-1].ending == "success"
    steps = [record.step for record in gate.records if record.tags]
    assert steps == ([0, 3, 4] if on_full == "drop_oldest" else [0, 1, 2])


def test_a_stalled_writer_keeps_hparams_beyond_its_bound(tmp_path):
    """The oldest steps are dropped to bound the pending records."""
    logdir = tmp_path / "run"
    log = sowlog.Logger(logdir, queue_size=4)
    with file_size_limit(40), warnings.catch_warnings():
        warnings.simplefilter("ignore", sowlog.LossWarning)
        log.hparams({"seed": 3})
        for step in range(20):
            log(step, {"x": 1.0})
        with pytest.raises(sowlog.WriterError, match="lost 16 records, at steps 0 to 15"):
            log.flush()
    log.close()
    assert hparams_table(tmp_path).rows["run"].hparams == {"seed": 3.0}
    assert [point.step for point in read_events(logdir)] == [16, 17, 18, 19]


def test_hparams_are_written_once_beside_an_earlier_error(tmp_path):
    """The call raises the error and queues the hyperparameters, so a second call is refused."""
    log = sowlog.Logger(tmp_path, writers=[FailingWriter(3), memory := MemoryWriter()])
    log(3, {"x": 1.0})
    wait_until(lambda: bool(log._background._errors))
    with pytest.raises(sowlog.WriterError, match="failed at step 3"):
        log.hparams({"a": 1})
    with pytest.raises(RuntimeError, match="a second time"):
        log.hparams({"a": 1})
    with pytest.raises(sowlog.WriterError, match="lost 1 record"):
        log.close()
    assert [dict(record.hparams.values) for record in memory.records if record.hparams] == [{"a": 1}]


def test_metrics_are_a_list_of_tags(tmp_path):
    """A single string would be read as a list of letters."""
    with sowlog.Logger(tmp_path) as log, pytest.raises(TypeError, match=r"metrics=\['eval/loss'\]"):
        log.hparams({"a": 1}, "eval/loss")


def test_hparams_are_logged_once(tmp_path):
    """TensorBoard shows only the first."""
    with sowlog.Logger(tmp_path) as log:
        log.hparams({"a": 1})
        with pytest.raises(RuntimeError, match=r"a second time.*in one call"):
            log.hparams({"b": 1})


def test_hparams_after_the_close_are_refused(tmp_path):
    """A closed logger refuses them."""
    log = sowlog.Logger(tmp_path)
    log.close()
    with pytest.raises(RuntimeError, match="this Logger is closed"):
        log.hparams({"a": 1})


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "success"), (ValueError, "failure"), (KeyboardInterrupt, "unknown"), (SystemExit, "unknown")],
)
def test_the_ending_is_that_of_the_with_block(tmp_path, error, status):
    """An exception is a failure; after Ctrl-C the run may continue, so no ending is written."""

    def run():
        with sowlog.Logger(tmp_path / "run") as log:
            log.hparams({"a": 1})
            if error:
                raise error("stop")

    if error:
        with pytest.raises(error, match="stop"):
            run()
    else:
        run()
    assert hparams_table(tmp_path).rows["run"].status == status


@pytest.mark.parametrize(("ending", "status"), [("failure", "failure"), (None, "unknown")])
def test_close_writes_an_ending_that_the_block_cannot_know(tmp_path, ending, status):
    """For a run that diverged, or that stopped in order to continue later."""
    with sowlog.Logger(tmp_path / "run") as log:
        log.hparams({"a": 1})
        log.close(ending=ending)
    assert hparams_table(tmp_path).rows["run"].status == status


def test_a_run_is_a_row_before_it_ends(tmp_path):
    """A killed run keeps its row."""
    log = sowlog.Logger(tmp_path / "run")
    log.hparams({"a": 1}, ["loss"])
    log(0, {"loss": 2.0})
    log.flush()
    assert hparams_table(tmp_path).rows == {"run": Row({"a": 1.0}, {"loss": 2.0}, "unknown")}
    log.close()
    log.close()
    assert hparams_table(tmp_path).rows["run"].status == "success"


def test_a_writer_sees_the_start_and_the_end(tmp_path):
    """Both are records without values; a run without hyperparameters has no ending."""
    memory = MemoryWriter()
    with sowlog.Logger(tmp_path, writers=[memory]) as log:
        log.hparams({"a": {"b": 1}}, ["loss"])
        log(7, {"loss": 1.0})
    start, middle, end = memory.records
    assert (start.step, start.tags, start.values.shape, start.ending) == (0, (), (0,), None)
    assert (dict(start.hparams.values), start.hparams.metrics) == ({"a.b": 1}, ("loss",))
    with pytest.raises(TypeError, match="does not support item assignment"):
        start.hparams.values["a.b"] = 2
    assert (middle.hparams, middle.ending) == (None, None)
    assert (end.hparams, end.ending) == (None, "success")
    assert start.wall_time <= middle.wall_time <= end.wall_time
    silent = MemoryWriter()
    with sowlog.Logger(tmp_path, writers=[silent]) as log:
        log(7, {"loss": 1.0})
    assert [record.ending for record in silent.records] == [None]


def test_a_record_needs_a_step_and_a_time_only():
    """Tests of a writer then need no change when records get more fields."""
    record = Record(3, 1.5)
    assert (record.tags, record.values.shape, dict(record.images), record.hparams) == ((), (0,), {}, None)
    assert not record.values.flags.writeable


def test_the_repr_of_a_record_shows_values(tmp_path):
    """A few scalars, the shapes of images, the tags of histograms, and all hyperparameters."""
    memory = MemoryWriter()
    with sowlog.Logger(tmp_path, writers=[memory]) as log:
        log.hparams({"a": {"b": 1}}, ["loss"])
        log(1, {f"x{i}": i / 8 for i in range(10)} | {"h": sowlog.histogram.of([1.0])})
        log.image(2, "pixels", np.zeros((6, 8)))
    assert list(map(repr, memory.records)) == [
        "<Record at step 0: HParams(values={'a.b': 1}, metrics=('loss',))>",
        "<Record at step 1: x0=0, x1=0.125, x2=0.25, x3=0.375, 6 more, histogram h>",
        "<Record at step 2: image pixels [6, 8, 1]>",
        "<Record at step 0: ending='success'>",
    ]
    assert repr(Record(3, 1.5)) == "<Record at step 3: empty>"


def test_an_ending_that_cannot_be_written_is_reported(tmp_path):
    """It counts as a lost record."""
    log = sowlog.Logger(tmp_path, writers=[FailingWriter(0)])
    log.hparams({"a": 1})
    with pytest.raises(sowlog.WriterError, match="lost 2 records"):
        log.close()


def test_scalars_are_read_beside_hparams(tmp_path):
    """`sowlog.read` and `read_events` skip other kinds of values."""
    log_run(tmp_path / "run", {"seed": 1}, metrics=["eval/loss"])
    run = sowlog.read(tmp_path / "run")
    assert run.damage == ()
    assert sorted(run.scalars) == ["eval/loss", "norm"]
    assert len(read_events(tmp_path / "run")) == 6


def test_every_does_not_hold_back_hparams(tmp_path):
    """They belong to no step, so no cadence applies."""
    with sowlog.Logger(tmp_path / "run", every=5) as log:
        log.hparams({"a": 1})
    assert hparams_table(tmp_path).rows["run"].hparams == {"a": 1.0}
