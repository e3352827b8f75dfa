"""Writers that fail or wait when a test sets them to."""

import socket
import threading

from sowlog.testing import MemoryWriter
from sowlog.writers import StalledError


class FailingWriter:
    """Fails at the given steps, and keeps the others."""

    def __init__(self, *failing, flush_fails=False):
        self.failing = failing
        self.flush_fails = flush_fails
        self.steps = []

    def write(self, record):
        """Keep the step, or fail."""
        if record.step in self.failing:
            raise OSError(f"no disk at {record.step}")
        self.steps.append(record.step)

    def flush(self):
        """Raise if `flush_fails` is set."""
        if self.flush_fails:
            raise OSError("cannot sync")

    def close(self):
        """Do as flush does."""
        self.flush()


class GatedWriter(MemoryWriter):
    """Waits with each record until the gate is open."""

    def __init__(self):
        super().__init__()
        self.open = threading.Event()

    def write(self, record):
        """Wait, then keep it."""
        self.open.wait(10)
        super().write(record)


class StallingWriter(MemoryWriter):
    """A writer that stalls while `stalled` is set."""

    def __init__(self):
        super().__init__()
        self.stalled = False
        self.tries = 0

    def write(self, record):
        """Keep the record, or stall."""
        self.tries += 1
        if self.stalled:
            raise StalledError("the disk is full")
        super().write(record)

    @property
    def steps(self):
        """The steps of the kept records."""
        return [record.step for record in self.records]


class AtOnceWriter(StallingWriter):
    """A writer that takes batches, and keeps each batch."""

    def __init__(self):
        super().__init__()
        self.given = []
        self.failing = set()
        self.look = lambda: None
        self.seen = []

    def write(self, record):
        """Keep one record, or fail."""
        if record.step in self.failing:
            raise OSError(f"cannot write {record.step}")
        super().write(record)

    def write_all(self, records):
        """Keep all records of the batch, or none."""
        self.given.append(records)
        self.seen.append(self.look())
        if self.stalled:
            raise StalledError("the disk is full")
        if self.failing & {record.step for record in records}:
            raise OSError("cannot write one of them")
        for record in records:
            super().write(record)

    @property
    def sizes(self):
        """The size of each batch."""
        return [len(records) for records in self.given]


class ServerWriter(MemoryWriter):
    """Sends the step of each record to a `RecordServer`, and waits for its answer."""

    def __init__(self, port):
        super().__init__()
        self._port = port

    def write(self, record):
        """Send a step; stall while the server does not answer."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
                connection.sendall(f"{record.step}\n".encode())
                if connection.recv(2) != b"ok":
                    raise ConnectionError("the server has ended")
        except OSError as error:
            raise StalledError(f"no answer: {error}") from error
