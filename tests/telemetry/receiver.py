"""An OTLP receiver over gRPC or HTTP, to see what a collector would."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

from penstock._util.compat import Self

#: Seconds that a child process, or something to arrive, may take.
LIMIT = 60.0


@dataclass
class Received:
    """A span or a metric as it was on the wire, and where it came from."""

    data: Any
    resource: dict[str, Any]
    scope: str
    version: str
    schema_url: str

    @property
    def attributes(self) -> dict[str, Any]:
        """Of a span."""
        return plain(self.data.attributes)


class Receiver:
    """Listens on a free port of this machine while its ``with`` block lasts."""

    def __init__(self, protocol: str = "grpc") -> None:
        self.protocol = protocol
        self.headers: list[dict[str, str]] = []
        self._requests: list[Any] = []
        self._news = threading.Condition()
        self._serve = _serve_grpc if protocol == "grpc" else _serve_http

    def __enter__(self) -> Self:
        port, self._close = self._serve(self)
        self.endpoint = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close()

    def accept(self, request: Any, headers: Iterable[tuple[str, Any]]) -> None:
        """Keep what one export brought."""
        with self._news:
            self.headers.append({name.lower(): value for name, value in headers})
            self._requests.append(request)
            self._news.notify_all()

    def wait_for_metric(self, name: str) -> None:
        """Wait until the metric has arrived."""
        with self._news:
            assert self._news.wait_for(lambda: name in self.metrics, LIMIT), f"no {name} came"

    @property
    def spans(self) -> list[Received]:
        """All spans that arrived."""
        return list(self._received("spans"))

    @property
    def metrics(self) -> dict[str, Received]:
        """What arrived last of each metric, by name."""
        return {metric.data.name: metric for metric in self._received("metrics")}

    def _received(self, kind: str) -> Iterator[Received]:
        with self._news:
            requests = list(self._requests)
        for request in requests:
            for resource in getattr(request, f"resource_{kind}", ()):
                for scope in getattr(resource, f"scope_{kind}"):
                    for data in getattr(scope, kind):
                        yield Received(
                            data,
                            plain(resource.resource.attributes),
                            scope.scope.name,
                            scope.scope.version,
                            scope.schema_url,
                        )


def plain(attributes: Iterable[Any]) -> dict[str, Any]:
    """Attributes as they are on the wire, as a dict."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def _serve_grpc(receiver: Receiver) -> tuple[int, Any]:
    class Traces(trace_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
            receiver.accept(request, context.invocation_metadata())
            return trace_service.ExportTraceServiceResponse()

    class Metrics(metrics_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
            receiver.accept(request, context.invocation_metadata())
            return metrics_service.ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return port, lambda: server.stop(None).wait(LIMIT)


_PATHS = {
    "/v1/traces": (
        trace_service.ExportTraceServiceRequest,
        trace_service.ExportTraceServiceResponse,
    ),
    "/v1/metrics": (
        metrics_service.ExportMetricsServiceRequest,
        metrics_service.ExportMetricsServiceResponse,
    ),
}


def _serve_http(receiver: Receiver) -> tuple[int, Any]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path not in _PATHS:
                self.send_error(404)
                return
            request, response = _PATHS[self.path]
            receiver.accept(request.FromString(body), self.headers.items())
            answer = response().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join(LIMIT)

    return server.server_port, close


# Without what the machine that runs the tests has set up for itself.
_ENVIRONMENT = {
    **{
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OTEL_") and "proxy" not in name.lower()
    },
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
}


def start(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a Python of its own: its global providers are its own as well."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        env={**_ENVIRONMENT, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a Python of its own to its end."""
    child = start(*arguments, env=env)
    try:
        out, err = child.communicate(timeout=LIMIT)
    except BaseException:
        child.kill()
        child.communicate()
        raise
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


def script(text: str, *, env: Mapping[str, str] | None = None) -> str:
    """Run a script that must succeed without a word on stderr; what it printed."""
    done = run("-c", text, env=env)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
