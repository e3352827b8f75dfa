"""A collector of OpenTelemetry on loopback, which keeps the points that it receives."""

import contextlib
import http.server
import threading
from collections.abc import Iterator

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)


class Collector:
    """A server that can be stopped, and started again at its port.

    Attributes:
        requests: the decoded requests that were answered with 200.
        headers: the headers of the last request, by names in lower case.
        path: its path.
        status: the status of the next answers.
        answer: their body.
        kind: its type.
        location: the address that it names, or an empty text.
    """

    def __init__(self):
        self.requests = []
        self.headers = {}
        self.path = ""
        self.status = 200
        self.location = ""
        self.kind = "application/x-protobuf"
        self.answer = ExportMetricsServiceResponse().SerializeToString()
        with self.running() as port:
            self.port = port

    @property
    def url(self):
        """The address without a path."""
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """Run the server, at the port that it had."""
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                """Keep the points of a request."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.path = self.path
                collector.headers = {name.lower(): value for name, value in self.headers.items()}
                if collector.status == 200:
                    collector.requests.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(collector.status)
                self.send_header("Content-Length", str(len(collector.answer)))
                self.send_header("Content-Type", collector.kind)
                if collector.location:
                    self.send_header("Location", collector.location)
                self.end_headers()
                self.wfile.write(collector.answer)

            def do_GET(self):
                """Answer as a page does, which takes no points."""
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                """Write nothing to standard error."""

        with http.server.HTTPServer(("127.0.0.1", getattr(self, "port", 0)), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield server.server_port
            finally:
                server.shutdown()
                thread.join()

    def points(self, name):
        """Return time, attribute and value of each point of a gauge, in the order of arrival."""
        return [
            (
                point.time_unix_nano,
                point.attributes[0].value.string_value,
                getattr(point, point.WhichOneof("value")),
            )
            for request in self.requests
            for metric in request.resource_metrics[0].scope_metrics[0].metrics
            if metric.name == name
            for point in metric.gauge.data_points
        ]
