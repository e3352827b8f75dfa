"""A program may leave its working folder: relative paths are those at which a writer was made."""

import inspect
import re
import shutil

import numpy as np
import pytest
from mlflow import MlflowClient

import sowlog.writers
from sowlog.testing import MemoryWriter
from sowlog.writers import Csv, JsonLines, Mlflow, Parquet, Record, Spooled, StalledError, TensorBoard
from sowlog.writers.mlflow import _resolve

PATHS = {
    "Csv": lambda: Csv("runs"),
    "JsonLines": lambda: JsonLines("runs"),
    "Mlflow": lambda: Mlflow("sqlite:///runs.db", experiment="first", run="a"),
    "Parquet": lambda: Parquet("runs"),
    "Spooled": lambda: Spooled(MemoryWriter(), "runs/a.spool"),
    "TensorBoard": lambda: TensorBoard("runs"),
}
# Without a path; and of W&B, whose own test reads its files.
OTHERS = {"Console", "Every", "OpenTelemetry", "Prometheus", "Wandb"}


def record(step):
    """Return a record of a scalar and an image."""
    image = np.zeros((2, 2, 3), np.uint8)
    return Record(step, 1e9, ("x",), np.full(1, step, np.float32), images={"image": image})


def remove(path):
    """Remove a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Return a working folder and another one."""
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here", tmp_path / "elsewhere"


def test_the_tables_have_all_writers():
    """A new one is in that of this test, or has no path; and in that of the documentation."""
    names = {
        name
        for name in sowlog.writers.__all__
        if inspect.isclass(kind := getattr(sowlog.writers, name))
        and hasattr(kind, "write")
        and not getattr(kind, "_is_protocol", False)
    }
    assert names == PATHS.keys() | OTHERS
    listed = re.findall(r"^\| `(\w+)` \|", sowlog.writers.__doc__, re.MULTILINE)
    assert sorted(listed) == sorted(names)


@pytest.mark.parametrize("name", sorted(PATHS.keys() - {"Mlflow"}))
def test_all_files_are_where_the_writer_was_made(folders, monkeypatch, name):
    """Also the one that replaces a deleted one, and those beside it."""
    here, elsewhere = folders
    writer = PATHS[name]()
    monkeypatch.chdir(elsewhere)
    writer.write(record(0))
    writer.flush()
    if hasattr(writer, "path"):
        assert writer.path.is_relative_to(here)
        remove(writer.path)
        with pytest.raises(StalledError, match="was deleted"):
            writer.write(record(1))
        writer.write(record(1))
        assert writer.path.exists()
    writer.close()
    assert not list(elsewhere.iterdir())


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_the_store_of_mlflow_is_where_the_writer_was_made(folders, monkeypatch):
    """With its artifacts, which are the images, although the first record makes both."""
    here, elsewhere = folders
    writer = PATHS["Mlflow"]()
    monkeypatch.chdir(elsewhere)
    writer.write(record(0))
    writer.close()
    assert not list(elsewhere.iterdir())
    client = MlflowClient(f"sqlite:///{here}/runs.db")
    (run,) = client.search_runs([client.get_experiment_by_name("first").experiment_id])
    assert client.list_artifacts(run.info.run_id, "images/image")[0].path == "images/image/0.png"
    assert list((here / "mlruns").rglob("0.png"))


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("sqlite:///a/b.db", "sqlite:///{}/a/b.db"),
        ("sqlite+pysqlite:///b.db", "sqlite+pysqlite:///{}/b.db"),
        ("mlruns", "{}/mlruns"),
        ("./mlruns", "{}/mlruns"),
        ("file:mlruns", "file:{}/mlruns"),
        *((uri, uri) for uri in ("http://a:5000", "https://a", "sqlite:////a/b.db", "sqlite:///:memory:")),
        *(
            (uri, uri)
            for uri in ("sqlite://", "file:///a", "/a", "databricks", "databricks://a", "uc:a", "uc")
        ),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
    ],
)
def test_a_relative_store_of_mlflow_is_resolved(folders, uri, resolved):
    """A server, and what lies at no path, stays as it is."""
    here, _ = folders
    assert _resolve(uri) == resolved.format(here)
