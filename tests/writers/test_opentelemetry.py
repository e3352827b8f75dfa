import contextlib
import math
import socket
import sys
import threading

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

import sowlog
from sowlog.writers import OpenTelemetry, Record, Spooled, StalledError
from sowlog.writers import opentelemetry as private
from tests.support.collector import Collector


def record(step, values):
    """Return a record of a dict of scalars, at its own second."""
    return Record(step, 1e9 + step, tuple(values), np.array(list(values.values()), np.float32))


@pytest.fixture(autouse=True)
def own_settings(monkeypatch):
    """Leave out the settings and the proxy of this machine."""
    for name in ("ENDPOINT", "METRICS_ENDPOINT", "HEADERS", "METRICS_HEADERS"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def collector():
    """Return a collector that runs."""
    collector = Collector()
    with collector.running():
        yield collector


def test_a_collector_has_values_steps_and_times(collector):
    """Of training and of held-out data, with NaN and infinity, and the run as a resource."""
    writer = OpenTelemetry("first", endpoint=collector.url)
    with sowlog.Logger("unused", writers=[writer], on_nonfinite="ignore") as log:
        log(3, {"loss": 0.5, "grads": {"norm": math.inf}})
        log(2**62, {"eval": {"loss": math.nan}})
    values = collector.points("sowlog.value")
    assert [tag for _, tag, _ in values] == ["grads/norm", "loss", "eval/loss"]
    np.testing.assert_array_equal([value for *_, value in values], [math.inf, 0.5, math.nan])
    steps = collector.points("sowlog.step")
    assert [step[1:] for step in steps] == [("train", 3), ("eval", 2**62)]
    assert [time for time, *_ in steps] == sorted({time for time, *_ in values})
    resource = collector.requests[0].resource_metrics[0].resource.attributes
    assert {each.key: each.value.string_value for each in resource} == {
        "service.name": "sowlog",
        "service.instance.id": "first",
    }
    assert collector.headers["content-type"] == "application/x-protobuf"


def test_a_point_has_the_time_of_its_record(collector):
    """In nanoseconds, also of a record that waited."""
    writer = OpenTelemetry("first", endpoint=collector.url)
    writer.write(Record(0, 1700000000.25, ("x",), np.ones(1, np.float32)))
    assert collector.points("sowlog.value") == [(1700000000250000000, "x", 1.0)]


def test_many_records_are_few_requests(collector, monkeypatch):
    """None has more points than a collector takes, unless a record has; none is empty."""
    monkeypatch.setattr(private, "_POINTS", 5)
    writer = OpenTelemetry("first", endpoint=collector.url)
    sizes = [2, 2, 0, 2, 5, 9, 1]
    writer.write_all([record(step, {f"x{i}": i for i in range(size)}) for step, size in enumerate(sizes)])
    assert len(collector.points("sowlog.value")) == sum(sizes)
    assert [step for *_, step in collector.points("sowlog.step")] == [0, 1, 3, 4, 5, 6]
    assert len(collector.requests) == 5


def test_odd_tags_come_back(collector):
    """A lone surrogate, which UTF-8 lacks, as its code."""
    tags = ["a b", "Größe/損失", "\n", "\0", "x" * 10_000, "\udc80"]
    writer = OpenTelemetry("\udc80", endpoint=collector.url)
    writer.write(record(0, {tag: i for i, tag in enumerate(tags)}))
    assert [tag for _, tag, _ in collector.points("sowlog.value")] == [*tags[:-1], "\\udc80"]


def test_an_outage_behind_a_spool_loses_and_doubles_nothing(tmp_path):
    """The collector is stopped, and started again at its port."""
    collector = Collector()
    writer = OpenTelemetry("first", endpoint=collector.url)
    spooled = Spooled(writer, tmp_path / "a.spool", timeout=60)
    with collector.running():
        spooled.write(record(0, {"x": 0}))
        spooled.flush()
    spooled.write_all([record(step, {"x": step}) for step in range(1, 5)])
    spooled.flush()
    assert "OpenTelemetry stalls: " in str(spooled.take_warning())
    with collector.running():
        spooled.close()
    assert [value for *_, value in collector.points("sowlog.value")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_overloaded_collector_is_a_stall(collector, status):
    """By the rule of OTLP: the request is tried again."""
    writer = OpenTelemetry("first", endpoint=collector.url)
    collector.status = status
    with pytest.raises(StalledError, match=rf"/v1/metrics is overloaded: HTTP Error {status}"):
        writer.write(record(0, {"x": 1}))
    collector.status = 200
    writer.write(record(0, {"x": 1}))
    assert len(collector.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500])
def test_a_refusal_is_an_error(collector, status):
    """Another attempt would be refused as well."""
    collector.status = status
    with pytest.raises(RuntimeError, match=rf"/v1/metrics refuses the points: HTTP Error {status}"):
        OpenTelemetry("first", endpoint=collector.url).write(record(0, {"x": 1}))


def test_refused_points_and_other_servers_are_errors(collector):
    """A collector may take a part of a request; a server of another kind answers with a page."""
    writer = OpenTelemetry("first", endpoint=collector.url)
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = 2
    collector.answer = answer.SerializeToString()
    with pytest.raises(RuntimeError, match="refuses 2 points: it names no cause"):
        writer.write(record(0, {"x": 1}))
    answer.partial_success.error_message = "too old"
    collector.answer = answer.SerializeToString()
    with pytest.raises(RuntimeError, match="refuses 2 points: too old"):
        writer.write(record(0, {"x": 1}))
    collector.answer, collector.kind = b"<html>", "text/html"
    with pytest.raises(RuntimeError, match="is no collector of OTLP: it answers b'<html>', of text/html"):
        writer.write(record(0, {"x": 1}))


@pytest.mark.parametrize("answer", [b"\xff" * 5, b"\0", b"\x0a\x09"])
def test_an_answer_that_is_no_message_is_an_error(collector, answer):
    """Of the type of OTLP, but damaged: the points may be lost, and the text names the server."""
    collector.answer = answer
    with pytest.raises(RuntimeError, match=r"/v1/metrics is no collector of OTLP: it answers b'"):
        OpenTelemetry("first", endpoint=collector.url).write(record(0, {"x": 1}))


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"


@contextlib.contextmanager
def raw_server(head, piece, *, pause):
    """Run a server that repeats a piece, some thousand times; yield its URL and the number of bytes sent."""
    sent, stop = [0], threading.Event()

    def serve(listening):
        with listening.accept()[0] as connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(head)
            for _ in range(4096):
                connection.sendall(piece)
                sent[0] += len(piece)
                if stop.wait(pause):
                    return
            connection.shutdown(socket.SHUT_WR)
            # A close before the whole request has arrived would be a reset.
            while connection.recv(1 << 16):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", sent
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (HEAD + b"\r\n", b"\xff" * 65536),
        (HEAD + b"Content-Length: 1000000000000\r\n\r\n", b"\xff" * 65536),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"\xff" * 65536 + b"\r\n"),
    ],
)
def test_a_huge_answer_is_read_in_part(head, piece):
    """The connection ends after the first 64 KiB; the system has buffered some more."""
    with (
        raw_server(head, piece, pause=0) as (url, sent),
        pytest.raises(RuntimeError, match=r"is no collector of OTLP: it answers b'"),
    ):
        OpenTelemetry("first", endpoint=url).write(record(0, {"x": 1}))
    assert sent[0] < 1 << 26


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (HEAD + b"\r\n", b"\0"),
        (HEAD + b"Content-Length: 1000000\r\n\r\n", b"\0"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n\0\r\n"),
        (HEAD + b"X-A: ", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_an_answer_without_an_end_is_a_stall(head, piece):
    """A byte now and then does not prolong the timeout, which is that of the whole answer."""
    with raw_server(head, piece, pause=0.005) as (url, _):
        writer = OpenTelemetry("first", endpoint=url, timeout=0.1)
        with pytest.raises(StalledError, match="/v1/metrics does not answer: timed out"):
            writer.write(record(0, {"x": 1}))


@pytest.mark.parametrize(
    "answer", [HEAD + b"Content-Length: 9\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\n\0"]
)
def test_a_cut_answer_is_a_stall(answer):
    """It may be that of a collector that has ended, and is no receipt."""
    with (
        raw_server(answer, b"", pause=0) as (url, _),
        pytest.raises(StalledError, match="/v1/metrics does not answer: IncompleteRead"),
    ):
        OpenTelemetry("first", endpoint=url).write(record(0, {"x": 1}))


LONG = "begin\x1b[31m" + "x" * 30_000 + "end"
PARTIAL = ExportMetricsServiceResponse()
PARTIAL.partial_success.rejected_data_points = 2
PARTIAL.partial_success.error_message = LONG


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (HEAD + b"\r\n" + PARTIAL.SerializeToString(), "refuses 2 points"),
        (f"HTTP/1.1 400 {LONG}\r\n\r\n".encode(), "refuses the points"),
        (f"HTTP/1.1 503 {LONG}\r\n\r\n".encode(), "is overloaded"),
        (f"HTTP/1.1 302 Found\r\nLocation: /{LONG}\r\n\r\n".encode(), "and names /begin"),
        (f"HTTP/1.1 200 OK\r\nContent-Type: text/{LONG}\r\n\r\nabc".encode(), "is no collector"),
        (f"{LONG}\r\n\r\n".encode(), "does not answer"),
    ],
)
def test_a_text_of_the_collector_is_shortened(answer, message):
    """It may have 64 KiB, and control characters, which a terminal would obey."""
    with (
        raw_server(answer, b"", pause=0) as (url, _),
        pytest.raises((RuntimeError, StalledError), match=message) as caught,
    ):
        OpenTelemetry("first", endpoint=url).write(record(0, {"x": 1}))
    text = str(caught.value)
    assert "begin\\x1b[31mxx" in text
    assert "xx…xx" in text
    assert text.isprintable()
    assert len(text) < 600


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_error(collector, status):
    """By default, urllib asks the other address by GET, and the 200 of a page is no receipt."""
    collector.status, collector.location = status, "/login"
    with pytest.raises(RuntimeError, match=rf"refuses the points: HTTP Error {status}.*, and names /login: "):
        OpenTelemetry("first", endpoint=collector.url).write(record(0, {"x": 1}))


def test_the_address_and_the_headers_are_those_of_the_environment(collector, monkeypatch):
    """As all programs of OpenTelemetry take them; arguments come first."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{collector.url}/base/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc, x-a = b=c ,")
    OpenTelemetry("first").write(record(0, {"x": 1}))
    assert collector.path == "/base/v1/metrics"
    assert (collector.headers["authorization"], collector.headers["x-a"]) == ("Basic abc", "b=c")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{collector.url}/exact")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-a=d")
    OpenTelemetry("first").write(record(0, {"x": 1}))
    assert (collector.path, collector.headers["x-a"]) == ("/exact", "d")
    OpenTelemetry("first", endpoint=f"{collector.url}/", headers={"x-a": "e"}).write(record(0, {"x": 1}))
    assert (collector.path, collector.headers["x-a"]) == ("/v1/metrics", "e")
    OpenTelemetry("first", endpoint=f"{collector.url}?key=a").write(record(0, {"x": 1}))
    assert collector.path == "/v1/metrics?key=a"


def test_an_empty_variable_is_none(monkeypatch):
    """As OpenTelemetry has it: the default applies."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    assert OpenTelemetry("first")._url == "http://localhost:4318/v1/metrics"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"run": 3}, TypeError, "run of OpenTelemetry is 3, a int; it must be a str"),
        ({"service": " "}, ValueError, "service of OpenTelemetry is ' '; it must not be empty"),
        (
            {"endpoint": "localhost:4317"},
            ValueError,
            "it must be a URL of HTTP, such as http://localhost:4318",
        ),
        ({"endpoint": "http://"}, ValueError, "it must be a URL of HTTP"),
        ({"endpoint": "http://host:abc"}, ValueError, "is http://host:abc; it must be a URL of HTTP"),
        ({"endpoint": "http://host:99999"}, ValueError, "it must be a URL of HTTP"),
        ({"endpoint": "http://[::1"}, ValueError, "it must be a URL of HTTP"),
        ({"endpoint": "http://host/a b"}, ValueError, "it must be a URL of HTTP"),
        ({"endpoint": "http://host/é"}, ValueError, "it must be a URL of HTTP"),
        ({"endpoint": "http://me:secret@host:abc"}, ValueError, "OpenTelemetry is host:abc; it must"),
        ({"endpoint": "http://me:secret@host"}, ValueError, "a password in front of host, which urllib does"),
        ({"headers": {"x-a": "損"}}, ValueError, "the header 'x-a' of OpenTelemetry has no name, or a char"),
        ({"headers": {"x:a": "b"}}, ValueError, "the header 'x:a' of OpenTelemetry has no name, or a char"),
        ({"timeout": 0}, ValueError, "timeout of OpenTelemetry is 0, in which no collector answers"),
        (
            {"headers": {"x-a": "secret\r\nx-b: c"}},
            ValueError,
            "the header 'x-a' of OpenTelemetry has no name, or",
        ),
        ({"timeout": -1}, ValueError, "timeout is -1; it must be 0 seconds or more"),
    ],
)
def test_arguments_are_checked(options, error, message):
    """Before a connection is made."""
    with pytest.raises(error, match=message):
        OpenTelemetry(**{"run": "first", **options})


def test_without_the_messages_the_error_says_how_to_install_them(monkeypatch):
    """As other optional packages do."""
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.metrics.v1.metrics_pb2", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"needs the package of OTLP's messages, .* 'sowlog\[opentelemetry\]'"
    ):
        OpenTelemetry("first")
