"""Writers: where records go. Each is one short class behind write / flush / close."""

from __future__ import annotations

from sowlog._events.folders import local_folder
from sowlog.writers.every import Every
from sowlog.writers.protocol import BatchWriter, StalledError, WarningWriter, Writer
from sowlog.writers.record import HParams, Record

__all__ = [
    "BatchWriter",
    "Every",
    "HParams",
    "Record",
    "StalledError",
    "WarningWriter",
    "Writer",
    "local_folder",
]
