"""Writers: where records go. Each is one short class behind write / flush / close.

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
