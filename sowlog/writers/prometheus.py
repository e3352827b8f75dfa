"""Prometheus: the last values of a run at an HTTP endpoint, for dashboards and alerts of a cluster."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from sowlog._extras import import_extra
from sowlog.writers._phase import phase_of
from sowlog.writers.record import Record


class Prometheus:
    """Serves the last values of a run at `http://127.0.0.1:PORT/metrics`, which Prometheus scrapes.

    The metrics are gauges: `sowlog_value`, the last value of each `tag`; `sowlog_step`, the last step of each
    `phase`; and `sowlog_time_seconds`, the time of its last record in seconds since the epoch. The phase is
    "eval" for a record whose scalars are all under `eval/`, else "train". Only scalars are served. The writer
    needs the client of Prometheus, `pip install 'sowlog[prometheus]'`.

    Args:
        port: the port; 0 takes one that is free.
        address: the address at which it listens; by default that of this machine alone.

    Raises:
        ModuleNotFoundError: The client of Prometheus is not installed.
        OSError: The port is in use, or may not be used.
        TypeError: `port` is not an integer.
        ValueError: `port` is out of range.

    Example:
        >>> import urllib.request, sowlog
        >>> from sowlog.writers import Prometheus
        >>> writer = Prometheus(port=0)
        >>> with sowlog.Logger("unused", writers=[writer]) as log:
        ...     log(7, {"loss": 0.5})
        ...     log.flush()
        ...     with urllib.request.urlopen(writer.url) as page:
        ...         lines = page.read().decode().splitlines()
        >>> [line for line in lines if line.startswith(("sowlog_value", "sowlog_step"))]
        ['sowlog_value{tag="loss"} 0.5', 'sowlog_step{phase="train"} 7.0']
    """

    def __init__(self, port: int = 9464, *, address: str = "127.0.0.1") -> None:
        client = _client()
        registry = client.CollectorRegistry()
        self._values = _Values(client.core)
        registry.register(self._values)
        try:
            self._server, thread = client.start_http_server(
                _check_port(port), addr=address, registry=registry
            )
        except OSError as error:
            raise _explain(error, port, address) from error
        self._address = address
        # A writer may be left without a close, as in a list whose next writer raises: its port is free then.
        self._end = weakref.finalize(self, _end, self._server, thread, os.getpid())
        self._end.atexit = False

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{self._address}:{self._server.server_port}/metrics"

    def write(self, record: Record) -> None:
        """Keep the scalars of a record."""
        if not record.tags:
            return
        self._values.put(record)

    def flush(self) -> None:
        """Do nothing: the next scrape has all values."""

    def close(self) -> None:
        """End the server."""
        self._end()


class _Values:
    """The last values by tag, and the last records by phase, of which a scrape makes metrics."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._values: dict[str, float] = {}
        self._last: dict[str, Record] = {}

    def put(self, record: Record) -> None:
        """Keep the scalars of a record."""
        with self._lock:
            self._values.update(zip(record.tags, record.values.tolist(), strict=True))
            self._last[phase_of(record.tags)] = record

    def collect(self) -> Iterator[Any]:
        """Yield the metrics; called by the client of Prometheus, at its start without values."""
        with self._lock:
            values, last = dict(self._values), dict(self._last)
        yield self._gauge("value", "The last value of a tag.", "tag", values)
        steps = {phase: float(record.step) for phase, record in last.items()}
        yield self._gauge("step", "The step of the last record.", "phase", steps)
        times = {phase: record.wall_time for phase, record in last.items()}
        yield self._gauge("time_seconds", "The time of the last record since the epoch.", "phase", times)

    def _gauge(self, name: str, text: str, label: str, values: dict[str, float]) -> Any:
        family = self._core.GaugeMetricFamily(f"sowlog_{name}", text, labels=[label])
        for key, value in values.items():
            # The page is UTF-8.
            family.add_metric([key.encode("utf-8", "backslashreplace").decode()], value)
        return family


def _end(server: Any, thread: threading.Thread, pid: int) -> None:
    """End the server of a process, and free its port."""
    # A forked child has no thread that would answer.
    if os.getpid() != pid:
        return
    if threading.current_thread() is thread:
        # Of a garbage collection there: the end of the server waits for that thread.
        threading.Thread(target=_end, args=(server, thread, pid)).start()
        return
    server.shutdown()
    server.server_close()
    thread.join()


def _check_port(port: Any) -> int:
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port of Prometheus is {port!r}, a {type(port).__name__}; it must be an integer.")
    if not 0 <= port < 1 << 16:
        raise ValueError(f"port of Prometheus is {port}; it must be from 0, for any free one, to 65535.")
    return port


def _explain(error: OSError, port: int, address: str) -> OSError:
    if error.errno == errno.EADDRINUSE:
        cause = "is in use: choose another one, Prometheus(port=...), or 0 for one that is free"
    else:
        cause = f"cannot be used ({error.strerror}): choose another port or address"
    return OSError(error.errno, f"port {port} of {address} {cause}")


def _client() -> Any:
    need = "writers.Prometheus needs the client of Prometheus"
    for name in ("prometheus_client.core", "prometheus_client"):
        client = import_extra(name, need, extra="prometheus", package="prometheus-client")
    return client
