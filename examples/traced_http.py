"""One trace from the caller, through the queue, over HTTP, to the server.

Worker functions call a server with httpx, which OpenTelemetry's instrumentation traces. Prints each
trace as a tree; with ``OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317`` it goes to Jaeger
instead. Needs penstock[otel] and opentelemetry-instrumentation-httpx.
"""

from __future__ import annotations

import asyncio
import math
import os

import httpx
import uvicorn
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import penstock
import penstock.telemetry

tracer = trace.get_tracer("traced_http")


async def price(request: Request) -> JSONResponse:
    """The server: goes on with the trace that the request brings along."""
    context = propagate.extract(request.headers)
    with tracer.start_as_current_span("look up", context, trace.SpanKind.SERVER):
        await asyncio.sleep(0.02)
        return JSONResponse({"price": len(request.path_params["item"])})


async def run(url: str) -> None:
    """The caller: puts three items, each under a span of its own."""
    async with httpx.AsyncClient(base_url=url) as client:

        async def fetch(item: str) -> None:
            (await client.get(f"/price/{item}")).raise_for_status()

        async with penstock.WorkQueue[str](maxsize=10, name="prices") as queue:
            await queue.process(fetch, num_workers=2)
            for item in ("sluice", "weir", "turbine"):
                with tracer.start_as_current_span(f"order {item}"):
                    await queue.put(item, timeout=math.inf)


def print_trees(spans: tuple[ReadableSpan, ...]) -> None:
    """Each span under its parent, with its kind and its milliseconds."""

    def show(parent: int | None, depth: int) -> None:
        for span in sorted(spans, key=lambda span: span.start_time or 0):
            if (span.parent.span_id if span.parent else None) == parent and span.context:
                took = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
                print(f"{'  ' * depth}{span.name}  [{span.kind.name.lower()}, {took:.1f} ms]")
                show(span.context.span_id, depth + 1)

    show(None, 0)


async def main() -> None:
    """Set up tracing, serve, call, and show the traces or say where they are."""
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = InMemorySpanExporter()
    if endpoint:
        penstock.telemetry.setup("traced-http")
    else:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
    HTTPXClientInstrumentor().instrument()

    app = Starlette(routes=[Route("/price/{item}", price)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    await run(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    server.should_exit = True
    await serving

    if endpoint:
        print(f"traces went to {endpoint}: look for service traced-http in Jaeger")
    else:
        print_trees(exporter.get_finished_spans())
        print("set OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 to see them in Jaeger instead")


if __name__ == "__main__":
    asyncio.run(main())
