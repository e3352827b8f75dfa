import fcntl
import json
import os
from pathlib import Path

import pytest

from tests.train.running import digits as tiny
from train.config import file as config_file
from train.config.errors import RunWarning
from train.config.experiment import Config
from train.runs import folder as run_folder
from train.runs import provenance, results
from train.runs.folder import RunFolder, RunFolderError


def digits(*overrides: str) -> Config:
    """Return the tiny experiment, whose steps go beyond its warmup."""
    return tiny("optimizer.warmup=2", *overrides)


def begin(path: Path, *, trained: int = 0, **start: str) -> None:
    """Leave a run as a process does that saved at a step."""
    with RunFolder(path, digits()) as folder:
        folder.write_meta(seed=0, argv=[], devices=["cpu"], step=0, **start)
    if trained:
        (path / "checkpoints" / str(trained)).mkdir(parents=True)


def test_a_lock_that_its_owner_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that leaves a new folder removes it: who had opened it before takes the new one."""
    path, flock = tmp_path / "run", fcntl.flock
    first = RunFolder(path, digits())

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.__exit__(ValueError, ValueError(), None)
        path.mkdir(exist_ok=True)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with RunFolder(path, digits()), pytest.raises(RunFolderError, match="another process trains in"):
        RunFolder(path, digits())


def test_a_lock_is_not_removed_under_another_owner(tmp_path: Path) -> None:
    """Whose folder was deleted meanwhile leaves the next run there alone."""
    path = tmp_path / "run"
    first = RunFolder(path, digits())
    (path / run_folder.LOCK).unlink()
    with RunFolder(path, digits()):
        first.__exit__(ValueError, ValueError(), None)
        assert run_folder.is_taken(path)


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_a_lock_that_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    """With status 2 of its own run; for a sweep no process holds it."""
    lock = tmp_path / run_folder.LOCK
    if kind == "folder":
        lock.mkdir()
    elif kind == "link":
        lock.symlink_to(tmp_path / "victim")
    else:
        os.mkfifo(lock)
    with pytest.raises(RunFolderError, match="cannot be used: "):
        RunFolder(tmp_path, digits())
    assert not run_folder.is_taken(tmp_path)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"seed": 0, "starts": [3]}', "\udcff", "[" * 9999])
def test_a_meta_that_is_none_is_quarantine(tmp_path: Path, text: str) -> None:
    """In a warning that names both files; the run goes on with a new one."""
    begin(tmp_path)
    (tmp_path / "meta.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with (
        RunFolder(tmp_path, digits()) as folder,
        pytest.warns(
            RunWarning, match=r"meta\.json cannot be read: .* It is now meta\.json\.unreadable there"
        ),
    ):
        folder.write_meta(seed=0, argv=[], devices=["cpu"], step=8)
    assert [start["step"] for start in json.loads((tmp_path / "meta.json").read_text())["starts"]] == [8]
    assert (tmp_path / "meta.json.unreadable").exists()


def test_a_run_whose_configuration_is_gone_is_refused(tmp_path: Path) -> None:
    """Whose checkpoints they are is not known; without any, a run begins."""
    begin(tmp_path)
    (tmp_path / "config.yaml").unlink()
    begin(tmp_path, trained=8)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(RunFolderError, match=r"holds checkpoints and no config\.yaml.*--print-config"):
        RunFolder(tmp_path, digits())
    assert not (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"steps": 12, "step": 12, "ended_early": "", "better": "lower", "held_out": []}',
        '{"steps": 12, "step": 12, "ended_early": "", "better": "lower", "held_out": {"eval/loss": "x"}}',
        '{"steps": 12, "step": 12, "ended_early": "", "better": "lower", "held_out": {"eval/loss": NaN}}',
        '{"steps": 12, "step": 12, "ended_early": "", "better": "up", "held_out": {"eval/loss": 1}}',
        "\udcff\udcfe",
    ],
)
def test_results_that_are_odd_are_none(tmp_path: Path, text: str) -> None:
    """The run is made again, which a finished checkpoint makes short."""
    (tmp_path / results.FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert results.read(tmp_path) is None
    (tmp_path / results.FILE).unlink()
    (tmp_path / results.FILE).mkdir()
    assert results.read(tmp_path) is None


def test_a_run_that_goes_on_otherwise_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries, code and data that changed, once, before anything is trained; not at its first step."""
    begin(tmp_path, data="a")
    versions = {**provenance._versions(), "jax": "0.0.1"}
    monkeypatch.setattr(provenance, "_versions", lambda: versions)
    monkeypatch.setattr(provenance, "_git_commit", lambda: "beef")
    with RunFolder(tmp_path, digits()) as folder:
        folder.write_meta(seed=0, argv=[], devices=["cpu"], step=0, data="b")
        folder.write_meta(seed=0, argv=[], devices=["gpu"], step=8, data="b")
        versions["jax"] = "0.0.2"
        line = (
            r"goes on at step 8 with jax 0\.0\.2 in place of 0\.0\.1, other data than before: it may differ"
        )
        with pytest.warns(RunWarning, match=line):
            folder.write_meta(seed=0, argv=[], devices=["cpu"], step=8, data="c")
        monkeypatch.setattr(provenance, "_git_commit", lambda: "cafe")
        with pytest.warns(RunWarning, match=r"with the code of commit cafe in place of beef: "):
            folder.write_meta(seed=0, argv=[], devices=["cpu"], step=8, data="c")


def test_a_longer_run_keeps_the_schedule_that_it_began(tmp_path: Path) -> None:
    """Its folder remembers where the cosine ends; a line says it, once."""
    begin(tmp_path, trained=5)
    with RunFolder(tmp_path, digits("steps=20")) as folder:
        assert folder.decay_steps == 12
        assert (
            "steps is raised from 12 to 20, and the cosine of the learning rate still ends at" in folder.note
        )
        assert folder.note.endswith("write: optimizer.decay_steps=20.")
    assert config_file.load(tmp_path / "config.yaml") == digits("steps=20", "optimizer.decay_steps=12")
    with RunFolder(tmp_path, digits("steps=20")) as folder:
        assert (folder.decay_steps, folder.note) == (12, "")
    with RunFolder(tmp_path, digits("steps=20", "optimizer.decay_steps=20")) as folder:
        assert folder.decay_steps is None
        assert "ends at step 20, and was to end at step 12: at step 5 the rate is" in folder.note


def test_a_longer_run_that_would_learn_nothing_is_refused(tmp_path: Path) -> None:
    """Its cosine is at its end; the line to write, and the rate that it leads to."""
    begin(tmp_path, trained=12)
    for take in (run_folder.check_same_config, RunFolder):
        with pytest.raises(
            RunFolderError, match=r"at a rate of 0 nothing more .* optimizer\.decay_steps=20 \("
        ):
            take(tmp_path, digits("steps=20"))
    assert config_file.load(tmp_path / "config.yaml") == digits()
    with RunFolder(tmp_path, digits("steps=20", "optimizer.decay_steps=20")) as folder:
        assert "in place of 0." in folder.note


def test_a_longer_run_that_has_not_warmed_up_goes_on(tmp_path: Path) -> None:
    """Its cosine was to end before its warmup did, and its rate is not 0."""
    long = "optimizer.warmup=17"
    with RunFolder(tmp_path, digits(long)):
        pass
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    with RunFolder(tmp_path, digits(long, "steps=18")) as folder:
        assert (folder.decay_steps, folder.note) == (12, "")
    with RunFolder(tmp_path, digits(long, "steps=20")) as folder:
        assert "still ends at step 18: from there the rate is 0." in folder.note


def test_a_run_that_trained_nothing_yet_is_planned_anew(tmp_path: Path) -> None:
    """As is one whose rate does not look at the end."""
    begin(tmp_path)
    with RunFolder(tmp_path, digits("steps=20")) as folder:
        assert (folder.decay_steps, folder.note) == (None, "")
    path, constant = tmp_path / "constant", "optimizer.schedule=constant"
    with RunFolder(path, digits(constant)):
        pass
    (path / "checkpoints" / "12").mkdir(parents=True)
    with RunFolder(path, digits(constant, "steps=20")) as folder:
        assert (folder.decay_steps, folder.note) == (None, "")


def test_a_mistaken_length_is_taken_back(tmp_path: Path) -> None:
    """As long as no step beyond was made; the cosine keeps its end, and a line says so."""
    begin(tmp_path, trained=5)
    with RunFolder(tmp_path, digits("steps=1200")):
        pass
    with RunFolder(tmp_path, digits()) as folder:
        assert (folder.decay_steps, folder.note) == (None, "")
    assert config_file.load(tmp_path / "config.yaml") == digits()
    with RunFolder(tmp_path, digits("steps=8")) as folder:
        assert folder.decay_steps == 12
        assert folder.note.startswith(
            "steps is lowered from 12 to 8, and the cosine of the learning rate still"
        )
    line = r"steps: 8 there, 4 now\n.*any number from the 5 that were made\)\."
    with pytest.raises(RunFolderError, match=line):
        RunFolder(tmp_path, digits("steps=4"))
