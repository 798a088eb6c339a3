"""Draw the trace of one item, from a real run.

    python docs/pictures/draw_trace.py docs/pictures/trace.svg

A request comes in, puts an item into a queue that is full just then, and is answered. The worker
calls a server by httpx, which is down at first, and so the item is tried again after a pause. What
OpenTelemetry has of that is drawn as it came. Needs penstock[otel] and
opentelemetry-instrumentation-httpx.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import httpx
import uvicorn
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import penstock

tracer = trace.get_tracer("draw_trace")
answered: set[str] = set()

LEFT, WIDTH, ROW = 310, 560, 26
COLOURS = {"put": "#3d6fb4", "backpressure": "#d29a2c", "process": "#3f8f5f", "other": "#8a8f98"}
FAILED = "#b8433f"
STYLE = "text{font:13px system-ui,sans-serif;fill:#333}.small{font-size:11px;fill:#666}"


async def price(request: Request) -> PlainTextResponse:
    """The server: down at the first call for each turbine."""
    item = request.path_params["item"]
    context = propagate.extract(request.headers)
    with tracer.start_as_current_span("look up", context, trace.SpanKind.SERVER):
        await asyncio.sleep(0.03)
        is_down = item == "turbine" and item not in answered
        answered.add(item)
        return PlainTextResponse("7", 503 if is_down else 200)


async def run(url: str) -> None:
    """The caller, whose last request is the one that is drawn."""
    policy = penstock.RetryPolicy(attempts=3, backoff=penstock.Backoff(base=0.05, jitter="none"))
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:

        async def fetch(item: str) -> None:
            (await client.get(f"/price/{item}")).raise_for_status()

        async with penstock.WorkQueue[str](maxsize=1, name="prices", retry=policy) as queue:
            await queue.process(fetch)
            for item in ("sluice", "weir", "turbine"):
                with tracer.start_as_current_span(
                    f"POST /orders/{item}", kind=trace.SpanKind.SERVER
                ):
                    await queue.put(item, timeout=1)


async def collect() -> list[ReadableSpan]:
    """Serve, call, and return the spans of one trace, in order."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    HTTPXClientInstrumentor().instrument()
    app = Starlette(routes=[Route("/price/{item}", price)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)
    await run(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    server.should_exit = True
    await serving
    spans = exporter.get_finished_spans()
    (request,) = [span for span in spans if span.name == "POST /orders/turbine"]
    wanted = ids(request)[0]
    return sorted(
        (span for span in spans if ids(span)[0] == wanted), key=lambda span: span.start_time or 0
    )


def ids(span: ReadableSpan) -> tuple[int, int]:
    """Of its trace, and its own."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def in_tree(spans: list[ReadableSpan]) -> list[tuple[int, ReadableSpan]]:
    """Each span after its parent, with its depth."""
    found: list[tuple[int, ReadableSpan]] = []

    def add(parent: int | None, depth: int) -> None:
        for span in spans:
            if (span.parent.span_id if span.parent else None) == parent:
                found.append((depth, span))
                add(ids(span)[1], depth + 1)

    add(None, 0)
    return found


def draw(spans: list[ReadableSpan]) -> str:
    """The trace as SVG: a line for each span, as trace viewers show it."""
    rows = in_tree(spans)
    began = min(span.start_time or 0 for span in spans)
    ended = max(span.end_time or 0 for span in spans)
    scale = WIDTH / (ended - began)
    height = ROW * len(rows) + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 90} {height}">',
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
    ]
    for number, (depth, span) in enumerate(rows):
        start, end = span.start_time or 0, span.end_time or 0
        x, y, tall = LEFT + (start - began) * scale, 12 + number * ROW, 14
        width = max(2.0, (end - start) * scale)
        failed = span.status.status_code is trace.StatusCode.ERROR
        colour = FAILED if failed else COLOURS.get(span.name.split()[0], COLOURS["other"])
        attributes = span.attributes or {}
        told = f"{(end - start) / 1e6:.1f} ms"
        if failed and "error.type" in attributes:
            told += f", {str(attributes['error.type']).rpartition('.')[2]}"
        attempt = attributes.get("penstock.attempt")
        name = span.name if attempt is None else f"{span.name} (attempt {attempt})"
        parts += [
            f'<text x="{12 + depth * 18}" y="{y + 15}">{escape(name)}</text>',
            f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="{tall}" fill="{colour}"/>',
            f'<text class="small" x="{x + width + 5:.1f}" y="{y + 15}">{escape(told)}</text>',
        ]
    total = (ended - began) / 1e6
    below = f"one trace, {total:.0f} ms: a request, its put, the wait for room, two attempts"
    parts.append(f'<text class="small" x="12" y="{height - 10}">{below}</text></svg>')
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(asyncio.run(collect())), encoding="utf-8")
