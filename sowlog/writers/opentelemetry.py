"""OpenTelemetry: scalars as gauges, sent to a collector by OTLP over HTTP."""

from __future__ import annotations

import functools
import http.client
import importlib
import os
import re
import urllib.error
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from sowlog._extras import import_extra
from sowlog._printable import printable
from sowlog.writers._arguments import check_name, check_timeout
from sowlog.writers._bounded_http import BoundedHttp
from sowlog.writers._phase import phase_of
from sowlog.writers.protocol import StalledError
from sowlog.writers.record import Record

_FORM = {"Content-Type": "application/x-protobuf"}
_LOCAL, _PATH = "http://localhost:4318", "/v1/metrics"
# Points of a request: a collector takes 20 MiB by default, and a point has 60 bytes and its tag.
_POINTS = 10_000
# Tags whose attribute is cached.
_TAGS = 1 << 16
# Characters of a text of the collector in a message.
_TEXT = 300
# The answers after which OTLP has a client try again.
_RETRIED = (429, 502, 503, 504)
# RFC 9110, 5.6.2 and 5.5, in Latin-1.
_HEADER_NAME, _HEADER_VALUE = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII), re.compile("[\t -~\xa0-\xff]*")


class OpenTelemetry:
    """Sends the scalars of a run to a collector of OpenTelemetry, by OTLP over HTTP.

    The metrics are gauges: `sowlog.value` with the attribute `tag`, and `sowlog.step` with the attribute
    `phase`, "eval" of a record whose scalars are all under `eval/`, else "train". Their points have the time
    of the record. Their resource has `service.name`, and the run as `service.instance.id`. Other values than
    scalars have no place there.

    While the collector does not answer, or is overloaded (429, 502, 503, 504), `write` raises StalledError
    and the logger tries again; behind `Spooled` the records wait in a file, and nothing waits for the
    network. A point that is sent twice is the same by tag and time. It needs the messages of OTLP,
    `pip install 'sowlog[opentelemetry]'`, and not the SDK, whose metrics have the time of their export.

    Args:
        run: the name of the run.
        endpoint: the collector, as `http://localhost:4318`; `/v1/metrics` is appended if it has no path. By
            default the environment variable OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, or
            OTEL_EXPORTER_OTLP_ENDPOINT, or that of this machine.
        service: the name of the service.
        headers: headers of each request, as of a login; by default `name=value,name=value` of
            OTEL_EXPORTER_OTLP_METRICS_HEADERS or OTEL_EXPORTER_OTLP_HEADERS.
        timeout: seconds for the connection, for the request, and for the whole answer, of which the first 64
            KiB are read.

    Raises:
        ModuleNotFoundError: The messages of OTLP are not installed.
        TypeError: `run` or `service` is not a str, or `timeout` no number.
        ValueError: A name is empty, `endpoint` is no URL of HTTP or has a password, a header cannot be sent,
            or `timeout` is out of range.

    Example:
        >>> import tempfile, sowlog
        >>> from sowlog.writers import OpenTelemetry, Spooled, TensorBoard
        >>> logdir = tempfile.mkdtemp()
        >>> collector = OpenTelemetry("first", endpoint="http://localhost:4318")
        >>> writers = [TensorBoard(logdir), Spooled(collector, f"{logdir}/opentelemetry.spool")]
        >>> with sowlog.Logger(logdir, writers=writers) as log:
        ...     log
        <Logger to TensorBoard, Spooled, open>
    """

    def __init__(
        self,
        run: str,
        *,
        endpoint: str | None = None,
        service: str = "sowlog",
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
    ) -> None:
        names = {
            "service.name": check_name("OpenTelemetry", "service", service),
            "service.instance.id": check_name("OpenTelemetry", "run", run),
        }
        self._url = _check_url(_default_url() if endpoint is None else _with_path(endpoint))
        self._headers = {**_check_headers(_default_headers() if headers is None else headers), **_FORM}
        if not check_timeout("timeout", timeout):
            raise ValueError("timeout of OpenTelemetry is 0, in which no collector answers: allow a second.")
        self._http = BoundedHttp(timeout)
        self._encoder = _Encoder(names)

    def write(self, record: Record) -> None:
        """Send the scalars of a record.

        Raises:
            RuntimeError: The collector refuses the points.
            StalledError: The collector does not answer, or is overloaded.
        """
        self.write_all([record])

    def write_all(self, records: Iterable[Record]) -> None:
        """Send the scalars of all records, in requests of some thousand points.

        Raises:
            RuntimeError: The collector refuses points.
            StalledError: The collector does not answer, or is overloaded, at some of the records.
        """
        for part in _parts(record for record in records if record.tags):
            self._send(self._encoder.request(part))

    def flush(self) -> None:
        """Do nothing: `write` returns once the collector has the points."""

    def close(self) -> None:
        """Do nothing: each request has a connection of its own."""

    def _send(self, message: bytes) -> None:
        try:
            body, kind = self._http.post(self._url, message, self._headers)
        except urllib.error.HTTPError as error:
            with error:
                answer = _shown(error)
                if error.code in _RETRIED:
                    raise StalledError(f"{self._url} is overloaded: {answer}") from error
                place = error.headers.get("Location")
                moved = (
                    f", and names {_shown(place)}: make that the endpoint, if it is the collector"
                    if place
                    else ""
                )
                raise RuntimeError(f"{self._url} refuses the points: {answer}{moved}.") from error
        except (OSError, http.client.HTTPException) as error:
            raise StalledError(f"{self._url} does not answer: {_shown(error)}") from error
        try:
            refusal = self._encoder.refusal(body, kind)
        except ValueError as error:
            raise RuntimeError(
                f"{self._url} is no collector of OTLP: it answers {body[:80]!r}, of {_shown(kind)}."
            ) from error
        if refusal:
            raise RuntimeError(f"{self._url} refuses {refusal}.")


def _shown(text: object) -> str:
    """Return a text of the collector, which may have 64 KiB."""
    return printable(str(text), most=_TEXT)


def _parts(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield the records in lists of so many points, or of one record."""
    part, points = list[Record](), 0
    for record in records:
        if part and points + len(record.tags) > _POINTS:
            yield part
            part, points = [], 0
        part.append(record)
        points += len(record.tags)
    if part:
        yield part


class _Encoder:
    """Encodes the requests of a run, and decodes their answers."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        self._metrics = _module("metrics.v1.metrics_pb2")
        self._service = _module("collector.metrics.v1.metrics_service_pb2")
        self._common = _module("common.v1.common_pb2")
        # A package that the messages need.
        self._error = importlib.import_module("google.protobuf.message").DecodeError
        self._resource = [self._attribute(name, value) for name, value in resource.items()]
        self._tags = functools.lru_cache(maxsize=_TAGS)(functools.partial(self._attribute, "tag"))

    def request(self, records: Iterable[Record]) -> bytes:
        """Return the request that sends the scalars of some records."""
        request = self._service.ExportMetricsServiceRequest()
        resource = request.resource_metrics.add()
        resource.resource.attributes.extend(self._resource)
        scope = resource.scope_metrics.add()
        scope.scope.name = "sowlog"
        gauges = (
            scope.metrics.add(name="sowlog.value", description="The value of a tag."),
            scope.metrics.add(name="sowlog.step", description="The step of a record.", unit="{step}"),
        )
        values, steps = (gauge.gauge.data_points for gauge in gauges)
        for record in records:
            # In nanoseconds, of which a float of today has some hundred.
            time = 1000 * round(1e6 * record.wall_time)
            for tag, value in zip(record.tags, record.values.tolist(), strict=True):
                values.add(time_unix_nano=time, as_double=value, attributes=(self._tags(tag),))
            phase = self._attribute("phase", phase_of(record.tags))
            steps.add(time_unix_nano=time, as_int=record.step, attributes=(phase,))
        return request.SerializeToString()

    def refusal(self, answer: bytes, kind: str) -> str:
        """Return a text about the points that an answer refuses, or an empty one.

        Raises:
            ValueError: The answer is no message of OTLP.
        """
        if answer and kind != _FORM["Content-Type"]:
            raise ValueError(f"its type is {kind}")
        try:
            part = self._service.ExportMetricsServiceResponse.FromString(answer).partial_success
        except self._error as error:
            raise ValueError(str(error)) from error
        if not part.rejected_data_points:
            return ""
        return f"{part.rejected_data_points} points: {_shown(part.error_message) or 'it names no cause'}"

    def _attribute(self, name: str, value: str) -> Any:
        # The text of protobuf is UTF-8.
        text = value.encode(errors="backslashreplace").decode()
        return self._common.KeyValue(key=name, value=self._common.AnyValue(string_value=text))


def _default_url() -> str:
    url = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    # By OTLP, the one of all signals is a base even if it has a path.
    return url or _below(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or _LOCAL)


def _with_path(endpoint: str) -> str:
    return endpoint if _split(endpoint).path.strip("/") else _below(endpoint)


def _below(endpoint: str) -> str:
    """Return the URL of metrics below a base, in front of the base's query."""
    parts = _split(endpoint)
    return parts._replace(path=parts.path.rstrip("/") + _PATH).geturl()


def _split(url: str) -> SplitResult:
    parts = _parsed(url)
    if parts is None or parts.scheme not in ("http", "https") or not re.fullmatch("[!-~]+", url):
        # No message has a password.
        shown = url.rpartition("@")[2]
        raise ValueError(
            f"endpoint of OpenTelemetry is {shown}; it must be a URL of HTTP, such as {_LOCAL}: a collector "
            f"receives OTLP over HTTP at port 4318, and gRPC, which this writer does not use, at 4317."
        )
    return parts


def _parsed(url: str) -> SplitResult | None:
    """Return the parts of a URL, or None if it names no host or no port that can be."""
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_whole else None


def _check_url(url: str) -> str:
    parts = _split(url)
    if "@" in parts.netloc:
        raise ValueError(
            f"endpoint of OpenTelemetry has a name or a password in front of {parts.hostname}, which urllib "
            f"does not send: pass them as a header, headers={{'Authorization': 'Basic ...'}}."
        )
    return url


def _default_headers() -> dict[str, str]:
    text = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_HEADERS") or os.environ.get(
        "OTEL_EXPORTER_OTLP_HEADERS"
    )
    pairs = (pair.partition("=") for pair in (text or "").split(",") if pair.strip())
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}


def _check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in headers.items():
        # A value may be a secret, so no message has it.
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(str(value)):
            raise ValueError(
                f"the header {name!r} of OpenTelemetry has no name, or a character that HTTP does not send, "
                f"such as a line end: remove it."
            )
    return headers


def _module(name: str) -> Any:
    """Import messages of OTLP, an optional dependency."""
    return import_extra(
        f"opentelemetry.proto.{name}",
        "writers.OpenTelemetry needs the package of OTLP's messages",
        extra="opentelemetry",
        package="opentelemetry-proto",
    )
