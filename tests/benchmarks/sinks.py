"""The CPU time of each writer for a record, and that of the sink's own client for the same scalars."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tensorboardX import FileWriter
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from sowlog import writers
from sowlog.writers import Record
from tests.benchmarks.measure import Line, Size, cost_of, interleave, paired_ratio, spread_of
from tests.benchmarks.steps import tags_of

Write = Callable[[Sequence[Record], Sequence[Mapping[str, float]]], object]
"""Write some records, from the records or from the same scalars as dicts."""

# Steps go up from one repetition to the next, as those of a run do.
_numbers = itertools.count()

_DISCARD = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Candidate(NamedTuple):
    """A way to write records to a sink.

    Attributes:
        title: its name in the table.
        make: returns the function that writes, from a folder of its own.
        needs: the packages without which it is absent.
    """

    title: str
    make: Callable[[ExitStack, Path], Write]
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """The packages that it lacks here, an empty text if none."""
        return ", ".join(name for name in self.needs if not _is_installed(name))


class Sink(NamedTuple):
    """A writer, and the clients that write to the same place.

    Attributes:
        writer: sowlog's writer.
        clients: the sink's own clients.
        is_service: whether a record takes milliseconds, so that there are few rounds.
    """

    writer: Candidate
    clients: tuple[Candidate, ...] = ()
    is_service: bool = False


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package of a module
        return False


def _ours(make: Callable[[Path], writers.Writer]) -> Callable[[ExitStack, Path], Write]:
    """Return the writer's `write` of each record; a flush, with its sync, is no part of a step."""

    def build(stack: ExitStack, folder: Path) -> Write:
        writer = stack.enter_context(closing(make(folder)))

        def write(records: Sequence[Record], _: Sequence[Mapping[str, float]]) -> None:
            for record in records:
                writer.write(record)

        return write

    return build


def _in_batches(make: Callable[[Path], Any], *, flushes: bool = False) -> Callable[[ExitStack, Path], Write]:
    """Return the writer's `write_all` of a batch, as the logger and Spooled call it."""

    def build(stack: ExitStack, folder: Path) -> Write:
        writer = stack.enter_context(closing(make(folder)))

        def write(records: Sequence[Record], _: Sequence[Mapping[str, float]]) -> None:
            writer.write_all(records)
            if flushes:
                writer.flush()

        return write

    return build


def _theirs(make: Callable[[ExitStack, Path], Callable[[int, Mapping[str, float]], object]]) -> Any:
    """Return a client that writes one step after another."""

    def build(stack: ExitStack, folder: Path) -> Write:
        write_step = make(stack, folder)

        def write(records: Sequence[Record], values: Sequence[Mapping[str, float]]) -> None:
            for record, each in zip(records, values, strict=True):
                write_step(record.step, each)

        return write

    return build


def _packed_event(stack: ExitStack, folder: Path) -> Callable[[int, Mapping[str, float]], object]:
    writer = stack.enter_context(closing(FileWriter(str(folder))))

    def write(step: int, values: Mapping[str, float]) -> None:
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        writer.add_summary(Summary(value=points), step)

    return write


def _json_dumps(stack: ExitStack, folder: Path) -> Callable[[int, Mapping[str, float]], object]:
    file = stack.enter_context((folder / "metrics.jsonl").open("w"))
    return lambda step, values: file.write(json.dumps({"step": step, **values}) + "\n")


def _dict_writer(stack: ExitStack, folder: Path) -> Callable[[int, Mapping[str, float]], object]:
    file = stack.enter_context((folder / "metrics.csv").open("w", newline=""))
    rows: list[csv.DictWriter[str]] = []

    def write(step: int, values: Mapping[str, float]) -> None:
        if not rows:
            rows.append(csv.DictWriter(file, ["step", *values]))
        rows[0].writerow({"step": step, **values})

    return write


def _pandas_csv(stack: ExitStack, folder: Path) -> Callable[[int, Mapping[str, float]], object]:
    pandas = importlib.import_module("pandas")
    file = stack.enter_context((folder / "metrics.csv").open("w", newline=""))

    def write(step: int, values: Mapping[str, float]) -> None:
        frame = pandas.DataFrame({"step": step, "tag": list(values), "value": list(values.values())})
        frame.to_csv(file, header=False, index=False)

    return write


def _arrow(stack: ExitStack, folder: Path) -> Write:
    """Return a table of the rows of all steps, as one file."""
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")

    def write(records: Sequence[Record], values: Sequence[Mapping[str, float]]) -> None:
        steps = zip(records, values, strict=True)
        rows = [(record.step, tag, value) for record, each in steps for tag, value in each.items()]
        step, tag, value = zip(*rows, strict=True)
        parquet.write_table(
            arrow.table({"step": step, "tag": tag, "value": value}), folder / "metrics.parquet"
        )

    return write


def _wandb_log(stack: ExitStack, folder: Path) -> Callable[[int, Mapping[str, float]], object]:
    wandb = importlib.import_module("wandb")
    settings = wandb.Settings(silent=True, console="off")
    run = wandb.init(project="own", dir=str(folder), mode="offline", settings=settings, reinit="create_new")
    stack.callback(run.finish)
    return lambda step, values: run.log(dict(values), step=step)


def _mlflow(folder: Path) -> Any:
    """Return sowlog's writer to a store in SQLite, which all of them share: its tables take seconds."""
    store = f"sqlite:///{folder.parent}/mlflow.db"
    return writers.Mlflow(store, experiment="bench", run=folder.name)


def _mlflow_client(folder: Path) -> tuple[Any, str]:
    client = importlib.import_module("mlflow").MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    known = client.get_experiment_by_name("own")
    number = client.create_experiment("own", str(folder.parent)) if known is None else known.experiment_id
    return client, client.create_run(number).info.run_id


def _log_metrics(stack: ExitStack, folder: Path) -> Callable[[int, Mapping[str, float]], object]:
    mlflow = importlib.import_module("mlflow")
    client, run = _mlflow_client(folder)
    mlflow.set_tracking_uri(client.tracking_uri)
    return lambda step, values: mlflow.log_metrics(dict(values), step=step, run_id=run)


def _log_batch(stack: ExitStack, folder: Path) -> Write:
    entities = importlib.import_module("mlflow.entities")
    client, run = _mlflow_client(folder)

    def write(records: Sequence[Record], values: Sequence[Mapping[str, float]]) -> None:
        metrics = (
            entities.Metric(tag, value, round(1000 * record.wall_time), record.step)
            for record, each in zip(records, values, strict=True)
            for tag, value in each.items()
        )
        while batch := list(itertools.islice(metrics, 1000)):
            client.log_batch(run, metrics=batch)

    return write


def _gauges(stack: ExitStack, folder: Path) -> Callable[[int, Mapping[str, float]], object]:
    client = importlib.import_module("prometheus_client")
    gauge = client.Gauge("value", "The last value of a tag.", ["tag"], registry=client.CollectorRegistry())

    def write(step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            gauge.labels(tag).set(value)

    return write


def _collector(stack: ExitStack) -> str:
    """Return the address of a server in a process of its own, whose CPU is not counted."""
    command = [sys.executable, "-c", _DISCARD]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.kill)
    assert process.stdout is not None
    return f"http://127.0.0.1:{process.stdout.readline().strip()}"


def _otlp(stack: ExitStack, folder: Path) -> Write:
    url = _collector(stack)
    return _in_batches(lambda _: writers.OpenTelemetry("bench", endpoint=url))(stack, folder)


def _otlp_sdk(stack: ExitStack, folder: Path) -> Callable[[int, Mapping[str, float]], object]:
    export = importlib.import_module("opentelemetry.exporter.otlp.proto.http.metric_exporter")
    metrics = importlib.import_module("opentelemetry.sdk.metrics")
    reading = importlib.import_module("opentelemetry.sdk.metrics.export")
    exporter = export.OTLPMetricExporter(f"{_collector(stack)}/v1/metrics")
    reader = reading.PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
    provider = metrics.MeterProvider([reader])
    stack.callback(provider.shutdown)
    gauge = provider.get_meter("bench").create_gauge("value")

    def write(step: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            gauge.set(value, {"tag": tag})
        provider.force_flush()

    return write


SINKS = (
    Sink(
        Candidate("TensorBoard", _ours(writers.TensorBoard)),
        (Candidate("a packed tensorboardX event", _theirs(_packed_event)),),
    ),
    Sink(
        Candidate("JsonLines", _ours(writers.JsonLines)),
        (Candidate("json.dumps of a step", _theirs(_json_dumps)),),
    ),
    Sink(
        Candidate("Csv", _ours(writers.Csv)),
        (
            Candidate("csv.DictWriter, a wide row", _theirs(_dict_writer)),
            Candidate("pandas, to_csv of a step", _theirs(_pandas_csv), ("pandas",)),
        ),
    ),
    Sink(
        Candidate("Parquet, with a flush", _in_batches(writers.Parquet, flushes=True), ("pyarrow",)),
        (Candidate("pyarrow, write_table of all steps", _arrow, ("pyarrow",)),),
    ),
    Sink(Candidate("Console, to a file", _ours(lambda _: writers.Console(file=io.StringIO())))),
    Sink(
        Candidate("Prometheus", _ours(lambda _: writers.Prometheus(0)), ("prometheus_client",)),
        (Candidate("prometheus_client, gauges", _theirs(_gauges), ("prometheus_client",)),),
    ),
    Sink(
        Candidate("OpenTelemetry", _otlp, ("opentelemetry.proto",)),
        (
            Candidate(
                "OpenTelemetry's SDK, gauges",
                _theirs(_otlp_sdk),
                ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
            ),
        ),
        is_service=True,
    ),
    Sink(
        Candidate(
            "Wandb, offline",
            _ours(lambda folder: writers.Wandb("bench", run="bench", folder=folder, mode="offline")),
            ("wandb",),
        ),
        (Candidate("wandb.log, offline", _theirs(_wandb_log), ("wandb",)),),
        is_service=True,
    ),
    Sink(
        Candidate("Mlflow, to SQLite", _in_batches(_mlflow), ("mlflow", "sqlalchemy", "alembic")),
        (
            Candidate("mlflow.log_metrics", _theirs(_log_metrics), ("mlflow", "sqlalchemy", "alembic")),
            Candidate("MlflowClient.log_batch", _log_batch, ("mlflow", "sqlalchemy", "alembic")),
        ),
        is_service=True,
    ),
)


def measure_sinks(size: Size) -> list[Line]:
    """Measure the CPU time of all threads for a record, from its values on the host to the sink."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        folders = (folder / str(number) for number in itertools.count())
        return [
            line for count in size.counts for sink in SINKS for line in _measure(sink, count, size, folders)
        ]


def _measure(sink: Sink, count: int, size: Size, folders: Any) -> list[Line]:
    candidates = (sink.writer, *sink.clients)
    with ExitStack() as stack:
        runs: dict[str, Callable[[], float]] = {}
        for each in candidates:
            if not each.missing:
                folder = next(folders)
                folder.mkdir()
                runs[each.title] = _per_record(each.make(stack, folder), count, size)
        figures = interleave(runs, size.peer_rounds if sink.is_service else size.rounds)
    return [_line(each, sink.writer, count, figures) for each in candidates]


def _line(each: Candidate, ours: Candidate, count: int, figures: Mapping[str, list[float]]) -> Line:
    title = f"{count} a step: {each.title}"
    if each.missing:
        return Line(f"{title} (no {each.missing})")
    spread = spread_of(figures[each.title])
    if each is ours or ours.missing:
        return Line(title, spread, "us")
    return Line(title, spread, "us", paired_ratio(figures[each.title], figures[ours.title]), ours.title)


def _per_record(write: Write, count: int, size: Size) -> Callable[[], float]:
    """Return a function that measures the CPU microseconds of a record."""
    steps = max(1, min(size.records, 20_000 // count))
    tags = tuple(tags_of(count))
    columns = np.random.default_rng(0).standard_normal((steps, count)).astype(np.float32)
    values = [dict(zip(tags, column.tolist(), strict=True)) for column in columns]

    def measure() -> float:
        records = [
            Record(step, 1.5e9 + step, tags, column) for column, step in zip(columns, _numbers, strict=False)
        ]
        return cost_of(lambda: write(records, values)).cpu / steps * 1e6

    measure()
    return measure
