import contextlib
import http.server
import json
import re
import shutil
import sqlite3
import sys
import threading
import traceback

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

import sowlog
from sowlog.writers import DeliveryError, HParams, Mlflow, Record, Spooled, StalledError

pytestmark = [
    # The import of MLflow and the tables of a store take ten seconds.
    pytest.mark.long,
    pytest.mark.timeout(120),
    # Of MLflow, with SQLAlchemy 2.1.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return the URI of a store in SQLite, which all tests share: it makes its tables in seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    # Without a place of their own, the artifacts would lie in the working folder.
    MlflowClient(f"sqlite:///{folder}/mlflow.db").create_experiment("digits", str(folder / "artifacts"))
    return f"sqlite:///{folder}/mlflow.db"


def record(step, values, **others):
    """Return a record of a dict of scalars."""
    return Record(step, 1e9 + step, tuple(values), np.array(list(values.values()), np.float32), **others)


def write(store, name, *records):
    """Write records to a run, and end it."""
    writer = Mlflow(store, experiment="digits", run=name)
    writer.write_all(records)
    writer.close()


def run_of(store, name):
    """Return the only run of a name, with the client."""
    client = MlflowClient(store)
    found = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    (run,) = (run for run in found if run.info.run_name == name)
    return client, run


def points(store, name, tag):
    """Return steps, values and times of a metric."""
    client, run = run_of(store, name)
    history = client.get_metric_history(run.info.run_id, tag)
    return sorted((point.step, point.value, point.timestamp) for point in history)


def test_scalars_come_back_with_steps_and_times(store):
    """Batches of more than the thousand that one call takes."""
    records = [record(step, {f"layer/{i}": i + step for i in range(700)}) for step in range(4)]
    write(store, "scalars", *records)
    for i in (0, 350, 699):
        assert points(store, "scalars", f"layer/{i}") == [
            (step, float(i + step), 1000 * (10**9 + step)) for step in range(4)
        ]
    assert run_of(store, "scalars")[1].info.status == "FINISHED"


def test_nan_and_infinity_are_points(store):
    """MLflow keeps NaN, and infinity as the largest double."""
    write(store, "nonfinite", record(0, {"a": np.nan, "b": np.inf, "c": -np.inf}))
    (nan,), (high,), (low,) = (points(store, "nonfinite", tag) for tag in "abc")
    assert np.isnan(nan[1])
    assert (high[1], low[1]) == (sys.float_info.max, -sys.float_info.max)


def test_a_repeated_record_adds_nothing(store):
    """So that a spool may forward a record once more after a kill."""
    records = [record(step, {"x": 0.5, "y": np.nan}) for step in range(3)]
    write(store, "repeated", *records)
    write(store, "repeated", *records, record(3, {"x": 0.5}))
    assert [point[0] for point in points(store, "repeated", "x")] == [0, 1, 2, 3]
    assert len(points(store, "repeated", "y")) == 3


def test_an_experiment_that_is_missing_is_created(store):
    """At the first record."""
    writer = Mlflow(store, experiment="new", run="first")
    writer.write(record(0, {"x": 0.5}))
    writer.close()
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("new").experiment_id])
    assert run.data.metrics == {"x": 0.5}


def test_a_resumed_run_is_the_same_run(store):
    """It is found by its name, also one with quotes; another name is another run."""
    for name in ('it\'s "mine"', "another"):
        write(store, name, record(0, {"x": 0}))
        write(store, name, record(1, {"x": 1}))
        assert [point[:2] for point in points(store, name, "x")] == [(0, 0.0), (1, 1.0)]


@pytest.mark.parametrize("tag", ["a[0]", "a//b", "/a", "a/", "..", "損失", "a b:c", "%", "x" * 300, "\udc80"])
def test_any_tag_has_a_name_of_its_own(store, tag):
    """Names that MLflow refuses are coded."""
    write(store, f"tags {tag!r}", record(0, {tag: 1, "a_b": 2, "a": 3}))
    _, run = run_of(store, f"tags {tag!r}")
    assert sorted(run.data.metrics.values()) == [1.0, 2.0, 3.0]


def test_hyperparameters_texts_and_images(store, tmp_path):
    """More parameters than one call takes; the images and texts of steps are artifacts."""
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    settings = {"optimizer": {"lr": 0.1}, "long": "x" * 10_000, **{f"p{i}": i for i in range(150)}}
    writer = Mlflow(store, experiment="digits", run="values")
    with sowlog.Logger("unused", writers=[writer]) as log:
        log.hparams(settings)
        log.image(3, "samples/a", pixels)
        log.text(4, "../notes", "a **b**")
    client, run = run_of(store, "values")
    assert run.data.params["optimizer.lr"] == "0.1"
    assert run.data.params["long"] == "x" * 6000
    assert run.data.params["p149"] == "149"
    assert run.info.status == "FINISHED"
    image = client.download_artifacts(run.info.run_id, "images/samples/a/3.png", str(tmp_path))
    with Image.open(image) as opened:
        np.testing.assert_array_equal(np.asarray(opened), pixels)
    text = client.download_artifacts(run.info.run_id, "texts/_.._/notes/4.md", str(tmp_path))
    with open(text) as file:  # noqa: PTH123 - a str of MLflow
        assert file.read() == "a **b**"


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_the_ending_is_the_status(store, error, status):
    """Of a run with hyperparameters; one that was interrupted may continue, and then runs again."""

    def train():
        writer = Mlflow(store, experiment="digits", run=status)
        with sowlog.Logger("unused", writers=[writer]) as log:
            log.hparams({"lr": 0.1})
            log.flush()
            assert run_of(store, status)[1].info.status == "RUNNING"
            raise error("the end")

    with pytest.raises(error, match="the end"):
        train()
    assert run_of(store, status)[1].info.status == status
    writer = Mlflow(store, experiment="digits", run=status)
    writer.write(record(0, {"x": 1}))
    assert run_of(store, status)[1].info.status == "RUNNING"


def test_changed_hyperparameters_of_a_continued_run_are_tags(store):
    """MLflow never changes a parameter; equal ones, and new ones, are parameters."""
    for settings in ({"lr": 0.1, "steps": 5}, {"lr": 0.1, "steps": 9, "added": True}):
        write(store, "changed", Record(0, 1.5, hparams=HParams(settings, ())))
    _, run = run_of(store, "changed")
    assert run.data.params == {"lr": "0.1", "steps": "5", "added": "True"}
    changed = {name: value for name, value in run.data.tags.items() if name.startswith("sowlog.changed")}
    assert changed == {"sowlog.changed.steps": "9"}


def test_records_that_mlflow_refuses_are_counted(store, tmp_path):
    """Those of a run that was deleted meanwhile."""
    writer = Mlflow(store, experiment="digits", run="deleted")
    writer.write(record(0, {"x": 0}))
    client, run = run_of(store, "deleted")
    client.delete_run(run.info.run_id)
    spooled = Spooled(writer, tmp_path / "a.spool", timeout=60)
    spooled.write_all([record(1, {"x": 1}), record(2, {"x": 2})])
    with pytest.raises(DeliveryError, match=r"Mlflow has refused 2 of the records.*'active' state") as caught:
        spooled.flush()
    assert caught.value.lost == 2
    client.restore_run(run.info.run_id)
    spooled.write(record(3, {"x": 3}))
    spooled.close()
    assert [point[0] for point in points(store, "deleted", "x")] == [0, 3]


@contextlib.contextmanager
def server(statuses, received=None, cut=(), **answers):
    """Run a server that answers the end of each path with a status or a JSON object; yield its URL.

    Args:
        statuses: the statuses by path, 200 of others; a redirect is to `/elsewhere`.
        received: has the path and the body of each request, if there is such a list.
        cut: the paths whose answers lack their last byte.
        answers: the objects by path.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            """Answer by the end of the path."""
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0].rpartition("/")[2]
            if received is not None:
                received.append((path, sent))
            status = statuses.get(path, 200)
            body = json.dumps(answers.get(path, {})).encode() if status == 200 else b""
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body) + (path in cut)))
            self.end_headers()
            # The client may not read a huge answer to its end.
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - a name of http.server

        def log_message(self, *args):
            """Write nothing to standard error."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


# The client of MLflow would repeat each of these for minutes, beyond the time limit of a test.


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:hunter2@127.0.0.1:9", "http://***@127.0.0.1:9"),
        ("HTTP://hunter2@127.0.0.1:9", "HTTP://***@127.0.0.1:9"),
        ("http://me:a@hunter2@127.0.0.1:9", "http://***@127.0.0.1:9"),
        ("http://127.0.0.1:9?a=b&password=hunter2", "http://127.0.0.1:9?a=b&password=***"),
    ],
)
def test_a_server_that_is_gone_is_a_stall_at_once(uri, shown):
    """Nothing listens at the port; neither the message nor its traceback has a secret."""
    writer = Mlflow(uri, experiment="digits", run="gone")
    with pytest.raises(
        StalledError, match=rf"MLflow at {re.escape(shown)} does not .* start the server"
    ) as caught:
        writer.write(record(0, {"x": 1}))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    writer.close()


EXPERIMENT = {"experiment": {"experiment_id": "1", "name": "digits"}}
RUN = {
    "run": {"info": {"run_id": "a", "experiment_id": "1"}, "data": {"params": [{"key": "lr", "value": "1"}]}}
}
ANSWERS = {"get-by-name": EXPERIMENT, "create": RUN, "get": RUN}


def test_a_server_that_goes_behind_the_question_is_a_stall_at_once(monkeypatch):
    """At scalars and at hyperparameters; the next attempt succeeds."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    statuses = {"log-batch": 503}
    with server(statuses, **ANSWERS) as url:
        writer = Mlflow(url, experiment="digits", run="behind")
        for each in (record(0, {"x": 1}), record(0, {}, hparams=HParams({"a": 1}, ()))):
            with pytest.raises(StalledError, match=r"does not answer: .* 503 "):
                writer.write(each)
        statuses.clear()
        writer.write(record(0, {"x": 1}))


def test_a_server_has_the_same_requests_as_from_the_client(monkeypatch):
    """Of metrics, parameters and tags."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    values = {"a": 0, "b": np.nan, "c": np.inf, "d": -np.inf, "e": 1e-45, "f": 0.1}
    given = record(3, values, hparams=HParams({"lr": 2, "new": True}, ()))
    own, clients = [], []
    with server({}, own, **ANSWERS) as url:
        Mlflow(url, experiment="digits", run="same").write(given)
    with server({}, clients, **ANSWERS) as url:
        writer = Mlflow(url, experiment="digits", run="same")
        monkeypatch.setattr(
            writer._store, "log_batch", lambda client, *run, **each: client.log_batch(*run, **each)
        )
        writer.write(given)
    sent, expected = (
        [json.loads(body) for path, body in each if path == "log-batch"] for each in (own, clients)
    )
    assert len(sent) == 3
    # Of the client's, a list may be empty.
    assert sent == [{name: value for name, value in each.items() if value} for each in expected]


def test_a_cut_answer_is_a_stall(monkeypatch):
    """It may be that of a server that has ended, and is no receipt."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server({}, cut=["log-batch"], **ANSWERS) as url:
        writer = Mlflow(url, experiment="digits", run="cut")
        with pytest.raises(StalledError, match=r"does not answer: .*IncompleteRead"):
            writer.write(record(0, {"x": 1}))


def test_a_huge_answer_is_no_receipt(monkeypatch):
    """Of a server of another kind, its first bytes are read and shown in part."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server({}, **ANSWERS, **{"log-batch": ["x" * (1 << 24)]}) as url:
        writer = Mlflow(url, experiment="digits", run="huge")
        with pytest.raises(StalledError, match=r"not in a valid JSON format.*xx…xx") as caught:
            writer.write(record(0, {"x": 1}))
    assert len(str(caught.value.__cause__)) < 1 << 17


def test_a_redirect_is_an_answer(monkeypatch):
    """The page that it names, which may be huge, is not read."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    received = []
    with server({"health": 302}, received, **ANSWERS) as url:
        Mlflow(url, experiment="digits", run="moved").write(record(0, {"x": 1}))
    assert [path for path, _ in received] == ["health", "get-by-name", "search", "create", "log-batch"]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_overloaded_server_is_a_stall_at_once(monkeypatch, status):
    """Or a proxy in front of a server that is gone."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server({"health": status}) as url:
        writer = Mlflow(url, experiment="digits", run="overloaded")
        with pytest.raises(StalledError, match=f"does not answer: {status} "):
            writer.write(record(0, {"x": 1}))


def test_a_server_without_a_page_of_its_health_is_asked_itself(monkeypatch):
    """Its refusal is an error."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server({"health": 404, "get-by-name": 403}) as url:
        writer = Mlflow(url, experiment="digits", run="refused")
        with pytest.raises(MlflowException, match="403"):
            writer.write(record(0, {"x": 1}))


def test_the_close_after_a_server_has_gone_is_a_stall_at_once(monkeypatch):
    """As at the end of a run whose network is gone."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server({}, **ANSWERS) as url:
        writer = Mlflow(url, experiment="digits", run="closed")
        writer.write(record(0, {"x": 1}))
    with pytest.raises(StalledError, match="does not answer"):
        writer.close()


def test_a_database_that_cannot_be_opened_is_a_stall_at_once_and_loses_nothing(store, tmp_path):
    """A folder has its name for a while."""
    (tmp_path / "mlflow.db").mkdir()
    writer = Mlflow(f"sqlite:///{tmp_path}/mlflow.db", experiment="digits", run="unopened")
    spooled = Spooled(writer, tmp_path / "a.spool", timeout=60)
    spooled.write_all([record(step, {"x": step}) for step in range(2)])
    spooled.flush()
    message = r"does not answer: .*unable to open database file\. If .* make its folder writable"
    assert re.search(message, str(spooled.take_warning()))
    (tmp_path / "mlflow.db").rmdir()
    shutil.copy(store.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    spooled.close()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert [point[0] for point in points(uri, "unopened", "x")] == [0, 1]


def test_a_store_that_fails_for_a_while_is_a_stall_and_loses_nothing(store, tmp_path):
    """Another program has moved a table of it, and moves it back."""
    writer = Mlflow(store, experiment="digits", run="failing")
    writer.write(record(0, {"x": 0}))
    spooled = Spooled(writer, tmp_path / "a.spool", timeout=60)
    with contextlib.closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as other:
        other.execute("ALTER TABLE metrics RENAME TO moved")
        spooled.write(record(1, {"x": 1}))
        spooled.flush()
        assert "Mlflow stalls: MLflow at sqlite" in str(spooled.take_warning())
        other.execute("ALTER TABLE moved RENAME TO metrics")
    spooled.close()
    assert [point[0] for point in points(store, "failing", "x")] == [0, 1]


def test_arguments_are_checked():
    """Before a connection is made."""
    with pytest.raises(TypeError, match="experiment of Mlflow is 3, a int; it must be a str"):
        Mlflow("sqlite:///unused.db", experiment=3, run="a")
    with pytest.raises(ValueError, match="run of Mlflow is ' '; it must not be empty"):
        Mlflow("sqlite:///unused.db", experiment="a", run=" ")


def test_without_the_client_the_error_says_how_to_install_it(monkeypatch):
    """As other optional packages do."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"needs MLflow's client, .* pip install 'sowlog\[mlflow\]'"
    ):
        Mlflow("sqlite:///unused.db", experiment="a", run="b")
