"""A small OTLP/HTTP collector: a real server that decodes what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Receiver:
    """Keeps metrics and spans by name; answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.paths: list[str] = []
        self.metrics: dict[str, Any] = {}
        self.spans: list[Any] = []
        self.resource: dict[str, str] = {}
        self.before_answer: Callable[[], object] = lambda: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        if path.endswith("/v1/metrics"):
            for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self._take_resource(of_resource.resource)
                for of_scope in of_resource.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in of_scope.metrics}
        else:
            for spans_of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self._take_resource(spans_of_resource.resource)
                for spans_of_scope in spans_of_resource.scope_spans:
                    self.spans += spans_of_scope.spans

    def _take_resource(self, resource: Any) -> None:
        self.resource = attributes(resource)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.before_answer()
                if receiver.status == 200:
                    receiver.take(self.path, body)
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """A test's server does not print."""

        return Handler


def attributes(carrier: Any) -> dict[str, Any]:
    """The attributes of a decoded resource, point, span or link as plain values."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in carrier.attributes}
