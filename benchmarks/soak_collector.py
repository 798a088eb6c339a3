"""A stand-in for an OpenTelemetry collector that falls ill, in a process of its own.

``soak.py`` starts it and tells it how to be: it takes what it is sent at once, or after seconds, or
never answers. It reads what comes as OTLP, and counts the spans.
"""

from __future__ import annotations

import asyncio
import gzip
import socket

import uvicorn
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

#: Seconds before it answers, by how it is.
MOODS = {"healthy": 0.0, "slow": 3.0, "hangs": 3600.0}


class Collector:
    """What it was sent, and how it answers."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.spans = 0
        self.exports = 0

    async def traces(self, request: Request) -> Response:
        sent = trace_service.ExportTraceServiceRequest.FromString(await _body(request))
        scopes = [scope for resource in sent.resource_spans for scope in resource.scope_spans]
        self.spans += sum(len(scope.spans) for scope in scopes)
        return await self._answer(trace_service.ExportTraceServiceResponse().SerializeToString())

    async def metrics(self, request: Request) -> Response:
        metrics_service.ExportMetricsServiceRequest.FromString(await _body(request))
        return await self._answer(
            metrics_service.ExportMetricsServiceResponse().SerializeToString()
        )

    async def _answer(self, content: bytes) -> Response:
        self.exports += 1
        await asyncio.sleep(self.delay)
        return Response(content, media_type="application/x-protobuf")

    async def mood(self, request: Request) -> Response:
        self.delay = MOODS[request.path_params["mood"]]
        return JSONResponse({"spans": self.spans, "exports": self.exports})


async def _body(request: Request) -> bytes:
    body = await request.body()
    return gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body


def main() -> None:
    """Print the address, and serve until the process is ended."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    collector = Collector()
    app = Starlette(
        routes=[
            Route("/v1/traces", collector.traces, methods=["POST"]),
            Route("/v1/metrics", collector.metrics, methods=["POST"]),
            Route("/moods/{mood}", collector.mood, methods=["POST"]),
        ]
    )
    config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=120)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
