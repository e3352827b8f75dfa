"""Writers: where records go. Each is one short class behind write / flush / close."""

from __future__ import annotations

from sowlog._events.folders import local_folder
from sowlog.writers.every import Every
from sowlog.writers.protocol import BatchWriter, StalledError, WarningWriter, Writer

__all__ = ["BatchWriter", "Every", "StalledError", "WarningWriter", "Writer", "local_folder"]
