import math
import subprocess
import sys

import numpy as np
import pytest
import wandb
from PIL import Image

import sowlog
from sowlog.testing import MemoryWriter
from sowlog.writers import HParams, Record, Spooled, Wandb
from tests.support.wandb_reading import runs_of


@pytest.fixture(autouse=True)
def own_settings(monkeypatch, tmp_path):
    """Leave out a login of this machine."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def written(tmp_path):
    """Return a function that writes records to an offline run, and returns the runs of the folder."""

    def write(*records, ended=True, **options):
        writer = Wandb("digits", run="first", folder=tmp_path, mode="offline", **options)
        for each in records:
            writer.write(each)
        writer.flush()
        if ended:
            writer.close()
            # W&B's process writes the end of the file when it ends.
            wandb.teardown()
        return runs_of(tmp_path)

    return write


def record(step, values, **others):
    """Return a record of a dict of scalars."""
    return Record(step, 1e9 + step, tuple(values), np.array(list(values.values()), np.float32), **others)


def test_every_row_has_its_step_and_time(written):
    """Steps that repeat, go back or are negative are all kept, where W&B's own counter would drop them."""
    steps = [3, 3, 1, -2, 2**62]
    (run,) = written(*(record(step, {"x": i, "a/b": -i}) for i, step in enumerate(steps)))
    assert [row["global_step"] for row in run["rows"]] == steps
    assert [(row["x"], row["a/b"]) for row in run["rows"]] == [(float(i), float(-i)) for i in range(5)]
    assert [row["_timestamp"] for row in run["rows"]] == [1e9 + step for step in steps]
    assert run["exit_code"] == 0


def test_nan_and_infinity_are_values(written):
    """W&B has names for them."""
    (run,) = written(record(0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1}))
    (row,) = run["rows"]
    assert [float(row[tag]) for tag in "bc"] == [math.inf, -math.inf]
    assert math.isnan(float(row["a"]))
    assert np.float32(row["d"]) == np.float32(0.1)


def test_a_resumed_run_is_a_fork_in_one_group(written):
    """No step of either run is dropped, and the config has the step at which they part."""
    written(*(record(step, {"x": 0}) for step in range(6)))
    before, after = written(*(record(step, {"x": 1}) for step in range(3, 6)), resume_from=3)
    assert [row["global_step"] for row in before["rows"]] == list(range(6))
    assert [row["global_step"] for row in after["rows"]] == [3, 4, 5]
    assert (before["name"], after["name"]) == ("first", "first from 3")
    assert before["group"] == after["group"] == "first"
    assert after["config"]["resumed_from"] == 3
    assert "resumed_from" not in before["config"]


def test_hyperparameters_media_and_ending(written, tmp_path):
    """Histograms keep their counts, also of more bins than W&B takes; images are files of W&B's."""
    memory = MemoryWriter()
    elements = np.concatenate((np.linspace(-5, 5, 1000), [np.nan])).astype(np.float32)
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with sowlog.Logger("unused", writers=[memory], on_nonfinite="ignore") as log:
        log.hparams({"optimizer": {"lr": 0.1}, "name": "wide"})
        log(4, {"h": sowlog.histogram(sub_bins=256).of(elements), "none": sowlog.histogram.of(elements[-1:])})
        log.image(5, "samples", pixels)
        log.text(6, "notes", "a <b>")
        log.close(ending="failure")
    (run,) = written(*memory.records)
    assert run["config"]["optimizer.lr"] == 0.1
    assert run["config"]["name"] == "wide"
    rows = {row["global_step"]: row for row in run["rows"]}
    histogram = rows[4]["h"]
    assert len(histogram["bins"]) == len(histogram["values"]) + 1 <= 513
    assert sum(histogram["values"]) == 1000
    assert (histogram["bins"][0], histogram["bins"][-1]) == (-5.0, 5.0)
    assert "none" not in rows[4]
    with Image.open(run["folder"] / "files" / rows[5]["samples"]["path"]) as opened:
        np.testing.assert_array_equal(np.asarray(opened), pixels)
    assert "a &lt;b&gt;" in (run["folder"] / "files" / rows[6]["notes"]["path"]).read_text()
    assert run["exit_code"] == 1


def test_a_program_that_uses_wandb_itself_keeps_its_run(tmp_path, written):
    """Its global run is another one."""
    (tmp_path / "own").mkdir()
    settings = wandb.Settings(silent=True)
    own = wandb.init(project="own", name="own", dir=tmp_path / "own", mode="offline", settings=settings)
    own.log({"mine": 1.0})
    written(record(0, {"x": 1}), ended=False)
    assert wandb.run is own
    own.finish()
    wandb.teardown()
    (run,) = runs_of(tmp_path / "own")
    assert [set(row) & {"mine", "x"} for row in run["rows"]] == [{"mine"}]


def test_a_relative_folder_is_that_of_the_constructor(tmp_path, monkeypatch):
    """W&B's process keeps the working folder in which it started, and a program may change its own."""
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
        monkeypatch.chdir(folder)
        writer = Wandb("digits", run="first", folder="runs", mode="offline")
        monkeypatch.chdir(tmp_path)
        writer.write(record(0, {"x": 0}))
        writer.close()
    wandb.teardown()
    assert [len(runs_of(folder / "runs")) for folder in folders] == [1, 1, 1]


def test_behind_a_spool_each_record_is_a_row(tmp_path):
    """The run is made, written and finished on the thread of the spool."""
    writer = Wandb("digits", run="first", folder=tmp_path, mode="offline")
    with sowlog.Logger("unused", writers=[Spooled(writer, tmp_path / "a.spool", timeout=60)]) as log:
        for step in range(20):
            log(step, {"loss": 1.0})
    wandb.teardown()
    (run,) = runs_of(tmp_path)
    assert [row["global_step"] for row in run["rows"]] == list(range(20))


UNCLOSED = """
import sys
import sowlog
from sowlog.writers import Spooled, Wandb
writer = Wandb("digits", run="first", folder=sys.argv[1], mode="offline")
log = sowlog.Logger("unused", writers=[Spooled(writer, sys.argv[1] + "/a.spool")])
log(0, {"x": 0.0})
log.flush()  # The run is made, with the exit hooks of its own.
for step in range(1, 100):
    log(step, {"x": float(step)})
"""


def test_the_exit_of_a_program_writes_the_queued_records(tmp_path):
    """W&B's own process ends behind the logger that was not closed."""
    command = [sys.executable, "-c", UNCLOSED, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "Error" not in done.stderr
    (run,) = runs_of(tmp_path)
    assert [row["global_step"] for row in run["rows"]] == list(range(100))
    assert run["exit_code"] == 0


def test_without_a_login_the_error_says_how_to_go_on(tmp_path, monkeypatch):
    """W&B itself would wait for an answer on the terminal; a key or a netrc file is a login."""
    with pytest.raises(RuntimeError, match=r"W&B has no login on this machine.*wandb login.*mode='offline'"):
        Wandb("digits", run="first", folder=tmp_path)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password none\n")
    Wandb("digits", run="first", folder=tmp_path).close()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example:8080")
    with pytest.raises(RuntimeError, match="W&B has no login on this machine"):
        Wandb("digits", run="first", folder=tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "none")
    Wandb("digits", run="first", folder=tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["netrc"]


def test_arguments_are_checked(tmp_path, monkeypatch):
    """Before a run is made."""
    for arguments, error, message in (
        ({"project": ""}, ValueError, "project of Wandb is ''; it must not be empty"),
        ({"run": None}, TypeError, "run of Wandb is None, a NoneType"),
        ({"mode": "disabled"}, ValueError, "mode of Wandb is 'disabled'; choose one of online, offline"),
        ({"folder": "gs://bucket/run"}, ValueError, "gs://bucket/run is no local folder"),
        ({"resume_from": 0.5}, TypeError, r"resume_from is 0\.5, a float"),
    ):
        options = {"project": "digits", "run": "first", "folder": tmp_path, "mode": "offline", **arguments}
        with pytest.raises(error, match=message):
            Wandb(options.pop("project"), **options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs W&B's client, .* pip install 'sowlog\[wandb\]'"):
        Wandb("digits", run="first", folder=tmp_path, mode="offline")


def test_records_of_the_run_alone_are_no_row(written):
    """Its hyperparameters, which W&B shows beside the rows."""
    (run,) = written(Record(0, 1.5, hparams=HParams({"lr": 0.5}, ())))
    assert run["rows"] == []
    assert run["config"]["lr"] == 0.5
