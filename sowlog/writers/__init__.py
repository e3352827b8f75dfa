"""Writers: where records go. Each is one short class behind write / flush / close.

| writer | place | kinds beside scalars | extra |
| --- | --- | --- | --- |
| `TensorBoard` | event files | all | |
| `JsonLines` | a line for each record, in `metrics.jsonl` | all | |
| `Csv` | a row for each scalar, in `metrics.csv` | | |
| `Parquet` | the same rows, in the folder `metrics.parquet` | | `sowlog[arrow]` |
| `Console` | a terminal, or lines to a pipe | | `sowlog[console]` |
| `Wandb` | a run of Weights & Biases | histograms, images, texts, hyperparameters | `sowlog[wandb]` |
| `Mlflow` | a run of MLflow | images, texts, hyperparameters | `sowlog[mlflow]` |
| `OpenTelemetry` | a collector, by OTLP over HTTP | | `sowlog[opentelemetry]` |
| `Prometheus` | the last values, at an HTTP endpoint | | `sowlog[prometheus]` |
| `Every` | another writer, each n-th step | | |
| `Spooled` | another writer, through a file and from a thread of its own | | |

`Logger(logdir)` writes to `TensorBoard` alone; several writers are a list, `Logger(logdir, writers=[...])`.
A failure or an outage of one does not reach the others. A writer that waits for a network belongs behind
`Spooled`. A relative path is that at which the writer was made. `resume_from=`, of those with files, is the
first step of a run that continues.

Example:
    >>> import sowlog, sowlog.testing
    >>> from sowlog.writers import Every
    >>> memory = sowlog.testing.MemoryWriter()
    >>> with sowlog.Logger("unused", writers=[Every(2, memory)]) as log:
    ...     for step in range(4):
    ...         log(step, {"loss": 1.0 / 2**step})
    >>> memory.records
    [<Record at step 0: loss=1>, <Record at step 2: loss=0.25>]
"""

from __future__ import annotations

from sowlog._events.folders import local_folder
from sowlog.writers.console import Console
from sowlog.writers.csv import Csv
from sowlog.writers.every import Every
from sowlog.writers.json_lines import JsonLines
from sowlog.writers.mlflow import Mlflow
from sowlog.writers.opentelemetry import OpenTelemetry
from sowlog.writers.parquet import Parquet
from sowlog.writers.prometheus import Prometheus
from sowlog.writers.protocol import BatchWriter, DeliveryError, StalledError, WarningWriter, Writer
from sowlog.writers.record import HParams, Record
from sowlog.writers.spooled import Spooled
from sowlog.writers.tensorboard import TensorBoard
from sowlog.writers.wandb import Wandb

__all__ = [
    "BatchWriter",
    "Console",
    "Csv",
    "DeliveryError",
    "Every",
    "HParams",
    "JsonLines",
    "Mlflow",
    "OpenTelemetry",
    "Parquet",
    "Prometheus",
    "Record",
    "Spooled",
    "StalledError",
    "TensorBoard",
    "Wandb",
    "WarningWriter",
    "Writer",
    "local_folder",
]
