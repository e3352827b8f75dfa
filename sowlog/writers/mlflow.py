"""MLflow: scalars, hyperparameters, images and texts of a run, in a server or a local store."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import tempfile
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from sowlog._events.png import encode_png
from sowlog._extras import require_extra
from sowlog.writers._arguments import check_name, check_path
from sowlog.writers._mlflow_store import MlflowStore, module
from sowlog.writers.record import Record

# The most that MLflow takes: metrics and parameters of a call, characters of values and of a name.
_METRICS, _PARAMS, _VALUE, _TAG_VALUE, _NAME = 1000, 100, 6000, 5000, 250
_STATUSES = {"success": "FINISHED", "failure": "FAILED"}
_FORBIDDEN = re.compile(r"[^\w.\- ]")
# The tag by which a run is found again: a hash, since a filter of MLflow has no quotes within a name.
_RUN = "sowlog.run"
_CHANGED = "sowlog.changed."
# A store in a file of the working folder, or in a folder of it: each names a place, and no server.
_RELATIVE = re.compile(r"(sqlite(?:\+\w+)?:///|file:|)((?!/|:memory:|databricks|uc$|[A-Za-z][\w+.-]+:).+)")


class Mlflow:
    """Writes to a run of MLflow, which is found by its name when training continues.

    Scalars are metrics of MLflow, in calls of up to 1000; hyperparameters are its parameters; images and
    texts are artifacts in `images/` and `texts/`. Histograms and curves are not written. A character that
    MLflow refuses in a name is replaced by its code: `a[0]` is `a_5b_0_5d_`. MLflow never changes a
    parameter, so a value that a continued run has changed is a tag, `sowlog.changed.NAME`. The ending of a
    run with hyperparameters is its status, FINISHED or FAILED; without an ending it is KILLED, as such a run
    may continue. A run without hyperparameters is FINISHED.

    The first record opens the connection. While a server does not answer, `write` raises StalledError and the
    logger tries again; behind `Spooled` the records wait in a file, and neither training nor other writers
    wait for the server. MLflow ignores a point that it has, by run, tag, step, time and value. It deletes
    none, so the points that a resumed run logs again stand beside the old ones.

    The writer needs MLflow's client, `pip install 'sowlog[mlflow]'`, and for a store in a database sqlalchemy
    and alembic as well. That client repeats a failed request to a server for four minutes, and the opening of
    a database for a hundred seconds. So the writer first asks the server for `/health`, and waits up to 10 s
    for each part of the answer, or opens the database once: a store that is gone is a stall at once. It sends
    scalars and hyperparameters by MLflow's REST API, one request each, so a server that goes behind that
    question is one as well. For an image, a text, and the begin and the end of a run that fail there, the
    environment variable MLFLOW_HTTP_REQUEST_MAX_RETRIES shortens the wait, also in other calls of MLflow.

    Args:
        tracking_uri: a server, as `http://localhost:5000`, or a store, as `sqlite:///runs/mlflow.db`. Of a
            database, new experiments have their artifacts in `mlruns` of the working folder.
        experiment: the name of the experiment, created if it does not exist.
        run: the name of the run; the run of this name that an earlier Mlflow made is continued.

    Raises:
        ModuleNotFoundError: MLflow's client is not installed.
        TypeError: An argument is not a str.
        ValueError: An argument is empty.

    Example:
        >>> import tempfile, sowlog
        >>> from sowlog.writers import Mlflow, Spooled, TensorBoard
        >>> logdir = tempfile.mkdtemp()
        >>> mlflow = Mlflow("http://localhost:5000", experiment="digits", run="first")
        >>> writers = [TensorBoard(logdir), Spooled(mlflow, f"{logdir}/mlflow.spool")]
        >>> with sowlog.Logger(logdir, writers=writers) as log:
        ...     log
        <Logger to TensorBoard, Spooled, open>
    """

    def __init__(self, tracking_uri: str, *, experiment: str, run: str) -> None:
        names: dict[str, Any] = {"tracking_uri": tracking_uri, "experiment": experiment, "run": run}
        for name, value in names.items():
            check_name("Mlflow", name, value)
        require_extra("mlflow", "writers.Mlflow needs MLflow's client", extra="mlflow")
        # The first record makes the connection, and the program may have left its working folder by then.
        self._store = MlflowStore(_resolve(tracking_uri))
        self._experiment, self._run = experiment, run
        self._artifacts = str(check_path("mlruns") / _name_of(experiment))
        self._connection: tuple[Any, str] | None = None
        self._status = "FINISHED"

    def write(self, record: Record) -> None:
        """Write a record.

        Raises:
            StalledError: The server does not answer.
        """
        self.write_all([record])

    def write_all(self, records: Iterable[Record]) -> None:
        """Write all records; those that MLflow has already it ignores.

        Raises:
            StalledError: The server does not answer, at some of the records.
        """
        records = list(records)
        with self._answering():
            client, run = self._connect()
            metrics = itertools.chain.from_iterable(map(self._metrics, records))
            while batch := list(itertools.islice(metrics, _METRICS)):
                self._store.log_batch(client, run, metrics=batch)
            for record in records:
                self._write_others(client, run, record)

    def _metrics(self, record: Record) -> Iterable[Any]:
        entities, time = module("entities"), round(1000 * record.wall_time)
        for tag, value in zip(record.tags, record.values.tolist(), strict=True):
            yield entities.Metric(_name_of(tag), value, time, record.step)

    def _write_others(self, client: Any, run: str, record: Record) -> None:
        """Write the values of a record beside its scalars."""
        if record.hparams is not None:
            # A run with hyperparameters has an ending, unless it may continue.
            self._status = "KILLED"
            self._write_hparams(client, run, record.hparams.values)
        if record.ending is not None:
            self._status = _STATUSES[record.ending]
        for tag, text in record.texts.items():
            client.log_text(run, text, f"texts/{_name_of(tag)}/{record.step}.md")
        for tag, image in record.images.items():
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / f"{record.step}.png"
                file.write_bytes(encode_png(image))
                client.log_artifact(run, str(file), f"images/{_name_of(tag)}")

    def _write_hparams(self, client: Any, run: str, values: Mapping[str, Any]) -> None:
        entities, known = module("entities"), client.get_run(run).data.params
        texts = {_name_of(name): str(value) for name, value in values.items()}
        new = [entities.Param(name, text[:_VALUE]) for name, text in texts.items() if name not in known]
        changed = [
            entities.RunTag(f"{_CHANGED}{name}"[:_NAME], text[:_TAG_VALUE])
            for name, text in texts.items()
            if known.get(name, text[:_VALUE]) != text[:_VALUE]
        ]
        for start in range(0, len(new), _PARAMS):
            self._store.log_batch(client, run, params=new[start : start + _PARAMS])
        for start in range(0, len(changed), _PARAMS):
            self._store.log_batch(client, run, tags=changed[start : start + _PARAMS])

    def flush(self) -> None:
        """Do nothing: each call of MLflow returns once the store has the values."""

    def close(self) -> None:
        """Set the status of the run.

        Raises:
            StalledError: The server does not answer.
        """
        if self._connection is not None:
            client, run = self._connection
            with self._answering():
                client.set_terminated(run, self._status)

    def _connect(self) -> tuple[Any, str]:
        """Return the client and the identifier of the run, which is found or created at the first call."""
        if self._connection is None:
            client = module("tracking").MlflowClient(tracking_uri=self._store.uri)
            number = self._find_experiment(client)
            mark = hashlib.sha256(self._run.encode()).hexdigest()
            found = client.search_runs([number], f"tags.`{_RUN}` = '{mark}'", max_results=1)
            if found:
                run = found[0].info.run_id
                client.update_run(run, status="RUNNING")
            else:
                run = client.create_run(number, run_name=self._run, tags={_RUN: mark}).info.run_id
            self._connection = client, run
        return self._connection

    def _find_experiment(self, client: Any) -> str:
        """Return the identifier of the experiment, which is created if it does not exist."""
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is not None:
            return experiment.experiment_id
        # A server has a place for artifacts, and without one a database has them in the working folder.
        place = self._artifacts if self._store.is_database else None
        return client.create_experiment(self._experiment, place)

    @contextlib.contextmanager
    def _answering(self) -> Generator[None]:
        """Raise StalledError for a failure after which another attempt may succeed."""
        try:
            self._store.check(is_open=self._connection is not None)
            yield
        except Exception as error:
            stall = self._store.explain(error)
            if stall is None:
                raise
            # The text of the cause has the secrets of the URI, and a traceback would show it.
            raise stall from (None if self._store.has_secrets else error)


def _resolve(uri: str) -> str:
    """Return the URI of a store with the path of its file or folder as it is now."""
    found = _RELATIVE.fullmatch(uri)
    return uri if found is None else f"{found[1]}{check_path(found[2])}"


def _name_of(tag: str) -> str:
    """Return a tag as a name that MLflow takes, which is a path as well."""
    name = "/".join(map(_part_of, tag.split("/")))
    if len(name) > _NAME:
        name = (
            f"{name[: _NAME - 17]}_{hashlib.sha256(tag.encode(errors='backslashreplace')).hexdigest()[:16]}"
        )
    return name


def _part_of(text: str) -> str:
    coded = _FORBIDDEN.sub(lambda match: f"_{ord(match[0]):x}_", text)
    # MLflow refuses a name that is not its own normal path.
    return coded if coded.strip(".") else f"_{coded}_"
